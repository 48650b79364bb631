"""Everything that runs on a GPU runs on its device alone: no tensor is made on the processor and used there."""

import warnings
from copy import deepcopy

import pytest
import torch
from support.elsewhere import ELSEWHERE, Elsewhere, MixedDevicesError, elsewhere, move
from support.families import FAMILIES

import hooked_av as av
from hooked_av.errors import HookedAVWarning

KIND = "audio in video"


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) if name != "omni" else name for name in FAMILIES]
)
def pair(request):
    """A model and its prompt here, and the same elsewhere. What moves is the same in every family."""
    family = FAMILIES[request.param]
    inputs = family.inputs(KIND, n_question=5)
    model, moved = family.model, family.make_model()
    moved.encoders = deepcopy(moved.encoders)  # adopted, so those of every such model
    moved.setup()
    move(moved)
    with elsewhere():
        there = inputs.to(ELSEWHERE)
    return model, inputs, moved, there


def held(x):
    assert isinstance(x, Elsewhere)
    return x.held


def both(pair, run):
    """What a function of model and inputs gives here and elsewhere."""
    model, inputs, moved, there = pair
    with torch.no_grad():
        wanted = run(model, inputs)
    with elsewhere():
        return held(run(moved, there)), wanted


SPECS = {
    "cut": lambda cfg: "audio->question",
    "cut of the last layer": lambda cfg: "video->last@2",
    "cut of heads": lambda cfg: av.block_attention(keys="video", queries="question", layers=1, heads=[0, 1]),
    "interleaved": lambda cfg: "audio->video@0-1",
    "keep only": lambda cfg: av.keep_only("text->text", "audio->question", "last->last"),
    "random cut": lambda cfg: av.block_random(like="audio->question"),
    "zero": lambda cfg: av.ablate("blocks.1.hook_mlp_out", "audio"),
    "mean": lambda cfg: av.ablate("blocks.1.hook_resid_post", "video", "mean"),
    "heads": lambda cfg: av.ablate("blocks.1.attn.hook_z", "question", heads=[1]),
    "patch": lambda cfg: av.patch("blocks.0.hook_resid_pre", "last", torch.ones(cfg.d_model)),
    "add": lambda cfg: av.add_vector("blocks.1.hook_attn_out", "question", torch.ones(cfg.d_model), 2.0),
    "drop": lambda cfg: av.drop_tokens("video", 1),
    "drop keys": lambda cfg: av.drop_tokens("audio", 0, kv="drop"),
    "several": lambda cfg: [
        "audio->question@1",
        av.ablate("blocks.2.hook_mlp_out", "last"),
        av.drop_tokens("video", 2),
    ],
}


def test_operations_of_two_devices_are_noticed():
    with elsewhere():
        there = torch.arange(3, device=ELSEWHERE)
        assert there.device == ELSEWHERE
        assert (there + 1).tolist() == [1, 2, 3]
        assert there[torch.tensor([0, 2])].tolist() == [0, 2]
        for mix in (lambda: there + torch.ones(3), lambda: torch.isin(there, torch.arange(2)),
                    lambda: torch.arange(3)[there]):  # fmt: skip
            with pytest.raises(MixedDevicesError):
                mix()


def test_forward(pair):
    found, wanted = both(pair, lambda model, inputs: model(inputs))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_caches(monkeypatch, pair, backend):
    names = ["blocks.*.hook_resid_post@audio", "blocks.1.attn.hook_pattern@last<-video",
             "blocks.0.attn.hook_result@last", "hook_audio_embed@audio", "hook_logits@last"]  # fmt: skip
    for model in (pair[0], pair[2]):
        monkeypatch.setattr(model, "attn_implementation", backend)

    def flat(model, inputs):
        _, cache = model.run_with_cache(inputs, names_filter=names)
        return torch.cat([cache[key].flatten() for key in cache])

    torch.testing.assert_close(*both(pair, flat))


@pytest.mark.parametrize("name", SPECS)
def test_interventions_in_a_pass(pair, name):
    spec = SPECS[name](pair[0].cfg)
    torch.testing.assert_close(*both(pair, lambda model, inputs: model(inputs, interventions=spec, logits_at="last")))


@pytest.mark.parametrize(("touched", "fused"), [(None, False), ("question", True)])
def test_replays(monkeypatch, pair, touched, fused):
    """Shared keys are read through a fused kernel, as on a newer GPU, or around it."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu if fused else None
    monkeypatch.setattr("hooked_av.replay.key_parts.kernel_for", lambda *like: kernel)
    monkeypatch.setattr("hooked_av.decoder.costs.FEW_PLACES", 1)
    monkeypatch.setattr("hooked_av.decoder.costs.CALL_ROWS", 1)
    specs = [make(pair[0].cfg) for make in SPECS.values()]
    read = ["last", "blocks.1.hook_resid_post@last"]

    def run(model, inputs):
        return model.baseline(inputs, touched=touched).run(specs, read=read).logits

    torch.testing.assert_close(*both(pair, run), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("many", [1, 10**9])
def test_replays_of_many_and_of_few_rows(monkeypatch, pair, many):
    monkeypatch.setattr("hooked_av.decoder.costs.MANY_ROWS", many)

    def run(model, inputs):
        return model.baseline(inputs).run(["audio->question@1", "audio->video@1", "video->audio@0-1"]).logits

    torch.testing.assert_close(*both(pair, run), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"interventions": "audio->last|generated"},
        {"interventions": ["audio->question", av.drop_tokens("video", 1, kv="drop")]},
        {"do_sample": True, "seed": 1, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2},
        {"fwd_hooks": [("blocks.1.hook_resid_post@last|generated", lambda rows, hook: rows * 2)]},
    ],
    ids=["plain", "cut", "dropped", "sampled", "hooked"],
)
def test_generation(pair, more):
    def run(model, inputs):
        return model.generate(inputs, max_new_tokens=4, stop_tokens=(), keep="logits", **more).logits

    torch.testing.assert_close(*both(pair, run))


def test_padded_batches(pair):
    def run(model, inputs):
        text = av.AVInputs.from_tokens(torch.arange(9, device=inputs.device)[None])
        batch = model.batch([text, inputs])
        return model(batch, interventions="last->last@1", logits_at="last")

    torch.testing.assert_close(*both(pair, run))


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*query rows have no key left", HookedAVWarning)
        yield
