"""Loading never changes numbers: adopted tensors, every checkpoint layout, and errors with the whole list."""

import json
import shutil
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file, save_file
from support.thinkers import make_thinker, prompts, published_logits
from transformers import AutoTokenizer, Qwen2_5OmniThinkerConfig
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from hooked_av.config import DecoderConfig
from hooked_av.errors import CheckpointError, HookedAVWarning, InputsError
from hooked_av.model.random import TOKENIZER_FOLDER, mel_extractor, random_omni_config, released_omni_config
from hooked_av.model.transformer import HookedAVTransformer

TENSORS = prompts()["two clips"].tensors()
pytestmark = pytest.mark.filterwarnings("ignore:.*has no (tokenizer|preprocessor) files")


@pytest.fixture(scope="module")
def thinker():
    return make_thinker(n_kv=2)


@pytest.fixture
def folder(thinker, tmp_path):
    """A thinker folder as transformers writes it."""
    thinker.save_pretrained(tmp_path / "thinker")
    return tmp_path / "thinker"


def logits(model):
    with torch.no_grad():
        return model(model.inputs_from_tensors(**TENSORS))


def rewrite(folder: Path, change) -> None:
    """Change the tensors of a one-file checkpoint."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(change(tensors) or tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_from_hf_copies_no_tensor(thinker):
    model = HookedAVTransformer.from_hf(thinker)
    theirs = {parameter.data_ptr() for parameter in thinker.parameters()}
    ours = {parameter.data_ptr() for parameter in model.parameters()}
    assert ours == theirs
    assert all(any(module is tower for module in thinker.modules()) for tower in model.encoders.values())
    assert set(model.encoders) == {"audio_tower", "visual"}


def test_a_folder_of_transformers_loads_to_the_bit(folder, thinker):
    assert torch.equal(logits(HookedAVTransformer.from_pretrained(folder)), published_logits(thinker, TENSORS))


def test_a_model_knows_where_it_came_from(folder, thinker):
    model = HookedAVTransformer.from_pretrained(folder)
    assert model.cfg.model_name == "thinker", "the folder's name, not the machine's path"
    assert model.fingerprint() == HookedAVTransformer.from_hf(thinker).fingerprint()


def test_released_names_load_and_speech_output_is_skipped(folder, thinker):
    def release(tensors):
        renamed = {f"thinker.{name}": tensor for name, tensor in tensors.items()}
        return {**renamed, "talker.model.norm.weight": torch.zeros(3), "token2wav.dit.x": torch.zeros(3)}

    rewrite(folder, release)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": config}))
    assert torch.equal(logits(HookedAVTransformer.from_pretrained(folder)), published_logits(thinker, TENSORS))


def test_in_memory_names_of_transformers_load(folder, thinker):
    save_file({name: p.clone() for name, p in thinker.state_dict().items()}, folder / "model.safetensors")
    assert torch.equal(logits(HookedAVTransformer.from_pretrained(folder)), published_logits(thinker, TENSORS))


def test_shards_load(thinker, tmp_path):
    thinker.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert torch.equal(logits(HookedAVTransformer.from_pretrained(tmp_path)), published_logits(thinker, TENSORS))


def test_dtype_casts_like_transformers(folder):
    theirs = Thinker.from_pretrained(folder, dtype=torch.bfloat16)
    ours = HookedAVTransformer.from_pretrained(folder, dtype=torch.bfloat16)
    assert ours.cfg.dtype == torch.bfloat16
    assert torch.equal(logits(ours), published_logits(theirs, TENSORS))


def test_moving_to_bfloat16_never_rounds_the_rotary_table(folder, thinker):
    model = HookedAVTransformer.from_pretrained(folder)
    before = model.decoder.rotary.frequencies.clone()
    model.to(torch.bfloat16)
    assert torch.equal(model.decoder.rotary.frequencies, before)


def test_a_rounded_table_of_transformers_is_said(folder):
    with pytest.warns(HookedAVWarning, match="rotary table was rounded"):
        HookedAVTransformer.from_hf(Thinker.from_pretrained(folder).to(torch.bfloat16))
    with warnings.catch_warnings():
        warnings.simplefilter("error", HookedAVWarning)
        HookedAVTransformer.from_hf(Thinker.from_pretrained(folder, dtype=torch.bfloat16))


def test_a_head_that_is_not_stored_is_tied(folder):
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight") is None)
    with pytest.warns(HookedAVWarning, match=r"holds no lm_head\.weight"):
        model = HookedAVTransformer.from_pretrained(folder)
    assert model.cfg.tied
    assert model.unembed.weight is model.embed.weight
    assert logits(model).isfinite().all()


def test_save_pretrained_is_read_by_transformers_and_by_us(thinker, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)
    model = HookedAVTransformer.from_hf(thinker, tokenizer, mel_extractor())
    model.save_pretrained(tmp_path / "saved")
    theirs, info = Thinker.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]  # noqa: PT018
    with warnings.catch_warnings():
        warnings.simplefilter("error", HookedAVWarning)  # tokenizer and preprocessor are there
        ours = HookedAVTransformer.from_pretrained(tmp_path / "saved")
    expected = published_logits(thinker, TENSORS)
    assert torch.equal(published_logits(theirs, TENSORS), expected)
    assert torch.equal(logits(ours), expected)
    assert ours.to_tokens("Hello world").tolist() == [[9707, 1879]]
    assert ours.family.feature_extractor.feature_size == 128


def test_a_tied_model_is_saved_tied(folder, tmp_path):
    rewrite(folder, lambda tensors: tensors.pop("lm_head.weight") is None)
    model = HookedAVTransformer.from_pretrained(folder)
    model.save_pretrained(tmp_path / "tied")
    again, theirs = HookedAVTransformer.from_pretrained(tmp_path / "tied"), Thinker.from_pretrained(tmp_path / "tied")
    assert again.cfg.tied
    assert torch.equal(logits(again), logits(model))
    assert torch.equal(published_logits(theirs, TENSORS), logits(model))


def test_saving_over_the_folder_that_a_model_was_read_from_is_safe(folder, thinker):
    """Weights are mapped from the file: writing into it would pull them from under the model."""
    model = HookedAVTransformer.from_pretrained(folder)
    model.save_pretrained(folder)
    assert torch.equal(logits(model), published_logits(thinker, TENSORS))
    assert torch.equal(logits(HookedAVTransformer.from_pretrained(folder)), published_logits(thinker, TENSORS))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing unfinished is left"


def test_saving_over_a_sharded_checkpoint_leaves_nothing_of_it(thinker, tmp_path):
    """transformers' index would be read instead of the new file, and the edit be lost."""
    thinker.save_pretrained(tmp_path, max_shard_size="100KB")
    model = HookedAVTransformer.from_pretrained(tmp_path)
    with torch.no_grad():
        model.ln_final.weight.mul_(2)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(HookedAVTransformer.from_pretrained(tmp_path)), logits(model))
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="two checkpoints"):
        HookedAVTransformer.from_pretrained(tmp_path)


