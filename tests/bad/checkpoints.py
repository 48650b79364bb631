"""Checkpoint folders, configs and weights that cannot be loaded exactly, and places where none can be saved.

Most rows change one thing of a folder that loads: `of_omni` begins with the packaged tiny-av (a nested config, with
tokenizer and preprocessor), `of_salmonn` with the published layout (flat). Weights are links, as in the hub's cache.
"""

import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import hooked_av as av
from bad import Bad, Place
from hooked_av.families.checkpoint import INDEX, PACKAGED_FOLDER, SINGLE

OMNI = PACKAGED_FOLDER
SALMONN = Path(__file__).parent.parent / "data" / "salmonn2plus"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
EMBED = "model.embed_tokens.weight"
Change = Callable[[Path], object]


def linked(source: Path, change: Change, name: str = "folder") -> Callable[[Place], Path]:
    """A folder of links to the files of another, with one thing changed."""

    def make(at: Place) -> Path:
        folder = at.folder / name
        folder.mkdir()
        for path in source.iterdir():
            (folder / path.name).symlink_to(path)
        change(folder)
        return folder

    return make


def load(at: Place, folder: Any) -> object:
    return av.HookedAVTransformer.from_pretrained(folder)


def of_omni(name: str, change: Change, says: str) -> Bad:
    return Bad(name, load, says, linked(OMNI, change))


def of_salmonn(name: str, change: Change, says: str) -> Bad:
    return Bad(name, load, says, linked(SALMONN, change))


def write(name: str, content: bytes | str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def config(name: str = "config.json", **changes: Any) -> Change:
    """Changes of a JSON file; `a__b=` is `b` in the part `a`."""

    def change(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        for place, value in changes.items():
            *parts, last = place.split("__")
            part = found
            for inner in parts:
                part = part[inner]
            part[last] = value
        write(name, json.dumps(found))(folder)

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor] | None]) -> Change:
    def changed(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / SINGLE).items()}
        tensors = dict(change(tensors) or tensors)
        (folder / SINGLE).unlink()
        save_file(tensors, folder / SINGLE)

    return changed


def set_one(name: str, value: float) -> Change:
    def change(tensors):
        tensors[name].view(-1)[7] = value

    return weights(change)


def sharded(change: Callable[[dict[str, str], dict[str, dict[str, torch.Tensor]]], object]) -> Change:
    """Two shards and their index, with something changed in the map or in the tensors."""

    def changed(folder: Path) -> None:
        tensors = load_file(folder / SINGLE)
        (folder / SINGLE).unlink()
        names = sorted(tensors)
        halves = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
        shards = {shard: {name: tensors[name] for name in part} for shard, part in halves.items()}
        weight_map = {name: shard for shard, part in halves.items() for name in part}
        change(weight_map, shards)
        for shard, part in shards.items():
            save_file(part, folder / shard)
        write(INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}))(folder)

    return changed


def renamed(shard: str) -> Change:
    """The first shard under another name in the index, and a good file there."""

    def change(weight_map, shards):
        weight_map.update({name: shard for name in weight_map if name in shards["a.safetensors"]})

    return sharded(change)


