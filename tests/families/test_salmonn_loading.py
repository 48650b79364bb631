"""Checkpoint folders of video-SALMONN 2+: which load and what they give, which are refused; sizes of the config."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.salmonn import AUDIO, FOLDER, cases, distance, load_folder

from hooked_av.errors import CheckpointError, HookedAVWarning, InputsError
from hooked_av.families.qwen_vl.family import QwenVLFamily
from hooked_av.families.salmonn.family import SalmonnFamily, flat_config
from hooked_av.generation.defaults import GenerationDefaults
from hooked_av.model.transformer import HookedAVTransformer

CASES = cases()
MODEL = load_folder()
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*has no (tokenizer|preprocessor) files"),
]


# --- loading -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(FOLDER, tmp_path / "salmonn", ignore=lambda *_: ["cases.safetensors", "outputs.safetensors"])


def logits_of(model):
    with torch.no_grad():
        return model(CASES["av_train"].inputs(model))


EXPECTED = logits_of(MODEL)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t.clone() for name, t in change(tensors).items()}, folder / "model.safetensors")


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_2plus_folder_is_told_from_plain_qwen_by_its_class(folder):
    assert isinstance(load_folder(folder).family, SalmonnFamily)
    configure(folder, architectures=["Qwen2_5_VLForConditionalGeneration"])
    rewrite(folder, lambda tensors: {n: t for n, t in tensors.items() if not n.startswith("audio.")})
    plain = load_folder(folder)
    assert type(plain.family) is QwenVLFamily
    assert set(plain.encoders) == {"visual"}
    with pytest.raises(InputsError, match=r"unknown.*audio_feature"):
        CASES["audio_train"].inputs(plain, positions="train")


def test_audio_weights_in_a_plain_qwen_folder_are_not_ignored(folder):
    configure(folder, architectures=["Qwen2_5_VLForConditionalGeneration"])
    with pytest.raises(CheckpointError, match=r"unexpected(.|\n)*audio\.q_tokens"):
        load_folder(folder)


def test_a_head_that_is_not_stored_is_tied_without_a_word(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", HookedAVWarning)
        warnings.filterwarnings("ignore", ".*has no tokenizer files")
        model = HookedAVTransformer.from_pretrained(folder)
    assert model.cfg.tied
    assert model.unembed.weight is model.embed.weight


def test_a_stored_head_is_used_whatever_the_config_says(folder):
    """7B and 72B have a head of their own."""
    head = torch.randn(320, 64, generator=torch.Generator().manual_seed(0))
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": head})
    model = load_folder(folder)
    assert not model.cfg.tied
    assert torch.equal(model.unembed.weight, head)


def test_in_memory_names_and_the_ignored_buffer_load(folder):
    def moved(tensors):
        deeper = {
            name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name: tensor
            for name, tensor in tensors.items()
        }
        deeper = {f"model.{n}" if n.startswith("visual.") else n: t for n, t in deeper.items()}
        return deeper | {"audio.qformer.bert.embeddings.position_ids": torch.arange(512)[None]}

    rewrite(folder, moved)
    assert torch.equal(logits_of(load_folder(folder)), EXPECTED)


def test_a_nested_config_loads_too(folder):
    """As modern transformers would write it: text_config and rope_parameters."""
    nested = MODEL.family.hf_config.to_dict()
    (folder / "config.json").write_text(json.dumps(nested))
    assert "rope_theta" not in nested
    assert torch.equal(logits_of(load_folder(folder)), EXPECTED)


def test_what_is_saved_is_the_published_layout(folder, tmp_path):
    model = load_folder(folder)
    model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    published = json.loads((folder / "config.json").read_text())
    for name in ("model_type", "architectures", "hidden_size", "rope_theta", "rope_scaling", "audio_config",
                 "rms_norm_eps", "audio_token_id", "vision_start_token_id", "tie_word_embeddings",
                 "num_key_value_heads"):  # fmt: skip
        assert saved[name] == published[name], name
    assert "text_config" not in saved
    for name in ("depth", "hidden_size", "fullatt_block_indexes", "window_size", "model_type", "tokens_per_second"):
        assert saved["vision_config"][name] == published["vision_config"][name]
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(load_file(folder / "model.safetensors"))
    again = load_folder(tmp_path / "saved")
    assert torch.equal(logits_of(again), EXPECTED)
    assert flat_config(again.family.hf_config) == flat_config(model.family.hf_config)


def test_bfloat16_loads_in_bfloat16(folder):
    model = load_folder(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    loaded = logits_of(model)
    assert torch.equal(logits_of(load_folder(folder).to(torch.bfloat16)), loaded)
    assert distance(loaded.float(), EXPECTED) < 0.1


def test_missing_audio_weights_raise_with_the_full_list(folder):
    rewrite(folder, lambda tensors: {n: t for n, t in tensors.items() if "audio_proj" not in n and "q_tokens" not in n})
    with pytest.raises(CheckpointError, match=r"missing(.|\n)*encoders\.audio\.audio_proj\.bias(.|\n)*q_tokens"):
        load_folder(folder)


@pytest.mark.parametrize("kind", ["adapter files", "lora keys"])
def test_an_adapter_is_refused_with_the_reason_and_the_id_to_use(folder, kind):
    if kind == "adapter files":
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}")
        (folder / "config.json").unlink()
    else:
        lora = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        rewrite(folder, lambda tensors: tensors | {lora: torch.zeros(2, 2)})
    with pytest.raises(CheckpointError) as caught:
        load_folder(folder)
    told = str(caught.value)
    assert "LoRA adapter" in told
    assert "audio.q_tokens" in told
    assert "tsinghua-ee/video-SALMONN2_plus_3B_full" in told


def test_the_original_video_salmonn_2_is_refused_by_name(folder):
    for changes in (
        {"model_type": "video_salmonn_2"},
        {"model_type": "x", "architectures": ["VideoSALMONN2ForCausalLM"]},
    ):
        configure(folder, **changes)
        with pytest.raises(
            CheckpointError, match=r"the original video-SALMONN 2 is not supported(.|\n)*2_plus_3B_full"
        ):
            load_folder(folder)


def test_generation_defaults_are_read_and_kept(folder, tmp_path):
    assert load_folder(folder).generation_defaults == GenerationDefaults()
    said = {"repetition_penalty": 1.05, "eos_token_id": [311, 310], "top_k": 1, "bos_token_id": 5,
            "transformers_version": "4.51.3"}  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(said))
    model = load_folder(folder)
    defaults = model.generation_defaults
    assert (defaults.repetition_penalty, defaults.eos_token_ids, defaults.top_k) == (1.05, (311, 310), 1)
    assert dict(defaults.others) == {"bos_token_id": 5}
    assert defaults.stated == ("eos_token_ids", "repetition_penalty", "top_k")
    assert not defaults.do_sample
    model.save_pretrained(tmp_path / "saved")
    assert load_folder(tmp_path / "saved").generation_defaults == defaults
    (folder / "generation_config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"cannot read generation_config\.json"):
        load_folder(folder)


# --- sizes from the config, and the released ones -------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, n_tokens, windows",
    [
        ({"second_per_window": 1.0, "second_stride": 0.5}, 59, (59, 50)),
        ({"second_per_window": 0.2, "second_stride": 0.3}, 100, (100, 10)),
        ({"query_length": 2}, 120, (60, 25)),
        ({"cross_attention_freq": 2}, 60, (60, 25)),
    ],
    ids=str,
)
def test_other_windows_and_queries_run(changes, n_tokens, windows):
    """A model of other numbers: as many tokens as the config implies, hooks and spans included."""
    model = random_weights(changes)
    ids = torch.tensor([[5, 6, 300, *[AUDIO] * n_tokens, 301, 7]])
    inputs = model.inputs_from_tensors(input_ids=ids, audio_feature=torch.randn(1, 128, 3000), audio_samples=[16_000])
    assert len(inputs.spans["audio"]) == n_tokens
    inputs = inputs.with_span("opening", list(inputs.spans["audio"])[:4])
    names = ["audio.hook_windows", "audio.hook_rows@opening", "audio.hook_windows@opening"]
    with torch.no_grad():
        logits, cache = model.run_with_cache(inputs, names_filter=names)
    assert logits.isfinite().all()
    assert cache["audio.hook_windows"].shape == (*windows, 32)
    n_queries = changes.get("query_length", 1)
    assert cache["audio.hook_windows@opening"].shape == (4 // n_queries, windows[1], 32)
    assert cache["audio.hook_rows@opening"].shape == (4, 48)
    assert 1 <= n_tokens - len(inputs.spans["audio_padding"]) <= 5


def random_weights(changes):
    """The tiny config with some audio numbers changed, and random weights."""
    raw = json.loads((FOLDER / "config.json").read_text())
    qformer = {name: value for name, value in changes.items() if name in ("query_length", "cross_attention_freq")}
    windows = {name: value for name, value in changes.items() if name not in qformer}
    raw["audio_config"] |= windows
    raw["audio_config"]["qformer_config"] |= qformer
    family = SalmonnFamily(SalmonnFamily.read_config(raw))
    torch.manual_seed(0)
    return HookedAVTransformer(family.decoder_config(tied=True, model_name="random"), family, family.make_encoders())


RELEASED = {
    "3B": ({"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
            "intermediate_size": 11008, "vocab_size": 151936, "tie_word_embeddings": True}, 3420),
    "7B": ({"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "intermediate_size": 18944, "vocab_size": 152064}, 3420),
    "72B": ({"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
             "intermediate_size": 29568, "vocab_size": 152064}, 3456),
}  # fmt: skip
PUBLISHED_TOTALS = {"3B": 4_989_146_112, "7B": 9_220_244_992}  # of the published class; a tied head is counted twice
QWEN2_5_72B = 72_706_203_648  # the language model alone: 80 layers, two tables and a norm of Qwen2.5-72B's sizes


@pytest.mark.parametrize("size", RELEASED)
def test_released_sizes_have_the_published_parameter_counts(size):
    """On the meta device, from a config.json that leaves out what equals the class's defaults."""
    text, vision_mlp = RELEASED[size]
    raw = {
        "model_type": "qwen2_5_vl", "architectures": ["video_SALMONN2_plus"], "rms_norm_eps": 1e-6,
        "rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}, "rope_theta": 1e6, **text,
        "vision_config": {"hidden_size": 1280, "intermediate_size": vision_mlp, "out_hidden_size": text["hidden_size"]},
        "audio_config": {"qformer_config": {}},
    }  # fmt: skip
    family = SalmonnFamily(SalmonnFamily.read_config(raw))
    tied = text.get("tie_word_embeddings", False)
    with torch.device("meta"):
        model = HookedAVTransformer(family.decoder_config(tied=tied, model_name=size), family, family.make_encoders())
    total = sum(p.numel() for p in model.parameters()) + (model.W_E.numel() if tied else 0)
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.encoders["audio"].named_children()
    }
    assert counts["qformer"] == 280_092_672
    assert counts["audio_proj"] == (3072 + 1) * text["hidden_size"]
    assert model.cfg.mrope_section == (16, 24, 24)
    assert (model.cfg.eps, model.cfg.rotary_base, model.cfg.d_head) == (1e-6, 1e6, 128)
    if size in PUBLISHED_TOTALS:
        assert total == PUBLISHED_TOTALS[size]
    else:
        assert sum(p.numel() for p in model.decoder.parameters()) == QWEN2_5_72B
