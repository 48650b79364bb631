"""A pass owns its run: passes begun by hooks, in threads, by callbacks and after errors each see their own spans."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

import hooked_av as av

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = av.random_omni(n_layers=3)
SHORT = MODEL.prepare(question="Which digit?")
LONG = MODEL.prepare(question="Which of the two letters do you see first in the picture on the left?")
RESID = "blocks.{}.hook_resid_post@question"


def question_rows(inputs, layer=2):
    """The rows that a span hook must see, taken from a whole activation."""
    name = f"blocks.{layer}.hook_resid_post"
    with torch.no_grad():
        return MODEL.run_with_cache(inputs, names_filter=name)[1][name][:, list(inputs.spans["question"])]


def rows_seen(into):
    return lambda rows, hook: into.append(rows.detach().clone())


def runs_another(how):
    """A hook that runs the model on the other prompt, in one of many ways."""

    def hook_function(tensor, hook):
        how()

    return hook_function


def refused(fwd_hooks=(), **arguments):
    with pytest.raises((av.HookedAVError, ZeroDivisionError)):
        MODEL.run_with_hooks(LONG, fwd_hooks=fwd_hooks, **arguments)


NESTED = {
    "a plain pass": lambda: MODEL(LONG),
    "hooks": lambda: MODEL.run_with_hooks(LONG, fwd_hooks=[(RESID.format(0), lambda rows, hook: rows * 0)]),
    "a cache": lambda: MODEL.run_with_cache(LONG, names_filter=RESID.format(1)),
    "interventions": lambda: MODEL(
        LONG, interventions=["system->question", av.ablate("blocks.0.hook_mlp_out", "last")]
    ),
    "a baseline": lambda: MODEL.baseline(LONG).run([av.ablate("blocks.1.hook_mlp_out", "last"), "system->last@2"]),
    "generation": lambda: MODEL.generate(LONG, max_new_tokens=2, interventions="system->last|generated"),
    "dropped tokens": lambda: MODEL(LONG, interventions=av.drop_tokens("system", 1)),
    "a pattern": lambda: MODEL.run_with_cache(LONG, names_filter="blocks.1.attn.hook_pattern@last"),
    "an error": lambda: refused(interventions="nothing->last"),
    "a pass that breaks off": lambda: refused(fwd_hooks=[(RESID.format(1), lambda rows, hook: 1 / 0)]),
}


@pytest.mark.parametrize("how", NESTED.values(), ids=NESTED.keys())
@pytest.mark.parametrize(
    "point", ["hook_embed", "blocks.0.hook_resid_pre", "blocks.1.attn.hook_pattern", "blocks.2.ln1.hook_scale"]
)
def test_span_hooks_of_the_outer_pass_see_its_own_rows(how, point):
    seen, wanted = [], question_rows(SHORT)
    hooks = [(point, runs_another(how)), (RESID.format(2), rows_seen(seen))]
    with torch.no_grad():
        logits = MODEL.run_with_hooks(SHORT, fwd_hooks=hooks)
        assert torch.equal(logits, MODEL(SHORT))
    assert len(seen) == 1, "hooks of the outer pass do not act in the inner one"
    assert torch.equal(seen[0], wanted)


@pytest.mark.parametrize("how", NESTED.values(), ids=NESTED.keys())
def test_caches_of_the_outer_pass_hold_its_own_rows(how):
    names = [
        "blocks.0.hook_resid_pre",
        "blocks.*.hook_resid_post@question",
        "blocks.*.attn.hook_pattern@last<-question",
    ]
    with torch.no_grad():
        _, wanted = MODEL.run_with_cache(SHORT, names_filter=names)
        with MODEL.hooks([("blocks.1.hook_mlp_out", runs_another(how))]):
            _, found = MODEL.run_with_cache(SHORT, names_filter=names)
    assert sorted(found) == sorted(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert torch.equal(found["blocks.0.hook_resid_pre@question"], wanted["blocks.0.hook_resid_pre@question"])


@pytest.mark.parametrize("how", NESTED.values(), ids=NESTED.keys())
def test_interventions_of_the_outer_pass_act_on_its_own_rows(how):
    specs = ["system->question", av.ablate("blocks.2.hook_mlp_out", "question"), av.drop_tokens("system", 2)]
    with torch.no_grad():
        wanted = MODEL(SHORT, interventions=specs)
        with MODEL.hooks([("blocks.0.hook_attn_out", runs_another(how))]):
            assert torch.equal(MODEL(SHORT, interventions=specs), wanted)


def test_gradients_come_to_the_rows_of_their_own_pass():
    def loss(extra=()):
        kept, forward, backward = MODEL.get_caching_hooks(RESID.format(1), incl_bwd=True)
        with MODEL.hooks([*forward, *extra], backward):
            MODEL(SHORT)[0, -1, 7].backward()
        return kept

    wanted, found = loss(), loss([("blocks.2.hook_mlp_out", runs_another(NESTED["a plain pass"]))])
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert len(found) == 2


def test_a_gradient_hook_may_run_the_model():
    seen = []
    hooks = [
        (RESID.format(2), runs_another(NESTED["a plain pass"])),
        (RESID.format(1), rows_seen(seen)),
    ]
    with MODEL.hooks(bwd_hooks=hooks):
        MODEL(SHORT)[0, -1, 7].backward()
    assert [rows.shape[1] for rows in seen] == [len(SHORT.spans["question"])]


def test_a_generation_whose_hooks_and_callback_run_the_model():
    seen = []
    run_other = runs_another(NESTED["interventions"])
    arguments = {"max_new_tokens": 4, "stop_tokens": (), "keep": "logits", "interventions": "system->last|generated"}
    plain = MODEL.generate(SHORT, **arguments)
    hooks = [("blocks.1.hook_mlp_out", run_other), ("blocks.2.hook_resid_post@last|generated", rows_seen(seen))]
    busy = MODEL.generate(SHORT, **arguments, fwd_hooks=hooks, on_token=lambda tokens: NESTED["dropped tokens"]())
    assert torch.equal(busy.logits, plain.logits)
    assert [rows.shape[1] for rows in seen] == [1] * 4


def test_a_baseline_made_and_run_in_a_hook_is_that_of_its_own_prompt():
    found, specs = [], ["system->last@1", av.ablate("blocks.1.hook_mlp_out", "question")]
    wanted = MODEL.baseline(LONG).run(specs).logits
    with MODEL.hooks([("blocks.0.hook_resid_pre", lambda rows, hook: found.append(MODEL.baseline(LONG).run(specs)))]):
        MODEL(SHORT)
    assert found[0].full_passes == (), "the hook that is open outside is not open here"
    assert torch.equal(found[0].logits, wanted)


@pytest.mark.parametrize("how", ["hooks", "interventions", "generation"])
def test_after_an_error_nothing_is_left(how):
    def breaks_off(tensor, hook):
        NESTED[how]()
        raise ZeroDivisionError

    before = MODEL(SHORT)
    with (
        pytest.raises(ZeroDivisionError),
        MODEL.intervene("system->last"),
        MODEL.hooks([(RESID.format(0), rows_seen([]))]),
    ):
        MODEL.run_with_hooks(SHORT, fwd_hooks=[("blocks.1.hook_mlp_out", breaks_off)])
    assert MODEL.open_interventions == ()
    assert not any(point.is_hooked for point in MODEL.hook_dict.values())
    assert torch.equal(MODEL(SHORT), before)


def test_blocks_may_be_left_in_any_order():
    first, second = MODEL.intervene("system->last"), MODEL.intervene("system->question")
    seen = []
    hooks = MODEL.hooks([(RESID.format(0), rows_seen(seen))])
    first.__enter__(), hooks.__enter__(), second.__enter__()
    first.__exit__(None, None, None)
    assert [str(spec) for spec in MODEL.open_interventions] == ["block system → question in every layer"]
    hooks.__exit__(None, None, None)
    with torch.no_grad():
        cut = MODEL(SHORT)
    second.__exit__(None, None, None)
    assert torch.equal(cut, MODEL(SHORT, interventions="system->question"))
    assert MODEL.open_interventions == ()
    assert seen == []


def test_hooks_that_stay_act_in_every_pass_until_they_are_reset():
    seen = []
    with MODEL.hooks([(RESID.format(0), rows_seen(seen))], reset_hooks_end=False):
        MODEL(SHORT)
    MODEL(LONG)
    assert [rows.shape[1] for rows in seen] == [len(inputs.spans["question"]) for inputs in (SHORT, LONG)]
    MODEL.reset_hooks()
    MODEL(LONG)
    assert len(seen) == 2


# --- threads -------------------------------------------------------------------------------------------------------


def in_two_threads(work, n=25):
    """`work(inputs, number)` in two threads, each with its own prompt, step by step at the same time."""
    barrier = Barrier(2, timeout=60)  # a thread that fails must not leave the other waiting

    def loop(inputs):
        found = []
        for number in range(n):
            barrier.wait()
            found.append(work(inputs, number))
        return found

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(loop, [SHORT, LONG]))


def test_two_threads_with_a_hook_each_see_their_own_rows():
    def work(inputs, number):
        seen = []
        with torch.no_grad():
            logits = MODEL.run_with_hooks(inputs, fwd_hooks=[(RESID.format(2), rows_seen(seen))])
        return logits, seen

    for inputs, found in zip((SHORT, LONG), in_two_threads(work), strict=True):
        wanted, logits = question_rows(inputs), MODEL(inputs)
        for own_logits, seen in found:
            assert len(seen) == 1
            assert torch.equal(seen[0], wanted)
            assert torch.equal(own_logits, logits)


def test_two_threads_with_their_own_spans_patterns_and_interventions():
    own = {id(SHORT): SHORT.with_span("short", [3, 5]), id(LONG): LONG.with_span("long", [2, 4, 6])}

    def work(inputs, number):
        mine = own[id(inputs)]
        name = "short" if inputs is SHORT else "long"
        names = [f"blocks.1.attn.hook_pattern@last<-{name}", f"blocks.*.hook_resid_post@{name}"]
        with torch.no_grad(), MODEL.intervene(f"{name}->last@1"):
            logits, cache = MODEL.run_with_cache(mine, names_filter=names)
            return logits, dict(cache.cache_dict)

    alone = [work(inputs, 0) for inputs in (SHORT, LONG)]
    for (wanted, cached), found in zip(alone, in_two_threads(work), strict=True):
        for logits, cache in found:
            assert torch.equal(logits, wanted)
            assert all(torch.equal(cache[name], cached[name]) for name in cached)
    assert MODEL.open_interventions == ()
    assert not any(point.is_hooked for point in MODEL.hook_dict.values())


def test_two_threads_that_generate_and_replay():
    def work(inputs, number):
        answer = MODEL.generate(inputs, max_new_tokens=3, stop_tokens=(), interventions="system->last|generated")
        return answer.tokens, MODEL.baseline(inputs).run(["system->last@1", "system->question@0-1"]).logits

    alone = [work(inputs, 0) for inputs in (SHORT, LONG)]
    for (tokens, logits), found in zip(alone, in_two_threads(work, n=8), strict=True):
        for own_tokens, own_logits in found:
            assert own_tokens == tokens
            assert torch.equal(own_logits, logits)


def test_a_hook_of_one_thread_does_not_act_in_another():
    seen = []
    with MODEL.hooks([(RESID.format(0), rows_seen(seen))]), ThreadPoolExecutor(1) as pool, torch.no_grad():
        elsewhere = pool.submit(lambda: MODEL(LONG)).result()
    assert seen == []
    assert torch.equal(elsewhere, MODEL(LONG))