def header(text: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def moved(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")


def a_folder_in_its_place(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


# --- settings that nobody here computes ----------------------------------------------------------------------------

NO = "asks for arithmetic that our"
TEXT_SETTINGS = {
    "residual_multiplier": 2.0,
    "attention_temperature": 2.0,
    "logit_scale": 0.5,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
    "query_pre_attn_scalar": 256,
    "embedding_multiplier": 12,
    "attention_bias": False,
    "mlp_bias": True,
    "use_sliding_window": True,
    "num_experts": 8,
    "use_qk_norm": True,
    "partial_rotary_factor": 0.5,
    "layer_scale_init": 1e-4,
    "skip_layer_mlp": [3],
    "mlp_scalars": {"3": 1.1},
    "per_layer_config": {"0": {"rms_norm_eps": 1}},
    "quantization_config": {"quant_method": "awq"},
    "is_decoder": True,
    "pruned_heads": {"0": [1]},
    "layer_types": ["sliding_attention"] * 8,
    "hidden_act": "gelu",
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 4, 4]}
ROPES = {
    "factor": 2.0,
    "mrope_interleaved": True,
    "attention_factor": 0.7,
    "partial_rotary_factor": 0.5,
    "beta_fast": 32,
    "full_attention": {"rope_type": "default"},
}
PARTS = {
    "vision_config__use_abs_pos": True,
    "vision_config__quantization_config": {"bits": 4},
    "vision_config__rope_parameters": {"rope_type": "axial", "rope_theta": 1e4, "factor": 2},
    "vision_config__deepstack_visual_indexes": [1],
    "audio_config__scale_embedding": True,
    "audio_config__n_window_infer": 800,
    "audio_config__conv_bias": False,
    "quantization_config": {"bits": 8},
    "logit_scale": 0.5,
    "audio_gate": 0.1,
}
FLAT = {
    "residual_multiplier": 2.0,
    "mlp_scalars": {"1": 1.1},
    "quantization_config": {"bits": 8},
    "logit_scale": 3.0,
    "audio_config__conformer": True,
    "audio_config__qformer_config__gate": 0.5,
    "vision_config__in_chans": 4,
    "audio_config__qformer_config__hidden_act": "relu",
    "audio_config__qformer_config__add_cross_attention": False,
    "audio_config__qformer_config__encoder_width": 31,
    "audio_config__scale_embedding": True,
}

SETTINGS = [
    *(
        of_omni(f"text config: {name}", config(**{f"text_config__{name}": value}), name)
        for name, value in TEXT_SETTINGS.items()
    ),
    *(
        of_omni(f"rope: {name}", config(text_config__rope_parameters={**ROPE, name: value}), name)
        for name, value in ROPES.items()
    ),
    *(of_omni(f"config: {name}", config(**{name: value}), name.split("__")[-1]) for name, value in PARTS.items()),
    *(
        of_salmonn(f"flat config: {name}", config(**{name: value}), name.split("__")[-1])
        for name, value in FLAT.items()
    ),
    of_omni(
        "rope: yarn",
        config(text_config__rope_parameters={**ROPE, "rope_type": "yarn", "factor": 2.0}),
        "rope_type: 'yarn'",
    ),
    Bad(
        "a setting of random_omni that nobody computes",
        lambda at, _: av.random_omni(2, residual_multiplier=2.0),
        "residual_multiplier",
    ),
    Bad(
        "a setting of random_salmonn that nobody computes",
        lambda at, _: av.random_salmonn(2, logit_scale=2.0),
        "logit_scale",
    ),
    of_omni(
        "a whole Omni folder that is quantised",
        lambda folder: write(
            "config.json",
            json.dumps(
                {
                    "model_type": "qwen2_5_omni",
                    "quantization_config": {"bits": 4},
                    "thinker_config": json.loads((folder / "config.json").read_text()),
                }
            ),
        )(folder),
        "quantization_config",
    ),
]

# --- numbers and words of config.json ------------------------------------------------------------------------------

NUMBERS: dict[str, tuple[Any, str]] = {
    "num_key_value_heads": (0, "n_key_value_heads: a whole number"),
    "num_attention_heads": (0, "n_heads: a whole number"),
    "num_hidden_layers": (0, "n_layers"),
    "hidden_size": (-128, "a whole number above 0"),
    "intermediate_size": (0, "d_mlp"),
    "vocab_size": (0, "d_vocab"),
    "rms_norm_eps": (0.0, "eps: a number above 0"),
    "head_dim": ("32", "config.json"),
    "max_position_embeddings": (-1, "n_ctx"),
}
WORDS: dict[str, Any] = {
    "text_config__num_hidden_layers": "8",
    "text_config__hidden_size": None,
    "text_config__vocab_size": 1.5,
    "text_config": [],
    "vision_config": "big",
    "audio_config__d_model": "128",
    "text_config__rope_parameters": "default",
    "vision_config__hidden_act": "unheard-of",
    "audio_config__activation_function": "unheard-of",
    "vision_config__num_heads": 0,
    "vision_config__patch_size": 0,
    "audio_config__encoder_attention_heads": 3,
    "audio_config__encoder_layers": "two",
    "audio_token_index": "three",
}
CONFIGS = [
    *(
        of_omni(f"{name} of {value!r}", config(**{f"text_config__{name}": value}), says)
        for name, (value, says) in NUMBERS.items()
    ),
    *(of_omni(f"{name} of {value!r}", config(**{name: value}), "config.json") for name, value in WORDS.items()),
    of_omni("minus one layer", config(text_config__num_hidden_layers=-1), "n_layers"),
    of_omni(
        "heads that do not divide", config(text_config__num_key_value_heads=3), "heads divide over key/value heads"
    ),
    of_omni(
        "sections that are too few",
        config(text_config__rope_parameters={**ROPE, "mrope_section": [16]}),
        "three whole numbers",
    ),
    of_omni(
        "sections of text",
        config(text_config__rope_parameters={**ROPE, "mrope_section": ["8", "4", "4"]}),
        "three whole numbers",
    ),
    of_omni(
        "an infinite base", config(text_config__rope_parameters={**ROPE, "rope_theta": float("inf")}), "rotary_base"
    ),
    of_omni("a base in words", config(text_config__rope_parameters={**ROPE, "rope_theta": "1e4"}), "rotary_base"),
    of_omni(
        "more layers than weights", config(text_config__num_hidden_layers=9, text_config__layer_types=None), "missing"
    ),
    of_omni("another model", config(model_type="llama"), "model_type llama"),
    of_omni("no model type", config(model_type=None), "no model family"),
    of_omni("a list as model type", config(model_type=["qwen2_5_omni"]), "cannot read config.json"),
    of_omni("architectures that are a number", config(architectures=7), "config.json"),
    of_salmonn("an audio config that is a list", config(audio_config=[1]), "config.json"),
    of_salmonn("a stride of nothing", config(audio_config__second_stride=0), "no windows"),
    of_salmonn(
        "a Q-Former without heads", config(audio_config__qformer_config__num_attention_heads=0), "heads of the Q-Former"
    ),
    of_salmonn(
        "a Q-Former of five heads", config(audio_config__qformer_config__num_attention_heads=5), "heads of the Q-Former"
    ),
    of_salmonn("a Q-Former without queries", config(audio_config__qformer_config__query_length=0), "no windows"),
    of_omni("a vision tower of three heads", config(vision_config__num_heads=3), "heads of the vision tower"),
    *(
        of_omni(f"config.json {name}", write("config.json", content), "cannot read config.json")
        for name, content in {
            "that is a list": "[]",
            "that is null": "null",
            "that is empty": "",
            "that is cut off": '{"model_type": "qwen2_5_omni',
            "in another encoding": '{"model_type": "é"}'.encode("utf-16"),
            "nested ten thousand deep": '{"a":' * 10_000 + "1" + "}" * 10_000,
            "with a name twice": '{"model_type": "qwen2_5_omni", "model_type": "qwen2_5_vl"}',
            "with a name twice, deep": '{"model_type": "qwen2_5_vl", "a": {"hidden_size": 1, "hidden_size": 2}}',
        }.items()
    ),
    of_omni("no config.json", lambda folder: (folder / "config.json").unlink(), "cannot read config.json"),
    of_omni("a folder called config.json", a_folder_in_its_place("config.json"), "cannot read config.json"),
]

# --- tokenizer, preprocessor, generation ---------------------------------------------------------------------------

GENERATION: dict[str, Any] = {
    "repetition_penalty": 0,
    "do_sample": "yes",
    "temperature": -1.0,
    "top_p": 2.0,
    "top_k": 1.5,
    "max_new_tokens": 0,
    "eos_token_id": "2",
    "pad_token_id": -1,
}
PROCESSORS = [
    of_omni(
        "a tokenizer that is cut off", write("tokenizer.json", (OMNI / "tokenizer.json").read_text()[:500]), "tokenizer"
    ),
    of_omni("a tokenizer without a model", write("tokenizer.json", "{}"), "tokenizer"),
    of_omni("a tokenizer config that is a list", write("tokenizer_config.json", "[]"), "tokenizer"),
    of_omni(
        "a tokenizer with code of its own",
        lambda folder: write(
            "tokenizer_config.json",
            json.dumps({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}),
        )(folder),
        "tokenizer",
    ),
    of_omni("a preprocessor that is cut off", write("preprocessor_config.json", "{"), "preprocessor_config.json"),
    of_omni("a preprocessor that is a list", write("preprocessor_config.json", "[]"), "preprocessor_config.json"),
    of_omni(
        "a preprocessor without frequencies",
        config("preprocessor_config.json", feature_size="many"),
        "preprocessor_config.json",
    ),
    of_omni("a generation config that is a list", write("generation_config.json", "[]"), "generation_config.json"),
    *(
        of_omni(f"generation: {name}", write("generation_config.json", json.dumps({name: value})), name)
        for name, value in GENERATION.items()
    ),
    of_omni(
        "generation: an infinite temperature",
        write("generation_config.json", '{"temperature": Infinity}'),
        "temperature",
    ),
]

# --- shards and their index ----------------------------------------------------------------------------------------

SHARDS = [
    of_salmonn(
        "a tensor in two shards",
        sharded(lambda m, s: s["b.safetensors"].update([next(iter(s["a.safetensors"].items()))])),
        "do not say the same",
    ),
    of_salmonn("an index with a shard outside", renamed("../evil.safetensors"), "does not say which shard"),
    of_salmonn("an index with an absolute path", renamed("/tmp/evil.safetensors"), "does not say which shard"),
    of_salmonn("an index with a folder", renamed("sub/evil.safetensors"), "does not say which shard"),
    of_salmonn("an index with a path of Windows", renamed("..\\evil.safetensors"), "does not say which shard"),
    of_salmonn("an index that names a pickle", renamed("pytorch_model.bin"), "does not say which shard"),
    of_salmonn("an index that names no file", renamed(""), "does not say which shard"),
    of_salmonn("an index that names the folder above", renamed(".."), "does not say which shard"),
    of_salmonn("an index that names a shard that is not there", renamed("c.safetensors"), "missing ['c.safetensors']"),
    of_salmonn(
        "an index that names the wrong shard",
        sharded(lambda m, s: m.update({sorted(m)[0]: "b.safetensors"})),
        "do not say the same",
    ),
    of_salmonn(
        "a tensor that the index does not name", sharded(lambda m, s: m.pop(sorted(m)[0])), "do not say the same"
    ),
    of_salmonn(
        "an index with a tensor that is nowhere",
        sharded(lambda m, s: s["a.safetensors"].pop(sorted(m)[0])),
        "do not say the same",
    ),
    *(
        of_salmonn(
            f"an index {name}",
            lambda folder, content=content: (
                (folder / SINGLE).rename(folder / "a.safetensors"),
                write(INDEX, content)(folder),
            ),
            says,
        )
        for name, (content, says) in {
            "without a map": ("{}", "does not say which shard"),
            "with a list as map": ('{"weight_map": []}', "does not say which shard"),
            "with an empty map": ('{"weight_map": {}}', "does not say which shard"),
            "that is null": ("null", "cannot read model.safetensors.index.json"),
            "with numbers for shards": ('{"weight_map": {"a": 7}}', "does not say which shard"),
            "with a tensor twice": ('{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}', "twice"),
            "with NUL in a name": ('{"weight_map": {"a": "a\\u0000.safetensors"}}', "does not say which shard"),
        }.items()
    ),
    of_salmonn("two checkpoints in one folder", lambda folder: write(INDEX, "{}")(folder), "two checkpoints"),
    of_salmonn(
        "one parameter under two names",
        weights(lambda t: {**t, f"model.language_model.{EMBED.removeprefix('model.')}": t[EMBED].clone()}),
        "two tensors for one parameter",
    ),
    of_salmonn("pickled weights only", moved, "pickled .bin weights are not read"),
    of_salmonn("no weights", lambda folder: (folder / SINGLE).unlink(), "no complete set"),
    of_salmonn("a folder called model.safetensors", a_folder_in_its_place(SINGLE), "no complete set"),
    of_salmonn(
        "a link to nothing",
        lambda folder: ((folder / SINGLE).unlink(), (folder / SINGLE).symlink_to("nowhere")),
        "no complete set",
    ),
    *(
        of_salmonn(f"a shard {name}", write(SINGLE, content), "cannot read model.safetensors")
        for name, content in {
            "of no bytes": b"",
            "of seven bytes": b"1234567",
            "of text": b"word " * 99,
            "with a header of garbage": header(b"\xff" * 64),
            "with a huge header": header(b"{}", 2**63),
            "with a header past the end": header(b"{}", 10_000),
            "with offsets out of range": header(
                b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,1600]}}', data=b"\0" * 16
            ),
            "with offsets backwards": header(
                b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}', data=b"\0" * 16
            ),
            "with an unknown dtype": header(
                b'{"a":{"dtype":"F13","shape":[4],"data_offsets":[0,16]}}', data=b"\0" * 16
            ),
            "that is a pickle": b"\x80\x04c__builtin__\neval\n",
        }.items()
    ),
    of_salmonn(
        "a shard that is cut off",
        write(SINGLE, (SALMONN / SINGLE).read_bytes()[:-100]),
        "cannot read model.safetensors",
    ),
    of_salmonn("an adapter's tensors", weights(lambda t: {**t, "base.lora_A.weight": torch.zeros(2)}), "LoRA adapter"),
]

