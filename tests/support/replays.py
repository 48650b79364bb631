"""Replays beside full passes: models and films to replay, and what must be equal."""

from functools import lru_cache

import torch

from hooked_av.interventions.specs import DropTokens
from support.families import FAMILIES
from support.layouts import RANDOM


@lru_cache
def model_of(family, seed):
    """A random model; layers and the sharing of key/value heads differ from seed to seed."""
    return RANDOM[family].model(seed)


@lru_cache
def film(family):
    """A film with sound: a model, inputs, a baseline."""
    model = model_of(family, 0)
    inputs = model.inputs_from_tensors(**FAMILIES[family].tensors("audio in video"))
    n_pos = inputs.n_pos
    inputs = inputs.with_span("question", range(n_pos - 5, n_pos)).with_span("everything", range(n_pos))
    return model, inputs, model.baseline(inputs)


def naive(model, inputs, specs, at="last"):
    with torch.no_grad():
        return model(inputs, interventions=specs, logits_at=at)[0]


def assert_equal_to_full_passes(model, inputs, baseline, sweep, read, names):
    """Logits and activations of every replay against those of a forward pass of its own."""
    if any(isinstance(spec, DropTokens) for specs in sweep for spec in specs):
        read, names = "last", []  # other rows may have left
    found = baseline.run(sweep, read=[read, *names])
    assert found.full_passes == ()
    for number, specs in enumerate(sweep):
        with torch.no_grad():
            wanted, cache = model.run_with_cache(
                inputs, names_filter=names or ["hook_embed"], interventions=specs, logits_at=read
            )
        assert_close(found.logits[number].view_as(wanted[0]), wanted[0], specs)
        for name in found.activations:
            assert_close(found.activations[name][number], cache[name][0], (name, *specs))
        best = wanted[0].topk(2, dim=-1)
        clear = best.values[:, 0] - best.values[:, 1] > 2e-4
        ours = found.logits[number].view_as(wanted[0]).argmax(-1)
        assert torch.equal(ours[clear], best.indices[:, 0][clear]), specs


def assert_close(ours, wanted, specs):
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4, msg=lambda told: f"{list(map(str, specs))}: {told}")