def test_moving_to_bfloat16_is_loading_in_bfloat16(folder):
    """The encoders' computed tables stay exact too."""
    loaded = HookedAVTransformer.from_pretrained(folder, dtype=torch.bfloat16)
    moved = HookedAVTransformer.from_pretrained(folder).to(torch.bfloat16)
    assert torch.equal(logits(moved), logits(loaded))
    assert moved.encoders["visual"].rotary_pos_emb.inv_freq.dtype == torch.float32


def test_a_model_without_tokenizer_says_so(folder):
    with pytest.warns(HookedAVWarning, match="no tokenizer files"):
        model = HookedAVTransformer.from_pretrained(folder)
    with pytest.raises(InputsError, match="loaded without a tokenizer"):
        model.prepare(question="Why?")


# --- wrong checkpoints ---


def damage(kind):
    def change(tensors):
        name = "model.layers.1.self_attn.q_proj.weight"
        if kind == "missing":
            del tensors[name], tensors["visual.merger.mlp.0.bias"]
        elif kind == "unexpected":
            tensors["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2)
            tensors["something.else"] = torch.zeros(2)
        else:
            tensors[name] = torch.zeros(5, 64)

    return change


@pytest.mark.parametrize(
    "kind, told",
    [
        ("missing", ["missing", "blocks.1.attn.q_proj.weight", "encoders.visual.merger.mlp.0.bias"]),
        ("unexpected", ["unexpected", "model.layers.7.mlp.up_proj.weight", "something.else"]),
        ("mis-shaped", ["mis-shaped", "q_proj.weight: expected [64, 64], got [5, 64]"]),
    ],
)
def test_wrong_tensors_raise_with_the_full_list(folder, kind, told):
    rewrite(folder, damage(kind))
    with pytest.raises(CheckpointError) as caught:
        HookedAVTransformer.from_pretrained(folder)
    assert all(text in str(caught.value) for text in told), str(caught.value)


def test_another_models_config_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(CheckpointError, match="model_type llama"):
        HookedAVTransformer.from_pretrained(folder)


def test_incomplete_folders_are_refused(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read config\.json"):
        HookedAVTransformer.from_pretrained(tmp_path / "empty")
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match=r"cannot read model\.safetensors"):
        HookedAVTransformer.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickled"):
        HookedAVTransformer.from_pretrained(folder)


def test_a_missing_shard_is_named(thinker, tmp_path):
    thinker.save_pretrained(tmp_path, max_shard_size="100KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(CheckpointError, match=lost.name):
        HookedAVTransformer.from_pretrained(tmp_path)


def test_an_unknown_model_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("no/such/folder/here", "not a valid id!", "someone/unknown-model"):
        with pytest.raises(CheckpointError, match="unknown model"):
            HookedAVTransformer.from_pretrained(name)


def test_a_hub_id_is_downloaded_and_read(folder, thinker, monkeypatch):
    """Everything but the network: the hub's own snapshot function is asked for the id, weights and tokenizer only."""
    asked = {}

    def snapshot(repo_id, allow_patterns):
        asked.update(id=repo_id, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    model = HookedAVTransformer.from_pretrained("Qwen/Qwen2.5-Omni-3B")
    assert asked["id"] == "Qwen/Qwen2.5-Omni-3B"
    assert "*.safetensors" in asked["patterns"] and "*.bin" not in asked["patterns"]  # noqa: PT018
    assert torch.equal(logits(model), published_logits(thinker, TENSORS))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "mrope_section": [2, 3, 3]}},
        {"final_logit_softcapping": 30.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_configs_with_other_arithmetic_are_refused(change):
    config = random_omni_config(num_hidden_layers=2, vocab_size=400, **change)
    with pytest.raises(CheckpointError, match="arithmetic that our decoder does not do"):
        DecoderConfig.from_hf(config.text_config, tied=False)


def test_other_transformers_models_are_refused():
    class Other:
        config = Qwen2_5OmniThinkerConfig()

    Other.config.model_type = "qwen3_omni"
    with pytest.raises(CheckpointError, match="model_type qwen3_omni"):
        HookedAVTransformer.from_hf(Other())


def test_numbers_that_do_not_fit_together_are_refused():
    with pytest.raises(CheckpointError, match="mrope_section"):
        DecoderConfig(2, 64, 4, 2, 16, 96, 300, mrope_section=(2, 3, 4))
    with pytest.raises(CheckpointError, match="divide"):
        DecoderConfig(2, 64, 4, 3, 16, 96, 300, mrope_section=(2, 3, 3))


# --- cost ---

PEAK = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import torch
from hooked_av import HookedAVTransformer
from hooked_av.model.random import random_omni
random_omni(n_layers=1)  # imports and allocators warm
def peak():  # of this process alone: getrusage's would begin at the parent's size
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
before = peak()
model = HookedAVTransformer.from_pretrained(sys.argv[1])
touched = sum(float(p.detach().sum()) for p in model.parameters())  # mapped pages count only once they are read
after = peak()
stored = sum(p.numel() * p.element_size() for p in model.parameters())
print((after - before) * 1024 / stored)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's peak memory")
def test_peak_memory_is_that_of_the_checkpoint(tmp_path):
    """Shard by shard: loading 1.5 GB takes at most 1.1 x 1.5 GB."""
    config = random_omni_config(num_hidden_layers=12, hidden_size=1024, intermediate_size=4096, num_attention_heads=8,
                                head_dim=128, rope_parameters={"rope_type": "default", "rope_theta": 1e6,
                                                               "mrope_section": [16, 24, 24]})  # fmt: skip
    Thinker(config).save_pretrained(tmp_path, max_shard_size="300MB")
    out = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path)
    ratio = float(out.stdout.split()[-1])
    assert 0.3 < ratio <= 1.1, ratio


def test_the_released_sizes_have_the_published_parameter_counts():
    """3B and 7B on the meta device: no memory, exact counts (the thinker of 7B: 17,863,627,776 bytes in bfloat16)."""
    for size, count in {"3b": 4_703_464_448, "7b": 8_931_813_888}.items():
        config = released_omni_config(size)
        with torch.device("meta"):
            model = HookedAVTransformer.from_hf(Thinker(config))
        assert sum(p.numel() for p in model.parameters()) == count


# --- links, and what is left after a save that broke off ---


def test_the_hubs_cache_of_links_loads(thinker, tmp_path):
    """snapshots/<commit>/<file> -> ../../blobs/<hash>, as huggingface_hub lays it out."""
    snapshot, blobs = tmp_path / "snapshots" / "commit", tmp_path / "blobs"
    thinker.save_pretrained(snapshot, max_shard_size="100KB")
    blobs.mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / f"hash{number}")
        path.symlink_to(Path("..", "..", "blobs", f"hash{number}"))
    assert torch.equal(logits(HookedAVTransformer.from_pretrained(snapshot)), published_logits(thinker, TENSORS))


