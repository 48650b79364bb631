"""Replays: what can be read of them, what they compute and what not, and what runs as a full pass or is refused."""

import logging
from dataclasses import replace

import pytest
import torch
from support.families import FAMILIES
from support.replays import assert_close, film, naive

import hooked_av as av
from hooked_av.decoder import costs
from hooked_av.errors import HookedAVWarning, HookError, InputsError, InterventionError, MemoryBudgetError, SpanError

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning"),
]


@pytest.fixture(params=FAMILIES)
def clip(request):
    return film(request.param)


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


def test_what_changes_behind_the_rows_that_are_read(clip):
    """The first cut touches rows that nobody reads; the run joins where a row that is read changes."""
    model, inputs, _ = clip
    video = inputs.spans["video"].positions
    here = inputs.with_span("here", range(int(video[len(video) // 3]), int(video[len(video) // 2])))
    late = here.with_span("late", range(int(video[-8]), int(video[-1])))
    specs = [av.block_attention(keys="audio", queries="late", layers=0), "audio->here@1"]
    found = model.baseline(late).run([specs], read="here").logits[0]
    assert_close(found, naive(model, late, specs, "here"), specs)
    assert not torch.allclose(found, naive(model, late, (), "here"), atol=1e-4)


def test_logits_that_no_change_reaches_beside_a_read_that_one_does(clip):
    model, inputs, _ = clip
    inputs, last = inputs.with_span("here", [3]), model.cfg.n_layers - 1
    name = f"blocks.{last}.hook_resid_post@audio"
    spec = av.ablate(f"blocks.{last}.hook_mlp_out", "audio")
    found = model.baseline(inputs).run([spec], read=["here", name])
    _, cache = model.run_with_cache(inputs, names_filter=name, interventions=spec)
    assert torch.equal(found.logits[0], naive(model, inputs, (), "here")[0])
    assert_close(found.activations[name][0], cache[name][0], [name])


def test_a_row_that_one_head_leaves_without_keys_is_reported(clip):
    _, _, baseline = clip
    for heads in ([0], None):
        with pytest.warns(HookedAVWarning, match="1 query rows have no key left"):
            baseline.run([av.block_attention(keys="everything", queries="last", layers=1, heads=heads)])


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
    for alike in (av.drop_tokens("video", 1), av.block_random(like="audio->question@1-2", seed=3)):
        one = rows_computed(model, lambda alike=alike: baseline.run([alike]))
        assert rows_computed(model, lambda alike=alike: baseline.run([alike, replace(alike)])) == one
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
    with caplog.at_level(logging.INFO, "hooked_av.replay.clean_pass"):
        found = slim.run(["audio->question@1", "audio->video@1"])
    assert "was not kept: computed again" in caplog.text
    torch.testing.assert_close(found.logits, baseline.run(["audio->question@1", "audio->video@1"]).logits)


def test_an_interrupted_recomputation_leaves_the_baseline_as_it_was(clip, monkeypatch):
    model, inputs, baseline = clip
    slim, block = model.baseline(inputs, touched="question"), model.blocks[1]
    spec = av.ablate("blocks.2.hook_resid_pre", "video")

    def interrupted(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(block, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            slim.run([spec])
    torch.testing.assert_close(slim.run([spec]).logits, baseline.run([spec]).logits)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-5), (torch.bfloat16, 5e-2)], ids=str)
def test_models_of_other_precisions(dtype, off):
    """What is read of shared and of own keys is joined in float32."""
    model = av.random_omni(n_layers=2)
    inputs = model.prepare(question="Which digit do you hear, and which one do you see?")
    model.to(dtype)
    found = model.baseline(inputs).run(["system->question@0"]).logits
    assert found.dtype == dtype
    torch.testing.assert_close(found[0], naive(model, inputs, "system->question@0")[0], rtol=off, atol=off)


def test_small_batches_give_the_same(clip, monkeypatch):
    model, _, baseline = clip
    sweep = [f"{keys}->question@{layer}" for keys in ("audio", "video") for layer in range(3)]
    wanted = baseline.run(sweep).logits
    row = 4 * (2 * model.cfg.d_mlp + 4 * model.cfg.d_model)
    torch.testing.assert_close(baseline.run(sweep, max_bytes=5 * row).logits, wanted)
    with pytest.raises(MemoryBudgetError):
        baseline.run(sweep, max_bytes=4 * row)
    attend = type(baseline.clean).attend
    monkeypatch.setattr(type(baseline.clean), "attend", lambda *a, **more: replace(attend(*a, **more), max_scores=1))
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


def test_masks_that_are_too_many_are_made_again(clip, monkeypatch):
    model, inputs, _ = clip
    specs = [av.block_attention(keys="video", queries="last", heads=head) for head in range(2)]
    wanted = model.baseline(inputs).run(specs).logits
    monkeypatch.setattr(costs, "MASK_BYTES", 1)
    assert torch.equal(model.baseline(inputs).run(specs).logits, wanted)


def test_the_norm_alone_is_read_without_logits(clip):
    model, inputs, _ = clip
    found = model.baseline(inputs).run(["video->last"], read=["ln_final.hook_normalized@last"])
    assert found.logits is None
    _, cache = model.run_with_cache(inputs, names_filter="ln_final.hook_normalized@last", interventions="video->last")
    (rows,) = found.activations.values()
    torch.testing.assert_close(rows[0].view(-1), cache["ln_final.hook_normalized@last"].view(-1), rtol=1e-4, atol=1e-4)
