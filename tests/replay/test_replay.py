"""Replays equal full passes: random models, layouts and interventions, batches and singles, and what is free."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.families import FAMILIES
from support.interventions import ROW_POINTS, fits, interventions, keep_onlys
from support.layouts import RANDOM
from support.replays import assert_equal_to_full_passes, film, model_of, naive

import hooked_av as av
from hooked_av.decoder import costs
from hooked_av.replay import cones, shared_prefix
from hooked_av.replay import sweep as sweeps
from hooked_av.replay.blocked_keys import Alike, BlockedKeys
from hooked_av.replay.cones import Cone
from hooked_av.replay.shared_prefix import SharedPrefix
from hooked_av.replay.sweep import Batch

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning"),
    # the shape checks draw which element of a list they look at
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]
N_MODELS, N_LAYOUTS = 6, 500  # of each family
# small prompts have few rows: every way of attending must be met
THRESHOLDS = (
    ("FEW_PLACES", 1),
    ("CUT_BLOCK", 8),
    ("MANY_ROWS", 12),
    ("CALL_ROWS_ON_CPU", 1),
)


def random_case(family, data):
    """A random model, a random layout with random spans besides its own, and a baseline."""
    model = model_of(family, data.draw(st.integers(0, N_MODELS - 1), "model"))
    layout = data.draw(st.integers(0, N_LAYOUTS - 1), "layout")
    inputs = model.inputs_from_tensors(**RANDOM[family].prompt(layout))
    n_pos, generator = inputs.n_pos, torch.Generator().manual_seed(layout)
    inputs = inputs.with_span("question", range(n_pos - 5, n_pos)).with_span("everything", range(n_pos))
    for number, size in enumerate((1, 3, n_pos // 3, n_pos - 1)):
        inputs = inputs.with_span(f"some{number}", torch.randperm(n_pos, generator=generator)[:size].tolist())
    touched = data.draw(st.none() | st.sampled_from(["question", "some2"]), "touched")
    return model, inputs, model.baseline(inputs, touched=touched)


def check_random_replays(family, n, data):
    model, inputs, baseline = random_case(family, data)
    one = st.one_of(interventions(inputs, model.cfg), keep_onlys(inputs, model.cfg.n_layers))
    several = st.lists(one, min_size=1, max_size=3).filter(lambda specs: fits(inputs, specs))
    sweep = data.draw(st.lists(several, min_size=n, max_size=n), "interventions")
    spans = st.sampled_from(sorted(inputs.spans))
    point = st.builds("blocks.{}.{}".format, st.integers(0, model.cfg.n_layers - 1), st.sampled_from(ROW_POINTS))
    read = data.draw(st.just("last") | spans, "read")
    names = data.draw(st.lists(st.builds("{}@{}".format, point, spans), max_size=2, unique=True), "names")
    with pytest.MonkeyPatch.context() as patch:
        for name, low in THRESHOLDS:
            patch.setattr(costs, name, data.draw(st.sampled_from([low, getattr(costs, name)]), name))
        assert_equal_to_full_passes(model, inputs, baseline, sweep, read, names)


# a failing example says which specs failed; making it smaller takes longer than reading it
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck), "phases": [Phase.explicit, Phase.generate]}


@pytest.mark.parametrize("family", RANDOM)
@settings(max_examples=4, **QUIET)
@given(data=st.data())
def test_replays_equal_full_passes(family, data):
    check_random_replays(family, 6, data)


@pytest.mark.slow
@pytest.mark.parametrize("family", RANDOM)
@settings(max_examples=60, **QUIET)
@given(data=st.data())
def test_six_hundred_replays_of_each_family_equal_full_passes(family, data):
    check_random_replays(family, 10, data)


# --- what must be exact ---------------------------------------------------------------------------------------------


@pytest.fixture(params=FAMILIES)
def clip(request):
    return film(request.param)


def test_what_cannot_change_the_answer_is_the_clean_run_bit_for_bit(clip):
    model, inputs, baseline = clip
    last = model.cfg.n_layers - 1
    body = inputs.with_span("body", list(inputs.spans["question"])[:-1])
    free = [
        av.keep_only("everything->everything"),
        av.block_attention(keys="audio", queries="body", layers=last),
        av.ablate(f"blocks.{last}.hook_mlp_out", "body"),
        [],
    ]
    clean = naive(model, inputs, ())[0]
    assert torch.equal(baseline.logits, clean)
    found = model.baseline(body).run(free)
    assert all(torch.equal(logits, clean) for logits in found.logits)
    assert torch.equal(naive(model, inputs, free[0])[0], clean)


def test_a_batch_equals_each_alone(clip):
    _, _, baseline = clip
    sweep = [
        f"{keys}->{queries}@{layer}"
        for keys in ("audio", "video")
        for queries in ("question", "last")
        for layer in range(3)
    ]
    together = baseline.run(sweep).logits
    alone = torch.cat([baseline.run(route).logits for route in sweep])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_dropping_equals_blocking(clip):
    model, inputs, _ = clip
    stay = [row for row in range(inputs.n_pos) if row not in inputs.spans["video"]]
    baseline = model.baseline(inputs.with_span("rest", stay))
    for layer in range(model.cfg.n_layers):
        found = baseline.run(
            [av.drop_tokens("video", layer), av.block_attention(keys="video", queries="rest", layers=range(layer, 3))]
        )
        torch.testing.assert_close(found.logits[0], found.logits[1], rtol=1e-5, atol=1e-5)


def test_patching_everything_recovers_the_other_run(clip):
    model, inputs, _ = clip
    sound = "input_features" if "input_features" in inputs.features else "audio_feature"
    other = replace(inputs, features={**inputs.features, sound: inputs.features[sound].flip(-1)})
    other = other.with_span("everything", range(other.n_pos)).with_span("question", inputs.spans["question"])
    _, cache = model.run_with_cache(inputs, names_filter=["hook_inputs_embed", "blocks.0.hook_resid_pre"])
    baseline = model.baseline(other)
    everything = av.patch("blocks.0.hook_resid_pre", "everything", cache)
    nothing = av.patch("hook_inputs_embed", "question", cache)  # the question is the same
    found = baseline.run([everything, nothing]).logits
    clean = naive(model, inputs, ())[0]
    torch.testing.assert_close(found[0], clean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], baseline.logits, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(baseline.logits, clean, atol=1e-3)


# --- planted faults -------------------------------------------------------------------------------------------------


def joins_a_layer_late(cone):
    return replace(cone, join=cone.join + 1)


def misses_the_first_row(cone):
    if len(cone.rows) == 1:
        return cone
    return replace(cone, rows=cone.rows[1:], reading=tuple(row for row in cone.reading if row in cone.rows[1:]))


def changed_cone(change):
    """`Cone.of` with something wrong in what it gives."""
    of = Cone.of.__func__

    def wrong(cls, plan, reads, run):
        cone = of(cls, plan, reads, run)
        return cone and change(cone)

    return classmethod(wrong)


def a_key_too_few(read_prefix):
    def wrong(self, q, k, v):
        return read_prefix(self, q, k[:, 1:], v[:, 1:])

    return wrong


def in_turn(read):
    return lambda self, *given: read(replace(self, run_cuts=[*self.run_cuts[1:], *self.run_cuts[:1]]), *given)


def in_one_class(classes):
    def wrong(self, cuts):
        found = classes(self, cuts)
        return found and ((torch.arange(len(self.rows)), found[0][1]),)

    return wrong


FAULTS = {
    "joins a layer late": lambda m: m.setattr(Cone, "of", changed_cone(joins_a_layer_late)),
    "misses the first row": lambda m: m.setattr(Cone, "of", changed_cone(misses_the_first_row)),
    # the one that passed unseen at first: keys and values of rows that the last block does not go on with
    "rows of the last block that are only read": lambda m: [
        m.setattr(module, "holds_every_row", lambda point: False) for module in (cones, sweeps)
    ],
    "means over the rows that are read": lambda m: m.setattr(cones, "_mixes_rows", lambda edit: False),
    "dropped tokens are read on": lambda m: m.setattr(cones, "_all_cuts", lambda plan, run, n_layers: plan.cuts),
    "cuts of the prefix forgotten": lambda m: m.setattr(
        BlockedKeys, "sort", lambda self, cuts: ([Alike(None, None)], [])
    ),
    "masks of the prefix forgotten": lambda m: m.setattr(BlockedKeys, "shared", lambda self, cuts: None),
    "masks of own keys forgotten": lambda m: m.setattr(BlockedKeys, "own", lambda self, cuts: self.later),
    "rows of a cut in one class": lambda m: m.setattr(BlockedKeys, "_sorted", in_one_class(BlockedKeys._sorted)),
    "the shared keys alone": lambda m: m.setattr(shared_prefix, "joined", lambda own, prefix: prefix.z),
    "own keys alone": lambda m: m.setattr(shared_prefix, "joined", lambda own, prefix: own.z),
    "cuts of another run": lambda m: m.setattr(SharedPrefix, "read", in_turn(SharedPrefix.read)),
    "branches that never part": lambda m: m.setattr(Batch, "_split", lambda self, runs, layer: [[*runs]]),
    "a shared key too few": lambda m: m.setattr(SharedPrefix, "_read_prefix", a_key_too_few(SharedPrefix._read_prefix)),
    "edits of the wrong run": lambda m: m.setattr(Cone, "of", changed_cone(lambda c: replace(c, edits={}))),
}
LEFT_OUT = ("rows of a cut in one class",)  # keys are left out for many rows, and masked for a few


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_planted_faults_are_noticed(monkeypatch, fault):
    """Few interventions of every kind are enough to see each of them."""
    model, inputs, baseline = film("omni")
    last = model.cfg.n_layers - 1
    sweep = [
        ["audio->question@1"],
        ["audio->question - last@1"],
        ["question->last@0-2"],
        [av.ablate(f"blocks.{last}.attn.hook_v", "audio")],
        [av.ablate("blocks.1.hook_mlp_out", "question", "mean"), "av->last@2"],
        [av.ablate(f"blocks.{last}.hook_resid_mid", "everything", "mean")],
        [av.drop_tokens("video", 1)],
        [av.keep_only("text->text", "av->last")],
    ]
    if fault is None:
        return assert_equal_to_full_passes(model, inputs, baseline, sweep, "last", [])
    if fault in LEFT_OUT:
        monkeypatch.setattr(costs, "FEW_PLACES", 1)
    FAULTS[fault](monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        assert_equal_to_full_passes(model, inputs, baseline, sweep, "last", [])
    return None
