"""Making a model from a checkpoint folder or from a loaded transformers model, and saving it again.

Numbers are never changed: tensors are adopted or read as they are stored.
"""

import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)

from hooked_av.config import DecoderConfig
from hooked_av.decoder.attention import Backend
from hooked_av.decoder.decoder import HookedDecoder
from hooked_av.devices import check_device
from hooked_av.errors import CheckpointError, HookedAVWarning, excerpt
from hooked_av.families.checkpoint import (
    INDEX,
    SINGLE,
    Checkpoint,
    HoldsParameters,
    check_dtypes,
    compare,
    find_checkpoint,
    load_weights,
    not_finite,
    refuse_not_finite,
    set_parameter,
    shard_files,
    tensor_names,
)
from hooked_av.families.family import Family
from hooked_av.families.omni.family import MODEL_TYPES as OMNI_MODEL_TYPES
from hooked_av.families.omni.family import OmniFamily
from hooked_av.families.qwen_vl.family import QwenVLFamily
from hooked_av.families.reading import read_json, reading
from hooked_av.families.salmonn.family import SalmonnFamily
from hooked_av.generation.defaults import GenerationDefaults
from hooked_av.whole_files import writing

logger = logging.getLogger(__name__)

HEAD = "decoder.unembed.weight"
FAMILY_OF_TYPE: dict[str, type[Family]] = {
    **dict.fromkeys(OMNI_MODEL_TYPES, OmniFamily),
    "qwen2_5_vl": QwenVLFamily,
}
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
_ADOPTED = (
    "a Qwen2_5OmniThinkerForConditionalGeneration or Qwen2_5_VLForConditionalGeneration, as transformers makes it"
)
_CONFIG_STEP = f"check the numbers in {CONFIG} against the released ones"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
SALMONN_IDS = "tsinghua-ee/video-SALMONN2_plus_3B_full, ..._7B_full or ..._72B_full"


@runtime_checkable
class Loadable(HoldsParameters, Protocol):
    """What is made here, as far as this module sees it: the hooked model, which imports this module."""

    decoder: HookedDecoder
    encoders: nn.ModuleDict
    family: Family
    generation_defaults: GenerationDefaults

    def setup(self) -> None: ...
    def eval(self) -> Any: ...


M = TypeVar("M", bound=Loadable)
Make = Callable[[DecoderConfig, Family, nn.ModuleDict, Backend], M]  # the model's class


def load(make: Make[M], folder_or_hub_id: str | Path, device: torch.device | str, dtype: torch.dtype | None) -> M:
    """A model from a checkpoint folder or hub id."""
    _check_place(device)
    checkpoint = find_checkpoint(folder_or_hub_id)
    folder = checkpoint.folder
    # Around all of it: a folder may be there that cannot be looked into.
    with reading(f"the checkpoint folder {folder.name}", expected="a folder with readable files"):
        _refuse_adapter(folder)
        raw = read_json(folder, CONFIG)
        with reading(CONFIG, expected="the config of a model that we know", next_step=_CONFIG_STEP):
            kind = _family_of(raw, f"{CONFIG} of {folder.name}")
            _warn_of_code(raw, folder.name)
            config = kind.read_config(raw)
            family = kind(config, *_processors(folder, kind, config))
        tied = _is_tied(checkpoint, family)
        with reading(CONFIG, expected=f"sizes of a {kind.architecture}", next_step=_CONFIG_STEP), torch.device("meta"):
            decoder_config = family.decoder_config(tied=tied, model_name=_short_name(folder_or_hub_id))
            model = make(decoder_config, family, family.make_encoders(), "sdpa")
        load_weights(model, checkpoint, kind.our_name, device, dtype)
        if tied:
            model.decoder.unembed.weight = model.decoder.embed.weight
        for encoder in model.encoders.values():
            _rebuild_buffers(encoder, torch.device(device))
        if (folder / GENERATION_CONFIG).is_file():
            model.generation_defaults = GenerationDefaults.from_dict(read_json(folder, GENERATION_CONFIG))
    return model


