"""The audio branch of video-SALMONN 2+ against published numbers: rows, sizes, hook points; planted faults are seen."""

import pytest
import torch
from safetensors.torch import load_file
from support.salmonn import FOLDER
from support.salmonn_parts import CASES, CONFIG, TENSORS, TOKENS, case_tensors
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from hooked_av.errors import CheckpointError, InputsError
from hooked_av.families.salmonn import audio as salmonn_audio
from hooked_av.families.salmonn.audio import SalmonnAudio, SoundWindows, WindowQFormer, holds_sound
from hooked_av.model.random import randomise

WITH_SOUND = [case for case in CASES if f"{case}.audio_feature" in TENSORS]


@pytest.fixture(scope="module")
def weights():
    tensors = load_file(FOLDER / "model.safetensors")
    return {name.removeprefix("audio."): tensor for name, tensor in tensors.items() if name.startswith("audio.")}


@pytest.fixture
def audio(weights):
    module = SalmonnAudio(CONFIG["audio_config"], d_model=CONFIG["hidden_size"])
    module.load_state_dict(weights, strict=True)
    return module.eval()


# Ours are 8e-7 away; the golden weights are large, so the weakest fault (eps of the Q-Former) moves rows by 8e-6 only.
TOLERANCE = 3e-6


@torch.no_grad()
def furthest(module):
    """The largest relative difference to the rows that the published class placed, over all cases with sound."""
    worst = 0.0
    for case in WITH_SOUND:
        tensors = case_tensors(case)
        published = tensors["inputs_embeds"][tensors["input_ids"] == TOKENS.audio]
        rows = module(tensors["audio_feature"])
        if rows.shape != published.shape:
            return float("inf")
        worst = max(worst, float((rows - published).abs().max() / published.abs().max()))
    return worst


def test_every_tensor_of_the_checkpoint_has_its_place(weights):
    module = SalmonnAudio(CONFIG["audio_config"], d_model=CONFIG["hidden_size"])
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in weights.items()}


def test_rows_equal_the_published_ones(audio):
    assert len(WITH_SOUND) == 5
    assert furthest(audio) < TOLERANCE