# --- the numbers in them -------------------------------------------------------------------------------------------


def as_dtype(dtype: torch.dtype, only: str = "") -> Change:
    return weights(lambda tensors: {n: t.to(dtype) if only in n else t for n, t in tensors.items()})


WEIGHTS = [
    of_salmonn("NaN", set_one(Q_PROJ, float("nan")), f"{Q_PROJ} (NaN)"),
    of_salmonn("infinity", set_one(EMBED, float("inf")), f"{EMBED} (infinity)"),
    of_salmonn(
        "minus infinity in the sound branch", set_one("audio.q_tokens", float("-inf")), "audio.q_tokens (infinity)"
    ),
    Bad(
        "a cast that overflows",
        lambda at, folder: av.HookedAVTransformer.from_pretrained(folder, dtype=torch.float16),
        f"{Q_PROJ} (too large for torch.float16)",
        linked(SALMONN, set_one(Q_PROJ, 1e6)),
    ),
    *(
        of_salmonn(f"weights of {dtype}", as_dtype(dtype, Q_PROJ), f"{Q_PROJ}: ")
        for dtype in (torch.int8, torch.uint8, torch.bool, torch.int64, torch.float8_e4m3fn)
    ),
    of_salmonn("two dtypes in the decoder", as_dtype(torch.bfloat16, Q_PROJ), "pass dtype="),
    of_salmonn("two dtypes in the sound branch", as_dtype(torch.float16, "audio.q_tokens"), "pass dtype="),
    *(
        Bad(
            f"dtype={dtype}",
            lambda at, folder, dtype=dtype: av.HookedAVTransformer.from_pretrained(folder, dtype=dtype),
            f"dtype={dtype}",
            linked(SALMONN, lambda folder: None),
        )
        for dtype in (torch.int8, torch.complex64, torch.float8_e5m2)
    ),
]