def _warn_of_code(raw: Mapping[str, Any], name: str) -> None:
    if raw.get("auto_map"):
        warnings.warn(
            f"{name} brings code of its own (auto_map in {CONFIG}). It is never run: the model computes what the "
            "released class does",
            HookedAVWarning,
            stacklevel=4,
        )


def _is_tied(checkpoint: Checkpoint, family: Family) -> bool:
    """Does the embedding serve as the head? What the files hold decides; a config that says otherwise is told."""
    folder = checkpoint.folder
    names = tensor_names(shard_files(checkpoint))
    if any(".lora_" in name for name in names):
        raise _adapter(folder.name, "LoRA tensors among the weights")
    tied = HEAD not in {family.our_name(name) for name in names}
    if tied and not family.hf_config.tie_word_embeddings:
        warnings.warn(
            f"{folder.name} holds no lm_head.weight: the embedding is used for it, though config.json does not say so",
            HookedAVWarning,
            stacklevel=4,
        )
    return tied


def adopt(
    make: Make[M],
    hf_model: Any,  # what is no model of ours is refused in our own words
    tokenizer: PreTrainedTokenizerFast | None,
    feature_extractor: WhisperFeatureExtractor | None,
) -> M:
    """A model around the tensors of a loaded transformers model."""
    with reading("this transformers model", expected=_ADOPTED, next_step="load it with its from_pretrained, or ours"):
        name = _short_name(hf_model.config.name_or_path or type(hf_model).__name__)
        hf_model = getattr(hf_model, "thinker", hf_model)
        kind = _adopted_family(hf_model)
        family = kind(hf_model.config, tokenizer, feature_extractor)
        named = {kind.our_name(name): tensor for name, tensor in hf_model.named_parameters(remove_duplicate=False)}
        tied = hf_model.lm_head.weight is hf_model.get_input_embeddings().weight
        encoders = {name: _submodule(hf_model, name) for name in kind.encoder_names}
        rotary = _submodule(hf_model, "rotary_emb").inv_freq
        with torch.device("meta"):
            # the encoders are transformers' own objects and come as they are
            cfg = family.decoder_config(tied=tied, model_name=name)
            model = make(cfg, family, nn.ModuleDict(), _backend(hf_model))
    _check_adopted(model, named)
    for name in [name for name, _ in model.named_parameters(remove_duplicate=False)]:
        set_parameter(model, name, named[name])
    model.encoders.update(encoders)
    model.eval()
    model.setup()
    said = getattr(hf_model, "generation_config", None)
    model.generation_defaults = GenerationDefaults.from_dict({} if said is None else said.to_diff_dict())
    _check_rotary(rotary, model)
    return model


