"""`model.begin`, the public door to a pass: block by block it is the whole pass, and only in its `with` block."""

import pytest
import torch

import hooked_av as av
from hooked_av.errors import HookError, InputsError, InterventionError, SpanError

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = av.random_omni(n_layers=3)
INPUTS = MODEL.prepare(question="Which of the two digits do you see first?")
SPECS = {
    "nothing": (),
    "a cut": "system->last@1",
    "an edit": av.ablate("blocks.1.hook_mlp_out", "question", "mean"),
    "an edit of the merged sequence": av.add_vector("hook_inputs_embed", "last", torch.ones(64)),
    "tokens leave": [av.drop_tokens("system", 1), av.drop_tokens("question - last", 2)],
    "all of it": ["system->question@0-1", av.ablate("blocks.0.hook_attn_out", "last"), av.drop_tokens("system", 2)],
}


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("specs", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("at", ["last", None])
def test_block_by_block_it_is_the_whole_pass(specs, at):
    wanted, cache = MODEL.run_with_cache(INPUTS, interventions=specs, logits_at=at)
    one = MODEL.begin(INPUTS, interventions=specs)
    for _ in range(2):  # it may run as often as one likes
        with one:
            resid = one.embed()
            for layer in one.layers:
                resid = one.block(layer, resid)
                assert torch.equal(resid, cache[f"blocks.{layer}.hook_resid_post"])
            assert torch.equal(one.unembed(resid, at=at), wanted)
        with one:
            assert torch.equal(one.finish(one.embed(), at=at), wanted)
    assert not any(point.is_hooked for point in MODEL.hook_dict.values())


def test_it_runs_the_layers_that_were_asked_for():
    part = MODEL.begin(INPUTS, start_at_layer=1, stop_at_layer=2)
    assert part.layers == range(1, 2)
    with part:
        resid = MODEL(INPUTS, stop_at_layer=1)
        assert torch.equal(part.finish(resid), MODEL(INPUTS, stop_at_layer=2))


@pytest.mark.parametrize(
    "call",
    [
        lambda one, resid: one.embed(),
        lambda one, resid: one.block(0, resid),
        lambda one, resid: one.unembed(resid),
        lambda one, resid: one.finish(resid),
    ],
    ids=["embed", "block", "unembed", "finish"],
)
def test_outside_of_its_block_it_does_not_run(call):
    one, other = MODEL.begin(INPUTS), MODEL.begin("Hello world")
    with one:
        resid = one.embed()
        with other, pytest.raises(HookError, match="this pass is not running"):
            call(one, resid)
        call(one, resid)
    with pytest.raises(HookError, match=r"this pass is not running(.|\n)*with model.begin\(inputs\) as one"):
        call(one, resid)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"interventions": "system->lasst"}, SpanError, "lasst"),
        ({"interventions": av.block_attention("system->last@7")}, InterventionError, "no such layers"),
        ({"interventions": "system->last@0", "start_at_layer": 1}, InterventionError, "this pass runs no layer"),
        ({"stop_at_layer": 4}, InputsError, "no such layers"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(monkeypatch, arguments, error, said):
    monkeypatch.setattr(MODEL.decoder.embed, "forward", lambda *a: pytest.fail("it ran"))
    with pytest.raises(error, match=said):
        MODEL.begin(INPUTS, **arguments)


def test_it_takes_what_is_open_when_it_begins():
    with MODEL.intervene("system->last@1"):
        one = MODEL.begin(INPUTS)
        assert sorted(one.plan_of("system->question@2").cuts) == [1, 2]
    assert sorted(one.plan.cuts) == [1]
    with one:
        assert torch.equal(one.finish(one.embed()), MODEL(INPUTS, interventions="system->last@1"))
        assert MODEL.open_interventions == ()


def test_a_clean_block_hides_what_is_open():
    seen, stays = [], []
    wanted = MODEL(INPUTS)
    MODEL.add_hook("blocks.0.hook_mlp_out", lambda tensor, hook: stays.append(hook.name))
    hooks = [("blocks.0.hook_mlp_out", lambda tensor, hook: seen.append(hook.name))]
    try:
        with MODEL.intervene(av.ablate("blocks.0.hook_mlp_out", "last")), MODEL.hooks(hooks):
            with MODEL.clean():
                assert MODEL.open_interventions == ()
                assert torch.equal(MODEL(INPUTS), wanted)
            assert (len(seen), len(stays)) == (0, 1)
            assert not torch.equal(MODEL(INPUTS), wanted)
        assert (len(seen), len(stays)) == (1, 2)
    finally:
        MODEL.reset_hooks()