@pytest.mark.parametrize("step", range(6))
def test_a_save_that_breaks_off_leaves_the_older_checkpoint(step, folder, thinker, tmp_path, monkeypatch):
    """Whichever of its writes fails: the model still loads from the folder, to the bit, and nothing is left over."""
    model = HookedAVTransformer.from_pretrained(folder)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    left = [step]

    def broken(real):
        def write(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return real(*arguments, **named)

        return write

    for name in ("write_text", "mkdir", "replace"):
        monkeypatch.setattr(Path, name, broken(getattr(Path, name)))
    monkeypatch.setattr("hooked_av.model.loading.save_torch_state_dict", broken(save_torch_state_dict))
    with suppress(CheckpointError):  # with many steps to go it gets through
        model.save_pretrained(folder)
    monkeypatch.undo()
    assert torch.equal(logits(HookedAVTransformer.from_pretrained(folder)), published_logits(thinker, TENSORS))
    if step < 2:
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_saved_model_that_learned_nan_is_refused_when_it_is_loaded(folder):
    model = HookedAVTransformer.from_pretrained(folder)
    with torch.no_grad():
        model.ln_final.weight[3] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"1 tensors: model\.norm\.weight \(NaN\)"):
        HookedAVTransformer.from_pretrained(folder)


def test_other_kernels_of_attention_are_told_and_run_as_sdpa(caplog):
    thinker = make_thinker(n_kv=2)
    thinker.config._attn_implementation = "flex_attention"
    with caplog.at_level("INFO", logger="hooked_av"):
        model = HookedAVTransformer.from_hf(thinker)
    assert "attention flex_attention of the transformers model runs as sdpa here" in caplog.text
    assert model.attn_implementation == "sdpa"