def _check_adopted(model: Loadable, named: Mapping[str | None, torch.Tensor]) -> None:
    """Refuse tensors that a checkpoint's file could not hold: other names or shapes, no floats, no memory, NaN."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}
    decoder = {name: tensor for name, tensor in named.items() if name and name.startswith("decoder.")}
    compare(wanted, {name: (name, tuple(tensor.shape)) for name, tensor in decoder.items()})
    check_dtypes({str(name): (str(name), tensor.dtype) for name, tensor in named.items()})
    # A model that is on the meta device as a whole has sizes and no numbers; some are made for their sizes.
    absent = [name for name, tensor in named.items() if tensor.is_meta]
    absent = absent if len(absent) < len(named) else []
    odd = [f"{name}: {tensor.layout}" for name, tensor in named.items() if tensor.layout != torch.strided]
    if absent or odd:
        raise CheckpointError(
            "this transformers model does not hold its weights as plain tensors",
            expected="dense tensors with memory",
            got=excerpt(f"on the meta device: {absent}" if absent else "; ".join(odd)),
            next_step="load it whole (without device_map or offloading), or use from_pretrained",
        )
    refuse_not_finite([f"{name} ({why})" for name, tensor in named.items() if (why := not_finite(tensor))])


def save(model: Loadable, folder: Path) -> None:
    """Write config, safetensors, tokenizer and preprocessor, under the names that transformers reads.

    Files are written beside the folder and moved in when they are complete: a model read from this folder may still
    use the old files (their tensors are mapped, not copied), and a write that breaks off leaves the folder as it was.

    Errors: `CheckpointError` if it cannot be written.
    """
    with writing(folder, CheckpointError):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder.name} is a file")
        nearest = next(path for path in folder.absolute().parents if path.is_dir())
        with TemporaryDirectory(dir=nearest, prefix=".checkpoint-") as unfinished:
            _write(model, Path(unfinished))
            _make(folder)
            _move(Path(unfinished), folder)


def _write(model: Loadable, folder: Path) -> None:
    state: dict[str, torch.Tensor] = {
        model.family.checkpoint_name(name): tensor for name, tensor in model.named_parameters()
    }
    save_torch_state_dict(state, folder, metadata={"format": "pt"})
    for part in model.family.processors:
        part.save_pretrained(folder)
    model.family.write_config(folder, tied=model.decoder.cfg.tied)
    generation = model.generation_defaults.to_dict()
    if generation:
        text = json.dumps(generation, indent=2, sort_keys=True) + "\n"
        (folder / GENERATION_CONFIG).write_text(text, encoding="utf-8")


def _make(folder: Path) -> None:
    """Make a folder with its parents, or none of them."""
    absent = [path for path in (folder, *folder.parents) if not path.is_dir()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        for path in absent:
            with suppress(OSError):
                path.rmdir()
        raise


def _move(unfinished: Path, folder: Path) -> None:
    """Move complete files into their folder, over older ones; what else was a checkpoint there goes."""
    written = sorted(unfinished.iterdir())
    blocked = [path.name for path in written if (folder / path.name).is_dir()]
    if blocked or not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write, or folders in the place of files: {blocked}")
    for path in written:
        path.replace(folder / path.name)
    # shards and index of a checkpoint that stood here before would be read instead of the new ones
    for stale in {*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")}:
        if stale.name not in {path.name for path in written}:
            stale.unlink()


def _short_name(folder_or_hub_id: str | Path) -> str:
    """What results call the model: the hub id, or a folder's own name without its path."""
    folder = Path(folder_or_hub_id).expanduser()
    return folder.resolve().name if folder.is_dir() else str(folder_or_hub_id)


def _family_of(raw: Mapping[str, Any], where: str) -> type[Family]:
    model_type, classes = raw.get("model_type"), raw.get("architectures") or []
    if model_type == "video_salmonn_2" or "VideoSALMONN2ForCausalLM" in classes:
        raise CheckpointError(
            "the original video-SALMONN 2 is not supported: it has another vision tower (SigLIP), 1-D positions and "
            "deals its sound out evenly",
            expected="video-SALMONN 2+, its successor",
            got=where,
            next_step=f"load {SALMONN_IDS}",
        )
    if model_type not in FAMILY_OF_TYPE:
        raise CheckpointError(
            f"no model family for {where}",
            expected=f"model_type {', '.join(FAMILY_OF_TYPE)}",
            got=f"model_type {model_type}",
            next_step="load Qwen/Qwen2.5-Omni-3B, Qwen/Qwen2.5-Omni-7B, a video-SALMONN 2+ "
            "(tsinghua-ee/video-SALMONN2_plus_3B_full), or a folder that save_pretrained wrote",
        )
    # video-SALMONN 2+ has the model_type of Qwen2.5-VL: only the class that its config names tells them apart
    is_salmonn = SalmonnFamily.architecture in classes or (not classes and "audio_config" in raw)
    return SalmonnFamily if is_salmonn and model_type == "qwen2_5_vl" else FAMILY_OF_TYPE[model_type]


