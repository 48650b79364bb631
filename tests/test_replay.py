"""Replays equal full passes: random models, layouts and interventions, batches and singles, and what is free."""

import logging
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.families import FAMILIES
from support.interventions import ROW_POINTS, fits, interventions, keep_onlys
from support.layouts import RANDOM

import hooked_av as av
from hooked_av import blocked_keys, cones, cut_rows, shared_prefix
from hooked_av import sweep as sweeps
from hooked_av.blocked_keys import Alike, BlockedKeys, RowClass
from hooked_av.cones import Cone
from hooked_av.errors import HookedAVWarning, HookError, InputsError, InterventionError, MemoryBudgetError, SpanError
from hooked_av.interventions import DropTokens
from hooked_av.shared_prefix import SharedPrefix
from hooked_av.sweep import Batch

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning"),
    # the shape checks draw which element of a list they look at
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]
N_MODELS, N_LAYOUTS = 6, 500  # of each family
# small prompts have few rows: every way of attending must be met
THRESHOLDS = (
    (blocked_keys, "_FEW_ROWS", 1),
    (cut_rows, "CUT_BLOCK", 8),
    (shared_prefix, "_MANY_ROWS", 12),
    (sweeps, "_ROWS_WORTH_A_CALL", {"cpu": 1, "other": 1}),
)


@lru_cache
def model_of(family, seed):
    """A random model; layers and the sharing of key/value heads differ from seed to seed."""
    return RANDOM[family].model(seed)


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
        for module, name, low in THRESHOLDS:
            patch.setattr(module, name, data.draw(st.sampled_from([low, getattr(module, name)]), name))
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


@lru_cache
def film(family):
    """A film with sound: a model, inputs, a baseline."""
    model = model_of(family, 0)
    inputs = model.inputs_from_tensors(**FAMILIES[family].tensors("audio in video"))
    n_pos = inputs.n_pos
    inputs = inputs.with_span("question", range(n_pos - 5, n_pos)).with_span("everything", range(n_pos))
    return model, inputs, model.baseline(inputs)


@pytest.fixture(params=FAMILIES)
def clip(request):
    return film(request.param)