# --- devices, names, ids -------------------------------------------------------------------------------------------


def on_device(device: str) -> Bad:
    return Bad(
        f"device {device!r}",
        lambda at, _: av.HookedAVTransformer.from_pretrained("tiny-av", device=device),
        "device",
    )


NAMES = {
    "a hub id of nobody": ("nobody/nothing", "unknown model"),
    "no hub id": ("not a valid id!", "unknown model"),
    "three parts": ("a/b/c", "unknown model"),
    "an empty name": ("", "cannot read config.json"),
    "a name of 300 letters": ("x" * 300, "cannot read the folder"),
    "a path of 300 letters": ("folder/" + "x" * 300, "unknown model"),
    "a lone surrogate": ("\ud800", "unknown model"),
    "NUL": ("a\0b", "unknown model"),
    "spaces": ("   ", "unknown model"),
    "a folder that is not there": ("/no/such/folder", "unknown model"),
    "dots": ("..model", "unknown model"),
    "a home that is not there": ("~nobody-here/model", "cannot read the folder"),
    "an address": ("https://huggingface.co/Qwen/Qwen2.5-Omni-3B", "unknown model"),
}


def offline(at: Place, name: Any) -> object:
    """No row here may ask the hub, whoever runs it."""
    import huggingface_hub.constants as constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        return av.HookedAVTransformer.from_pretrained(name)
    finally:
        constants.HF_HUB_OFFLINE = before