def _adopted_family(hf_model: Any) -> type[Family]:
    """The family of a loaded transformers model, which cannot be video-SALMONN 2+."""
    config = hf_model.config
    if SalmonnFamily.architecture in (getattr(config, "architectures", None) or []):
        raise CheckpointError(
            "transformers has no class for video-SALMONN 2+: this model lost its audio branch when it was loaded",
            expected="HookedAVTransformer.from_pretrained(folder or hub id)",
            got=type(hf_model).__name__,
            next_step="load the checkpoint with from_pretrained",
        )
    return _family_of({"model_type": getattr(config, "model_type", None)}, type(hf_model).__name__)


def _refuse_adapter(folder: Path) -> None:
    """A folder with adapter files and no weights of its own."""
    found = [name for name in ADAPTER_FILES if (folder / name).is_file()]
    if found and not any((folder / name).is_file() for name in (INDEX, SINGLE)):
        raise _adapter(folder.name, ", ".join(found))


def _adapter(where: str, got: str) -> CheckpointError:
    return CheckpointError(
        f"{where} is a LoRA adapter, not a model. One of video-SALMONN 2+ cannot be whole either: audio.q_tokens, the "
        "Q-Former's query, is a bare parameter that no adapter holds, and the value in its base is another one",
        expected="merged weights",
        got=got,
        next_step=f"load the merged model: {SALMONN_IDS}",
    )


def _processors(
    folder: Path, kind: type[Family], hf_config: PreTrainedConfig
) -> tuple[PreTrainedTokenizerFast | None, WhisperFeatureExtractor | None]:
    """Tokenizer and mel extractor of a folder; None for one whose files are not there (said, not guessed)."""
    tokenizer = None
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        with reading("the tokenizer's files", expected="a tokenizer of transformers, without code of its own"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    extractor = kind.read_extractor(folder, hf_config)
    for what, processor in (("tokenizer", tokenizer), *([("preprocessor", extractor)] if kind.hears else [])):
        if processor is None:
            warnings.warn(
                f"{folder} has no {what} files; model.prepare needs them, inputs_from_tensors does not",
                HookedAVWarning,
                stacklevel=4,
            )
    return tokenizer, extractor


def _backend(hf_model: PreTrainedModel) -> Backend:
    chosen = getattr(hf_model.config, "_attn_implementation", None) or "sdpa"
    if chosen not in ("sdpa", "eager"):
        logger.info("attention %s of the transformers model runs as sdpa here", chosen)
    return "eager" if chosen == "eager" else "sdpa"


def _rebuild_buffers(encoder: nn.Module, device: torch.device) -> None:
    """Tables that are computed, not stored (sinusoids, rotary frequencies), as transformers itself computes them."""
    for module in encoder.modules():
        tables = {name: table for name, table in module.named_buffers(recurse=False) if table.is_meta}
        for name, table in tables.items():
            module.register_buffer(name, torch.empty_like(table, device="cpu"), persistent=False)
        if tables:
            encoder._init_weights(module)  # type: ignore[operator]
            for name in tables:
                module.register_buffer(name, module.get_buffer(name).to(device), persistent=False)


def _submodule(hf_model: nn.Module, leaf: str) -> Any:
    """A part of the thinker: transformers moved them one level down in 5.21."""
    places = (f"model.language_model.{leaf}", f"model.{leaf}", leaf)
    return hf_model.get_submodule(next(place for place in places if place in dict(hf_model.named_modules())))


def _check_rotary(table: torch.Tensor, model: Loadable) -> None:
    if not table.is_meta and not torch.equal(table.float().cpu(), model.decoder.rotary.frequencies):
        warnings.warn(
            "the transformers model's rotary table was rounded (.to(bfloat16) does that); ours is exact, so logits "
            "will differ from that model. Load it with dtype= instead",
            HookedAVWarning,
            stacklevel=4,
        )


def _check_place(device: torch.device | str) -> None:
    check_device(device, CheckpointError)
    if torch.device(device).type == "meta":
        raise CheckpointError(
            "device meta cannot hold a model",
            expected="cpu, or an accelerator that torch finds (torch.cuda.is_available())",
            got="a device without memory",
            next_step='device="cpu"',
        )