def test_what_cannot_change_the_answer_is_the_clean_run_bit_for_bit(clip):
    model, inputs, baseline = clip
    last = model.cfg.n_layers - 1
    body = inputs.with_span("body", list(inputs.spans["question"])[:-1])
    free = [
        av.keep_only("everything->everything"),
        av.block_attention(keys="question", queries="av", layers=None),  # media cannot read what comes later
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
        return found and (RowClass(torch.arange(len(self._rows)), found[0].used),)

    return wrong


FAULTS = {
    "joins a layer late": lambda m: m.setattr(Cone, "of", changed_cone(joins_a_layer_late)),
    "misses the first row": lambda m: m.setattr(Cone, "of", changed_cone(misses_the_first_row)),
    # the one that passed unseen at first: keys and values of rows that the last block does not go on with
    "rows of the last block that are only read": lambda m: [
        m.setattr(module, "holds_every_row", lambda point: False) for module in (cones, sweeps)
    ],
    "means over the rows that are read": lambda m: m.setattr(cones, "_is_mean", lambda edit: False),
    "dropped tokens are read on": lambda m: m.setattr(cones, "_all_cuts", lambda plan, n_pos, n_layers: plan.cuts),
    "cuts of the prefix forgotten": lambda m: m.setattr(
        BlockedKeys, "sort", lambda self, cuts: ([Alike(None, None)], [])
    ),
    "masks of the prefix forgotten": lambda m: m.setattr(BlockedKeys, "shared", lambda self, cuts: None),
    "masks of own keys forgotten": lambda m: m.setattr(BlockedKeys, "own", lambda self, cuts: None),
    "rows of a cut in one class": lambda m: m.setattr(BlockedKeys, "_sorted", in_one_class(BlockedKeys._sorted)),
    "the shared keys alone": lambda m: m.setattr(shared_prefix, "joined", lambda own, prefix: prefix.z),
    "own keys alone": lambda m: m.setattr(shared_prefix, "joined", lambda own, prefix: own.z),
    "cuts of another run": lambda m: m.setattr(SharedPrefix, "read", in_turn(SharedPrefix.read)),
    "branches that never part": lambda m: m.setattr(Batch, "_parts", lambda self, runs, layer: [[*runs]]),
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
        monkeypatch.setattr(blocked_keys, "_FEW_ROWS", 1)
    FAULTS[fault](monkeypatch)
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        assert_equal_to_full_passes(model, inputs, baseline, sweep, "last", [])
    return None


# --- reads ----------------------------------------------------------------------------------------------------------


def test_a_change_that_only_an_early_read_sees(clip):
    """The rows that change come after the row whose logits are read: no row goes through the last block."""
    model, inputs, baseline = clip
    inputs = inputs.with_span("first", [0])
    baseline, name = model.baseline(inputs), "blocks.0.hook_mlp_out@question"
    spec = av.ablate("blocks.0.hook_resid_mid", "question")
    found = baseline.run([spec], read=["first", name])
    _, cache = model.run_with_cache(inputs, names_filter=name, interventions=spec, logits_at="first")
    assert torch.equal(found.logits[0], naive(model, inputs, (), "first")[0])
    torch.testing.assert_close(found.activations[name][0], cache[name][0], rtol=1e-4, atol=1e-4)


def test_activations_are_those_of_a_full_pass(clip):
    model, inputs, baseline = clip
    names = [
        "blocks.*.hook_resid_post@question",
        "blocks.1.attn.hook_k",
        "blocks.2.attn.hook_z@last",
        "ln_final.hook_scale",
    ]
    sweep = [
        "video->question@1",
        [av.ablate("blocks.0.hook_mlp_out", "audio", "mean"), "av->last@2"],
        "last->question@0",
    ]
    found = baseline.run(sweep, read=[*names, "last"])
    assert found.full_passes == ()
    for number, specs in enumerate(sweep):
        with torch.no_grad():
            logits, cache = model.run_with_cache(inputs, names_filter=names, interventions=specs, logits_at="last")
        torch.testing.assert_close(found.logits[number], logits[0, 0], rtol=1e-4, atol=1e-4)
        for key in cache:
            torch.testing.assert_close(found.activations[key][number], cache[key][0], rtol=1e-4, atol=1e-4)
    only = baseline.run(sweep, read="blocks.0.hook_mlp_out@audio")
    assert only.logits is None
    assert "blocks.0.hook_mlp_out@audio" in repr(only)
    torch.testing.assert_close(only.activations["blocks.0.hook_mlp_out@audio"][1].std(dim=0).max(), torch.tensor(0.0))


@pytest.mark.parametrize("read", [[], ["last", "question"]], ids=["nothing", "two spans"])
def test_reads_that_make_no_sense_are_refused(clip, read):
    with pytest.raises(InterventionError, match="cannot read this from a replay"):
        clip[2].run(["audio->last"], read=read)
    with pytest.raises(SpanError, match="no span 'adio'"):
        clip[2].run(["audio->last"], read="adio")
    with pytest.raises(InterventionError, match="drops rows that are read"):
        clip[2].run([av.drop_tokens("audio", 1)], read="av")


def test_a_mean_over_rows_after_those_that_are_read(clip):
    """The mean needs rows that the read itself would leave out."""
    model, inputs, _ = clip
    inputs = inputs.with_span("here", [60])
    spec = av.ablate("blocks.1.hook_mlp_out", "everything", "mean")
    found = model.baseline(inputs).run([spec, [spec, "audio->here@0"]], read="here").logits
    torch.testing.assert_close(found[0], naive(model, inputs, spec, "here")[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], naive(model, inputs, [spec, "audio->here@0"], "here")[0], rtol=1e-4, atol=1e-4)


def test_a_mean_over_rows_that_leave_before_the_first_layer(clip):
    """They are in the merged sequence, whose rows are averaged."""
    model, inputs, baseline = clip
    specs = [av.ablate("hook_inputs_embed", "av|question", "mean"), av.drop_tokens("video", 0)]
    assert_close(baseline.run([specs]).logits[0], naive(model, inputs, specs)[0], specs)


@pytest.mark.parametrize(
    "point", ["hook_resid_pre", "ln1.hook_normalized", "attn.hook_k", "attn.hook_rot_k", "attn.hook_v"]
)
def test_the_last_block_holds_rows_that_are_only_read(clip, point):
    """Keys and values of every row are there, although few rows go on."""
    model, inputs, baseline = clip
    name = f"blocks.{model.cfg.n_layers - 1}.{point}"
    spec = av.ablate(name, "audio")
    found = baseline.run([spec], read=["last", f"{name}@video"])
    with torch.no_grad():
        logits, cache = model.run_with_cache(inputs, names_filter=f"{name}@video", interventions=spec, logits_at="last")
    torch.testing.assert_close(found.logits[0], logits[0, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.activations[f"{name}@video"][0], cache[f"{name}@video"][0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found.logits[0], baseline.logits, atol=1e-3)


# --- what is computed -----------------------------------------------------------------------------------------------


def rows_computed(model, run, part=lambda block: block):
    """For each layer, how many rows of residual stream its block, or a part of it, was given."""
    given = [0] * model.cfg.n_layers
    handles = [
        part(block).register_forward_pre_hook(
            lambda m, args, i=i: given.__setitem__(i, given[i] + args[0].shape[:2].numel())
        )
        for i, block in enumerate(model.blocks)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return given


def test_only_the_cone_is_computed(clip):
    model, inputs, baseline = clip
    n_question = inputs.n_pos - int(inputs.spans["question"].positions[0])
    assert rows_computed(model, lambda: baseline.run(["audio->question@1"])) == [0, n_question, n_question]
    assert rows_computed(model, lambda: baseline.run(["audio->last@0", "audio->last@1-2", "last->last@2"])) == [1, 2, 3]
    assert rows_computed(
        model, lambda: baseline.run([av.ablate("blocks.2.attn.hook_z", "last", heads=h) for h in range(4)])
    ) == [0, 0, 4]
    first = int(inputs.spans["video"].positions[0])
    early = rows_computed(model, lambda: baseline.run([av.ablate("blocks.1.hook_resid_pre", "video")]))
    assert early == [0, inputs.n_pos - first, inputs.n_pos - first]
    assert rows_computed(model, lambda: baseline.run([av.keep_only("everything->everything")])) == [0, 0, 0]


def test_runs_that_are_the_same_so_far_are_computed_once(clip):
    """Windows that the first layer cuts short part where the shorter one ends."""
    model, inputs, baseline = clip
    n = inputs.n_pos - int(inputs.spans["question"].positions[0])
    windows = ["audio->question@0", "audio->question@0-1", "audio->question@0-2", "video->question@0"]
    assert rows_computed(model, lambda: baseline.run([*windows, windows[0]])) == [2 * n, 3 * n, 4 * n]
    edit = av.ablate("blocks.1.hook_mlp_out", "question")
    twice = [[edit, "audio->last@2"], [av.ablate("blocks.1.hook_mlp_out", "question"), "video->last@2"], [edit]]
    assert rows_computed(model, lambda: baseline.run(twice)) == [0, n, 3 * n]
    found = baseline.run([*windows, *twice])
    for specs, logits in zip(found.interventions, found.logits, strict=True):
        assert_close(logits, naive(model, inputs, specs)[0], specs)


def test_where_cuts_start_only_the_rows_that_they_touch_go_on(clip):
    """The others are read, and stay as they are; from the next layer on everything behind the first one changes."""
    model, inputs, baseline = clip
    n = inputs.n_pos - int(inputs.spans["audio"].positions[0])
    readers = [row for row in inputs.spans["video"] if row > inputs.spans["audio"].positions[0]]
    first = inputs.n_pos - readers[0]
    assert n > first > len(readers) + 8
    mlp_rows = rows_computed(model, lambda: baseline.run(["audio->video@0-1"]), lambda block: block.mlp)
    assert mlp_rows == [len(readers), first, 1]
    name = "blocks.0.hook_resid_post@av"
    found = baseline.run(["audio->video@0-1"], read=["last", name])
    _, cache = model.run_with_cache(inputs, names_filter=name, interventions="audio->video@0-1")
    assert_close(found.activations[name][0], cache[name][0], [name])


def test_rows_that_were_not_kept_are_computed_again(clip, caplog):
    model, inputs, baseline = clip
    slim = model.baseline(inputs, touched="question")
    assert slim.n_bytes < baseline.n_bytes
    with caplog.at_level(logging.INFO, "hooked_av.clean_pass"):
        found = slim.run(["audio->question@1", "audio->video@1"])
    assert "was not kept: computed again" in caplog.text
    torch.testing.assert_close(found.logits, baseline.run(["audio->question@1", "audio->video@1"]).logits)


def test_small_batches_give_the_same(clip, monkeypatch):
    model, _, baseline = clip
    sweep = [f"{keys}->question@{layer}" for keys in ("audio", "video") for layer in range(3)]
    wanted = baseline.run(sweep).logits
    row = 4 * (2 * model.cfg.d_mlp + 4 * model.cfg.d_model)
    torch.testing.assert_close(baseline.run(sweep, max_bytes=5 * row).logits, wanted)
    with pytest.raises(MemoryBudgetError):
        baseline.run(sweep, max_bytes=4 * row)
    attend = type(baseline).attend
    monkeypatch.setattr(type(baseline), "attend", lambda *a, **more: replace(attend(*a, **more), max_scores=1))
    torch.testing.assert_close(baseline.run([*sweep, "audio->video@0"]).logits[:-1], wanted, rtol=1e-5, atol=1e-5)


# --- what cannot be replayed ----------------------------------------------------------------------------------------


def test_what_needs_a_full_pass_runs_and_says_so(clip):
    model, inputs, baseline = clip
    sweep = [
        "audio->last@1",
        av.ablate("blocks.1.attn.hook_pattern", "last<-video"),
        av.ablate("hook_audio_embed", "audio"),
    ]
    with pytest.warns(HookedAVWarning, match="2 of 3 interventions run as full forward passes"):
        found = baseline.run(sweep)
    assert found.full_passes == (1, 2)
    for specs, logits in zip(sweep, found.logits, strict=True):
        torch.testing.assert_close(logits, naive(model, inputs, specs)[0], rtol=1e-4, atol=1e-4)


def test_open_hooks_and_interventions_are_obeyed(clip):
    model, inputs, baseline = clip
    with model.intervene("video->last@0"):
        found = baseline.run(["audio->last@1", []])
        torch.testing.assert_close(found.logits[0], naive(model, inputs, "audio->last@1")[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.logits[1], naive(model, inputs, ())[0], rtol=1e-4, atol=1e-4)
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", lambda x, hook: x * 0.5)]):
        with pytest.warns(HookedAVWarning, match="1 of 1 interventions run as full"):
            found = baseline.run(["audio->last@1"])
        assert torch.equal(found.logits[0], naive(model, inputs, "audio->last@1")[0])
        with pytest.raises(HookError, match="hooks are open"):
            model.baseline(inputs)


def test_baselines_that_do_not_fit_are_refused(clip):
    model, inputs, baseline = clip
    with pytest.raises(InputsError, match="one prompt without padding"):
        model.baseline(model.batch([inputs, inputs]))
    with pytest.raises(MemoryBudgetError):
        model.baseline(inputs, max_bytes=baseline.n_bytes - 1)
    assert model.baseline(inputs, max_bytes=baseline.n_bytes).n_bytes == baseline.n_bytes