@pytest.mark.parametrize("query_length", [1, 3])
@pytest.mark.parametrize("every", [1, 2])
def test_other_sizes_equal_transformers_qformer(query_length, every):
    """No released model has several queries or layers that do not read; BLIP-2's Q-Former, its origin, has both."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}
    shared = Blip2QFormerConfig(
        **sizes,
        encoder_hidden_size=32,
        cross_attention_frequency=every,
        layer_norm_eps=1e-2,
        use_qformer_text_input=False,
    )
    torch.manual_seed(0)
    reference = Blip2QFormerModel(shared).eval()
    randomise(reference)
    ours = WindowQFormer(sizes | {"cross_attention_freq": every, "layer_norm_eps": 1e-2}, d_audio=32)
    names = {"layernorm.": "embeddings.LayerNorm.", "attention.attention.": "attention.self."}
    state = {}
    for name, tensor in reference.state_dict().items():
        for theirs, mine in names.items():
            name = name.replace(theirs, mine)
        state[name] = tensor
    ours.load_state_dict(state, strict=True)
    queries, windows = torch.randn(5, query_length, 48), torch.randn(5, 25, 32)
    with torch.no_grad():
        published = reference(query_embeds=queries, encoder_hidden_states=windows).last_hidden_state
        torch.testing.assert_close(ours(queries, windows), published, rtol=1e-5, atol=1e-5)


def test_rows_of_several_queries_follow_each_other():
    qformer = CONFIG["audio_config"]["qformer_config"] | {"query_length": 2}
    module = SalmonnAudio(CONFIG["audio_config"] | {"qformer_config": qformer}, d_model=64).eval()
    randomise(module)
    seen = {}
    module.hook_windows.add_hook(lambda tensor, hook: seen.update(windows=tensor))
    with torch.no_grad():
        rows = module(TENSORS["audio_train.audio_feature"])
        one = module.audio_proj(module.qformer["bert"](module.q_tokens, seen["windows"][7:8]))
    assert rows.shape == (120, 64)
    assert tuple(module.q_tokens.shape) == (1, 2, 48)
    torch.testing.assert_close(rows[14:16], one[0], rtol=1e-5, atol=1e-5)
    assert SoundWindows(n_queries=2).n_tokens == 120
    assert holds_sound(16_000, SoundWindows(n_queries=2)).sum() == 4


def test_eps_is_read_from_the_config():
    qformer = CONFIG["audio_config"]["qformer_config"] | {"layer_norm_eps": 0.25}
    module = SalmonnAudio(CONFIG["audio_config"] | {"qformer_config": qformer}, d_model=64)
    norms = {name: norm.eps for name, norm in module.named_modules() if isinstance(norm, nn.LayerNorm)}
    assert {eps for name, eps in norms.items() if name.startswith("qformer")} == {0.25}
    assert {eps for name, eps in norms.items() if not name.startswith("qformer")} == {1e-5}


def set_eps(module, eps, of):
    for name, norm in module.named_modules():
        if isinstance(norm, nn.LayerNorm) and ("qformer" in name) == (of == "qformer"):
            norm.eps = eps


def skip(module):
    module.forward = lambda states: states


def tanh_gelu(layer):
    def forward(queries, windows):
        queries = layer.crossattention(layer.attention(queries, queries), windows)
        inner = nn.functional.gelu(layer.intermediate_query["dense"](queries), approximate="tanh")
        return layer.output_query(inner, queries)

    layer.forward = forward


def pre_norm(block):
    block.forward = lambda states, residual: block.dense(block.LayerNorm(states)) + residual


def bert(audio):
    return audio.qformer["bert"]


AUDIO_MUTANTS = {
    "q_tokens not normalised": lambda audio: skip(bert(audio).embeddings["LayerNorm"]),
    "eps of the Q-Former 1e-5": lambda audio: set_eps(audio, 1e-5, of="qformer"),
    "eps of the encoder 1e-12": lambda audio: set_eps(audio, 1e-12, of="encoder"),
    "eps of the encoder 1e-6": lambda audio: set_eps(audio, 1e-6, of="encoder"),
    "window of 24 frames": lambda audio: setattr(audio, "windows", SoundWindows(24, 25)),
    "stride of 24 frames": lambda audio: setattr(audio, "windows", SoundWindows(25, 24)),
    "no final norm of the encoder": lambda audio: skip(audio.layer_norm),
    "tanh GELU": lambda audio: [tanh_gelu(layer) for layer in bert(audio).encoder["layer"]],
    "norm before the sum": lambda audio: pre_norm(bert(audio).encoder["layer"][0].attention.output),
    "one head": lambda audio: [setattr(m, "n_heads", 1) for m in audio.modules() if hasattr(m, "n_heads")],
}


@pytest.mark.parametrize("mutant", AUDIO_MUTANTS)
def test_a_fault_in_the_audio_branch_is_seen(audio, mutant):
    AUDIO_MUTANTS[mutant](audio)
    assert furthest(audio) > TOLERANCE


def test_hook_points_see_and_edit_windows_and_rows(audio):
    feature = TENSORS["av_two_blocks_train.audio_feature"]
    seen = {}
    plain = audio(feature)
    audio.hook_windows.add_hook(lambda tensor, hook: seen.update(windows=tensor.shape))
    audio.hook_rows.add_hook(lambda tensor, hook: seen.update(rows=tensor.shape))
    assert torch.equal(audio(feature), plain)
    assert seen == {"windows": (120, 25, 32), "rows": (120, 48)}
    audio.hook_windows.add_hook(lambda tensor, hook: torch.cat([tensor[:1] * 0, tensor[1:]]))
    edited = audio(feature)
    assert not torch.allclose(edited[0], plain[0])
    assert torch.equal(edited[1:], plain[1:])
    audio.hook_rows.add_hook(lambda tensor, hook: tensor * 0)
    assert torch.equal(audio(feature), audio.audio_proj.bias.expand(120, -1))
    assert (audio.hook_windows.axes, audio.hook_rows.axes) == (("row", "frame", "d_audio"), ("row", "d_query"))


def test_gradients_flow_through_the_branch(audio):
    rows = []
    audio.hook_windows.add_hook(lambda tensor, hook: rows.append(tensor.retain_grad()) or rows.append(tensor))
    audio(TENSORS["audio_train.audio_feature"])[3].sum().backward()
    per_window = rows[-1].grad.abs().sum(dim=(1, 2))
    assert per_window[3] > 0
    assert int((per_window > 0).sum()) == 1, "a row reads its own window only"


def test_released_sizes_have_the_published_number_of_parameters():
    with torch.device("meta"):
        audio = SalmonnAudio({}, d_model=3584)  # every field left out: the released values
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in audio.named_children()}
    assert count["qformer"] == 280_092_672
    assert count["audio_proj"] == 3072 * 3584 + 3584
    assert tuple(audio.q_tokens.shape) == (1, 1, 3072)
    encoder = sum(n for name, n in count.items() if name not in ("qformer", "audio_proj"))
    assert 635e6 < encoder < 640e6


def test_a_feature_of_another_length_raises(audio):
    with pytest.raises(InputsError, match=r"(?s)128 mel bins, 3000 frames.*\[1, 128, 2998\]"):
        audio(torch.zeros(1, 128, 2998))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"hidden_act": "gelu_new"}, "gelu_new"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"encoder_width": 999}, "the encoder's d_model is 32"),
    ],
)
def test_a_setting_that_the_branch_does_not_do_is_refused(wrong, text):
    config = CONFIG["audio_config"] | {"qformer_config": CONFIG["audio_config"]["qformer_config"] | wrong}
    with pytest.raises(CheckpointError, match=text):
        SalmonnAudio(config, d_model=64)


def test_the_ignored_buffer_is_named_as_in_released_files():
    assert salmonn_audio.IGNORED == ("audio.qformer.bert.embeddings.position_ids",)