def locked(folder: Path) -> None:
    folder.chmod(0)


PLACES = [
    *(on_device(name) for name in ("cuda:99", "unheard-of", "meta", "cpu:x", "", "tpu")),
    *([] if torch.cuda.is_available() else [on_device("cuda")]),
    *(
        Bad(f"a model called {what}", lambda at, _, name=name: offline(at, name), says)
        for what, (name, says) in NAMES.items()
    ),
    Bad(
        "a file instead of a folder",
        load,
        "a file where a checkpoint folder",
        lambda at: Path(write("model.safetensors", b"x")(at.folder) or at.folder / "model.safetensors"),
    ),
    *(
        []
        if os.getuid() == 0
        else [of_omni("a folder without permission", locked, "cannot read the checkpoint folder")]
    ),
]

# --- models of transformers ----------------------------------------------------------------------------------------


def thinker(change: Callable[[Any], object]) -> Callable[[Place], Any]:
    def make(at: Place) -> Any:
        from support.thinkers import make_thinker

        made = make_thinker(n_layers=1)
        change(made)
        return made

    return make


def replaced(tensor: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], object]:
    def change(model: Any) -> None:
        norm = model.model.language_model.layers[0].mlp.up_proj
        norm.weight = torch.nn.Parameter(tensor(norm.weight.detach()), requires_grad=False)

    return change


