"""video-SALMONN 2+ as a whole equals the published class: positions, embeddings, every layer, logits, greedy tokens."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.salmonn import AUDIO, FOLDER, cases, load_folder, salmonn_prompts
from torch import nn

from hooked_av.errors import CheckpointError, HookedAVWarning, InputsError
from hooked_av.families import salmonn_layout
from hooked_av.families.qwen_vl import QwenVLFamily
from hooked_av.families.salmonn import SalmonnFamily, flat_config
from hooked_av.generation_defaults import GenerationDefaults
from hooked_av.inputs import AVInputs
from hooked_av.model import HookedAVTransformer
from hooked_av.results import run_settings
from hooked_av.spans import Spans

CASES = cases()
MODEL = load_folder()
TOLERANCE = 1e-5  # relative to the largest published number
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*has no (tokenizer|preprocessor) files"),
]


def distance(ours, published):
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def inputs(case):
    return case.inputs(MODEL)


@pytest.fixture(scope="module")
def ran(inputs):
    with torch.no_grad():
        return MODEL.run_with_cache(inputs)


def test_the_reference_set_is_what_it_should_be():
    assert len(CASES) == 9
    assert {case.mode for case in CASES.values()} == {"train", "generate"}


def test_positions_equal_the_published_ones(case, inputs):
    assert torch.equal(inputs.position_ids, case.tensors["position_ids"])
    assert inputs.settings["positions"] == case.mode


def test_embeddings_equal_the_published_ones(case, ran):
    assert distance(ran[1]["hook_inputs_embed"], case.tensors["inputs_embeds"]) < TOLERANCE


def test_every_layer_equals_the_published_one(case, ran):
    cache, published = ran[1], case.tensors["hidden_states"]
    n_layers = MODEL.cfg.n_layers
    assert len(published) == n_layers + 1
    for layer in range(n_layers):
        assert distance(cache[f"blocks.{layer}.hook_resid_pre"], published[layer]) < TOLERANCE
    final = MODEL.ln_final.weight.detach() * cache["ln_final.hook_normalized"]
    assert distance(final, published[-1]) < TOLERANCE


def test_logits_equal_the_published_ones(case, ran):
    assert distance(ran[0], case.tensors["logits"]) < TOLERANCE


def longer(inputs: AVInputs, token: int) -> AVInputs:
    """The same prompt with a decoded token behind it, at the position that `rope_delta` gives it."""
    position = inputs.rope_delta + inputs.attention_mask.sum(dim=1)
    return AVInputs(
        torch.cat([inputs.input_ids, torch.tensor([[token]])], dim=1),
        torch.cat([inputs.position_ids, position.expand(3, 1, 1)], dim=2),
        torch.ones(1, inputs.n_pos + 1, dtype=torch.bool),
        (Spans(inputs.n_pos + 1, {"last": [inputs.n_pos]}),),
        inputs.features,
    )


@torch.no_grad()
def test_generation_over_known_keys_writes_the_published_tokens(case, inputs):
    written = MODEL.generate(inputs, max_new_tokens=5, stop_tokens=(), repetition_penalty=1.0)
    assert [list(row) for row in written.tokens] == case.tensors["generated"].tolist()


@torch.no_grad()
def test_five_greedy_tokens_equal_the_published_ones(case, inputs):
    tokens, steps = [], []
    for _ in range(5):
        steps.append(MODEL(inputs, logits_at="last")[:, 0])
        tokens.append(int(steps[-1].argmax()))
        inputs = longer(inputs, tokens[-1])
    assert tokens == case.tensors["generated"][0].tolist()
    assert distance(torch.stack(steps, dim=1), case.tensors["step_logits"]) < TOLERANCE


def test_published_generate_is_the_default():
    case = CASES["av_generate"]
    inputs = MODEL.inputs_from_tensors(**case.prompt)
    assert torch.equal(inputs.position_ids, case.tensors["position_ids"])
    assert inputs.settings["positions"] == "generate"


def test_the_mode_is_seen_in_the_logits():
    """The two ways of counting are two forward passes: neither passes for the other."""
    wrong = CASES["av_train"].inputs(MODEL, positions="generate")
    with torch.no_grad():
        assert distance(MODEL(wrong), CASES["av_train"].tensors["logits"]) > 1e-2


def test_results_name_the_position_mode():
    for mode in ("train", "generate"):
        inputs = CASES["av_train"].inputs(MODEL, positions=mode)
        assert run_settings(MODEL, inputs)["positions"] == mode


@pytest.mark.usefixtures("as_a_user")
def test_an_unknown_mode_is_refused():
    with pytest.raises(InputsError, match=r"unknown position mode(.|\n)*'generate', 'train'(.|\n)*'released'"):
        CASES["text"].inputs(MODEL, positions="released")


def test_a_batch_of_cases_equals_each_alone():
    """The mixes that only one prompt at a time may have: two clips in a batch are fine."""
    pair = [
        CASES["av_train"].inputs(MODEL),
        CASES["video_train"].inputs(MODEL),
        CASES["av_two_blocks_train"].inputs(MODEL),
    ]
    batch = MODEL.batch(pair)
    with torch.no_grad():
        out = MODEL(batch)
        for row, (start, prompt) in enumerate(zip(batch.starts, pair, strict=True)):
            torch.testing.assert_close(out[row, start:], MODEL(prompt)[0], rtol=1e-5, atol=1e-4)


def test_ready_tensors_of_a_batch_are_read_row_by_row():
    rows = [salmonn_prompts()[kind].tensors() for kind in ("audio", "two sounds", "text")]
    width = max(row["input_ids"].shape[1] for row in rows)
    ids = [torch.nn.functional.pad(row["input_ids"], (width - row["input_ids"].shape[1], 0), value=310) for row in rows]
    mask = torch.stack([torch.arange(width) >= width - row["input_ids"].shape[1] for row in rows])
    sounds = torch.cat([row["audio_feature"] for row in rows[:2]])
    batch = MODEL.inputs_from_tensors(
        input_ids=torch.cat(ids), attention_mask=mask, audio_feature=sounds, audio_samples=[8000, 31 * 16_000, 160_000]
    )
    for row, made in enumerate(rows):
        alone = MODEL.inputs_from_tensors(**made)
        assert torch.equal(batch.position_ids[:, row, mask[row]], alone.position_ids[:, 0])
    padding = [len(spans["audio_padding"]) for spans in batch.row_spans if "audio_padding" in spans]
    assert padding == [59, 120 - 62 + 60 - 20]


@pytest.mark.parametrize("lengths", [[], [8000, 9000]])
def test_lengths_that_are_not_one_a_sound_are_refused(lengths):
    with pytest.raises(InputsError, match="audio_samples does not match the sounds"):
        CASES["audio_train"].inputs(MODEL, audio_samples=lengths)


def test_float_sizes_of_inputs_do_not_matter():
    """Reference inputs are stored in half precision; they are numbers, not a precision to compute in."""
    case = CASES["av_train"]
    wide = {name: t.double() if t.is_floating_point() else t for name, t in case.prompt.items()}
    with torch.no_grad():
        logits = MODEL(MODEL.inputs_from_tensors(**wide, positions="train"))
    assert distance(logits, case.tensors["logits"]) < TOLERANCE


def test_every_input_may_be_a_list():
    case = CASES["av_train"]
    plain = {**case.prompt, "second_per_grid": [0.2], "video_grid_thw": case.prompt["video_grid_thw"].tolist()}
    assert torch.equal(MODEL.inputs_from_tensors(**plain, positions="train").position_ids, case.tensors["position_ids"])


# --- mutants: one planted fault each, and the parity above must fail ------------------------------------------------


def bert(model):
    return model.encoders["audio"].qformer["bert"]


def skip(module):
    module.forward = lambda states: states


def set_qformer_eps(model, eps):
    for norm in bert(model).modules():
        if isinstance(norm, nn.LayerNorm):
            norm.eps = eps


def swapped_axes(n_tokens, resting_axis):
    body = torch.arange(n_tokens).expand(3, -1).clone()
    body[3 - resting_axis] = 0
    return body


def rounded(groups, seconds_per_group):
    return (torch.arange(groups) * seconds_per_group * 2).round().long()


OWN_MUTANTS = {
    "audio axis swapped": lambda monkeypatch, model: monkeypatch.setattr(salmonn_layout, "_sound", swapped_axes),
    "floor dropped": lambda monkeypatch, model: monkeypatch.setattr(salmonn_layout, "_group_steps", rounded),
    "q_tokens not normalised": lambda monkeypatch, model: skip(bert(model).embeddings["LayerNorm"]),
    "q_tokens forgotten": lambda monkeypatch, model: model.encoders["audio"].q_tokens.data.zero_(),
    "decoder's eps 1e-6": lambda monkeypatch, model: [setattr(block.ln1, "eps", 1e-6) for block in model.blocks],
    "no window attention in the tower": lambda monkeypatch, model: setattr(
        model.encoders["visual"], "fullatt_block_indexes", [0, 1, 2]
    ),
}


def worst(model):
    """The largest distance to the published numbers, over logits and embeddings of the cases with sound and video."""
    found = []
    for name in ("av_train", "audio_train", "video_train"):
        try:
            inputs = CASES[name].inputs(model)
        except InputsError:  # an interleaving that cannot be
            return float("inf")
        with torch.no_grad():
            logits, cache = model.run_with_cache(inputs, names_filter="hook_inputs_embed")
        found.append(distance(cache["hook_inputs_embed"], CASES[name].tensors["inputs_embeds"]))
        found.append(distance(logits, CASES[name].tensors["logits"]))
    return max(found)


def test_nothing_is_wrong_without_a_mutant():
    assert worst(load_folder()) < TOLERANCE


@pytest.mark.parametrize("mutant", OWN_MUTANTS)
def test_a_planted_fault_is_noticed(monkeypatch, mutant):
    model = load_folder()
    OWN_MUTANTS[mutant](monkeypatch, model)
    assert worst(model) > TOLERANCE


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_a_wrong_eps_of_the_qformer_is_noticed(eps):
    """On the reference weights eps 1e-5 for 1e-12 moves a row by 8e-6 only: so small a fault needs a small tolerance.

    With q_tokens as small as a real checkpoint's (standard deviation 0.02, an eps of the size of their variance), the
    same fault is large.
    """
    right, wrong = load_folder(), load_folder()
    set_qformer_eps(wrong, eps)
    for model in (right, wrong):
        with torch.no_grad():
            model.encoders["audio"].q_tokens.mul_(0.004 / model.encoders["audio"].q_tokens.std())
    feature = CASES["audio_train"].tensors["audio_feature"]
    with torch.no_grad():
        rows = [model.encoders["audio"](feature) for model in (right, wrong)]
    assert distance(rows[1], rows[0]) > 1e-3
    assert {norm.eps for norm in bert(right).modules() if isinstance(norm, nn.LayerNorm)} == {1e-12}


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
