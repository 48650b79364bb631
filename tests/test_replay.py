"""Replays equal full passes: random models, layouts and interventions, batches and singles, and what is free."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.interventions import interventions, keep_onlys
from support.thinkers import make_thinker, prompts

import hooked_av as av
from hooked_av.model import HookedAVTransformer

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning"),
]
PROMPTS = {name: maker.tensors() for name, maker in prompts().items()}


def omni(seed: int) -> HookedAVTransformer:
    """A random Qwen2.5-Omni; the sharing of key/value heads differs from seed to seed."""
    return HookedAVTransformer.from_hf(make_thinker(n_kv=(1, 2, 4)[seed % 3], n_layers=3 + seed % 2, seed=seed))


# A family is added with a function that makes a random model of it, and prompts as its processor's tensors.
FAMILIES = {"omni": (omni, PROMPTS)}
CASES = [(family, seed, kind) for family, (_, tensors) in FAMILIES.items() for seed in range(3) for kind in tensors]
made: dict = {}


def case(family, seed, kind):
    """A model, a prompt with random spans besides its own, and a baseline."""
    if (family, seed, kind) not in made:
        make, tensors = FAMILIES[family]
        model = made.setdefault((family, seed), None) or make(seed)
        made[family, seed] = model
        inputs = model.inputs_from_tensors(**tensors[kind])
        n_pos, generator = inputs.n_pos, torch.Generator().manual_seed(seed)
        inputs = inputs.with_span("question", range(n_pos - 5, n_pos)).with_span("everything", range(n_pos))
        for number, size in enumerate((1, 3, n_pos // 3, n_pos - 1)):
            inputs = inputs.with_span(f"some{number}", torch.randperm(n_pos, generator=generator)[:size].tolist())
        made[family, seed, kind] = (model, inputs, model.baseline(inputs))
    return made[family, seed, kind]


def naive(model, inputs, specs, at="last"):
    with torch.no_grad():
        return model(inputs, interventions=specs, logits_at=at)[0]


def assert_equal_to_full_passes(chosen, sweep, read="last"):
    model, inputs, baseline = case(*chosen)
    if any(isinstance(spec, av.interventions.DropTokens) for specs in sweep for spec in specs):
        read = "last"  # other rows may have left
    found = baseline.run(sweep, read=read)
    for specs, logits in zip(sweep, found.logits, strict=True):
        wanted = naive(model, inputs, specs, read)
        ours = logits[None] if len(wanted) == 1 else logits
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
        best = wanted.topk(2, dim=-1)
        clear = best.values[:, 0] - best.values[:, 1] > 2e-4
        assert torch.equal(ours.argmax(-1)[clear], best.indices[:, 0][clear])


def sweeps(n):
    """A case, and a list of interventions, each a list of one to three specs."""

    def over(chosen):
        model, inputs, _ = case(*chosen)
        one = st.one_of(interventions(inputs, model.cfg), keep_onlys(inputs, model.cfg.n_layers))
        several = st.lists(one, min_size=1, max_size=3).filter(fits)
        return st.tuples(st.just(chosen), st.lists(several, min_size=n, max_size=n))

    return st.sampled_from(CASES).flatmap(over)


def fits(specs):
    """No edit of rows that a drop takes away: that is refused, and tested as such."""
    return not any(isinstance(s, av.interventions.DropTokens) for s in specs) or not any(
        isinstance(s, av.interventions.Edit) for s in specs
    )


# a failing example says which specs failed; making it smaller takes longer than reading it
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "phases": [Phase.explicit, Phase.generate]}


@settings(max_examples=15, **QUIET)
@given(chosen_and_sweep=sweeps(n=6), read=st.sampled_from(["last", "question"]))
def test_replays_equal_full_passes(chosen_and_sweep, read):
    assert_equal_to_full_passes(*chosen_and_sweep, read)


@pytest.mark.slow
@settings(max_examples=100, **QUIET)
@given(chosen_and_sweep=sweeps(n=10), read=st.sampled_from(["last", "question", "some1", "everything"]))
def test_a_thousand_replays_equal_full_passes(chosen_and_sweep, read):
    assert_equal_to_full_passes(*chosen_and_sweep, read)