def adopt(at: Place, model: Any) -> object:
    return av.HookedAVTransformer.from_hf(model)


ADOPTED = [
    Bad("adopted: a part on the meta device", adopt, "meta device", thinker(replaced(lambda t: t.to("meta")))),
    Bad("adopted: a sparse tensor", adopt, "sparse", thinker(replaced(lambda t: t.to_sparse()))),
    Bad("adopted: whole numbers", adopt, "torch.int8", thinker(replaced(lambda t: t.to(torch.int8)))),
    Bad("adopted: two dtypes", adopt, "torch.bfloat16", thinker(replaced(lambda t: t.bfloat16()))),
    Bad("adopted: NaN", adopt, "(NaN)", thinker(replaced(lambda t: t * float("nan")))),
    Bad("adopted: another shape", adopt, "mis-shaped", thinker(replaced(lambda t: t[:5]))),
    Bad(
        "adopted: wrapped layers",
        adopt,
        "missing",
        thinker(
            lambda m: (
                m.model.language_model.layers.append(torch.nn.Identity())
                and setattr(
                    m.model.language_model,
                    "layers",
                    torch.nn.ModuleList([torch.nn.Sequential(*m.model.language_model.layers)]),
                )
            )
        ),
    ),
    Bad(
        "adopted: no head",
        lambda at, model: av.HookedAVTransformer.from_hf(model.model),
        "this transformers model",
        thinker(lambda m: None),
    ),
    Bad(
        "adopted: other arithmetic",
        adopt,
        "residual_multiplier",
        thinker(lambda m: setattr(m.config.text_config, "residual_multiplier", 2.0)),
    ),
    Bad(
        "adopted: another model",
        adopt,
        "model_type",
        thinker(lambda m: setattr(m, "config", type("Config", (), {"model_type": "llama", "name_or_path": ""})())),
    ),
]

# --- where a model is saved ----------------------------------------------------------------------------------------


def save(at: Place, target: Any) -> object:
    return small().save_pretrained(target)


def small() -> Any:
    """A model of half a megabyte, so that a row costs little."""
    return av.HookedAVTransformer.from_pretrained(SALMONN)


def full_disk(at: Place, target: Any) -> object:
    """A write that breaks off half way, after some files are there."""
    model = small()

    def write_config(folder: Path, **_: Any) -> None:
        (folder / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    model.family.write_config = write_config
    return model.save_pretrained(target)


SAVED = [
    Bad(
        "saved onto a file",
        save,
        "cannot write",
        lambda at: write("model", b"x")(at.folder) or at.folder / "model",
    ),
    Bad(
        "saved below a file",
        save,
        "cannot write",
        lambda at: write("model", b"x")(at.folder) or at.folder / "model" / "deep",
    ),
    Bad("saved under 300 letters", save, "cannot write", lambda at: at.folder / ("x" * 300)),
    Bad(
        "saved deep under 300 letters",
        save,
        "cannot write",
        lambda at: at.folder / "deep" / "er" / ("x" * 300),
    ),
    Bad("saved under NUL", save, "cannot write", lambda at: at.folder / "a\0b"),
    Bad("saved under a lone surrogate", save, "cannot write", lambda at: at.folder / "\ud800"),
    Bad(
        "saved where a folder has a file's name",
        save,
        "cannot write",
        lambda at: (at.folder / "new" / "config.json").mkdir(parents=True) or at.folder / "new",
    ),
    Bad("saved below /proc", save, "cannot write", lambda at: "/proc/self/model"),
    Bad("saved on a full disk", full_disk, "No space left", lambda at: at.folder / "deep" / "new"),
    Bad("saved on a full disk over another", full_disk, "No space left", linked(SALMONN, lambda folder: None)),
    *(
        []
        if os.getuid() == 0
        else [
            Bad(
                "saved without permission",
                save,
                "cannot write",
                linked(SALMONN, lambda folder: folder.chmod(0o500)),
            )
        ]
    ),
]

ROWS: list[Bad] = [*SETTINGS, *CONFIGS, *PROCESSORS, *SHARDS, *WEIGHTS, *PLACES, *ADOPTED, *SAVED]
