"""Whatever a user has done with a model, it gives what it should: a machine looks for states in which it does not."""

import copy
import gc
import pickle
from contextvars import Context

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from support.families import FAMILIES
from support.state_faults import FAULTS
from support.state_walks import WALKS, machine_of, walk

import hooked_av as av
from hooked_av.errors import HookError
from hooked_av.hooks.open_blocks import what_is_open
from hooked_av.hooks.run import current_run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::hooked_av.HookedAVWarning"),
]
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("steps", WALKS.values(), ids=WALKS)
@every_family
def test_on_every_walk_a_model_gives_what_it_should(family, steps):
    walk(family, steps)


def test_the_walks_take_every_rule():
    rules = {rule.function.__name__ for rule in machine_of(FAMILIES["omni"])().rules}
    assert rules == {rule for steps in WALKS.values() for rule, _ in steps}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen(monkeypatch, fault):
    plant, name = FAULTS[fault]
    plant(monkeypatch)
    with pytest.raises((AssertionError, RecursionError)):
        Context().run(walk, FAMILIES["omni"], WALKS[name])


@every_family
def test_in_every_state_a_model_gives_what_a_fresh_one_is_told_to_give(family):
    quick = settings(max_examples=4, stateful_step_count=20, derandomize=True, **COMMON)
    run_state_machine_as_test(machine_of(family), settings=quick)


@pytest.mark.slow
@every_family
def test_in_far_more_states(family):
    run_state_machine_as_test(machine_of(family), settings=settings(max_examples=400, stateful_step_count=60, **COMMON))


# --- what it has found ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return av.random_omni(n_layers=2)


@pytest.fixture
def inputs(model):
    return model.prepare(question="Which digit do you hear?")


ZEROS = av.ablate("blocks.1.hook_mlp_out", "last")


def test_inputs_and_caches_and_models_can_be_copied_and_pickled(model, inputs):
    logits, cache = model.run_with_cache(inputs, names_filter="blocks.*.hook_resid_post@last")
    for twin in (pickle.loads(pickle.dumps(inputs)), copy.deepcopy(inputs)):
        assert torch.equal(model(twin), logits)
        with pytest.raises(TypeError):
            twin.settings["fps"] = 3
        with pytest.raises(ValueError, match="read-only"):
            twin.spans["question"].positions[0] = 0
    again = copy.deepcopy(cache)
    assert again.model is model
    assert all(torch.equal(again[key], cache[key]) and again[key] is not cache[key] for key in cache)
    assert torch.equal(copy.deepcopy(model)(inputs), logits)


def test_a_copied_model_has_the_hooks_that_last(model, inputs):
    seen = []
    model.add_hook("blocks.0.hook_mlp_out@last", lambda rows, hook: seen.append(rows.shape[1]))
    twin = copy.deepcopy(model)
    model.reset_hooks()
    twin(inputs)
    assert seen == [1]
    assert [len(point.listeners) for point in twin.hook_dict.values() if point.is_hooked] == [1]


def test_a_pass_that_is_left_before_one_inside_it_takes_nothing_along(model, inputs):
    wanted = model(inputs, interventions=ZEROS)
    outer, inner, hooks = model.begin(inputs), model.begin(inputs), model.intervene(ZEROS)
    outer.__enter__(), inner.__enter__(), hooks.__enter__()
    outer.__exit__(None, None, None)
    assert model.open_interventions == (ZEROS,)
    assert torch.equal(model(inputs), wanted)
    inner.finish(inner.embed())  # it is the one that runs
    inner.__exit__(None, None, None), hooks.__exit__(None, None, None)
    assert (what_is_open(), current_run()) == ((), None)


def test_a_pass_is_not_entered_twice_at_once(model, inputs):
    wanted = model(inputs, interventions=av.add_vector("blocks.0.hook_mlp_out", "last", torch.ones(64)))
    with model.begin(inputs, interventions=av.add_vector("blocks.0.hook_mlp_out", "last", torch.ones(64))) as one:
        with pytest.raises(HookError, match="this pass runs already"):
            one.__enter__()
        assert torch.equal(one.finish(one.embed()), wanted)


def test_hooks_are_reset_but_those_of_open_blocks_and_passes(model, inputs):
    wanted = model(inputs, interventions=ZEROS)
    with model.begin(inputs, interventions=ZEROS) as one:
        model.reset_hooks()
        assert torch.equal(one.finish(one.embed()), wanted)
    seen = []
    with model.hooks([("hook_embed", lambda tensor, hook: seen.append(1))]):
        model.reset_hooks(including_permanent=True)
        model(inputs)
    assert seen == [1]


@pytest.mark.usefixtures("as_a_user")
def test_a_direction_that_is_none_is_refused(model):
    with pytest.raises(HookError, match="no such direction"):
        model.reset_hooks(direction="sideways")


def test_a_block_that_is_dropped_open_leaves_no_error_behind(model, inputs):
    """The garbage collector leaves it, in another context than that in which it was entered."""
    Context().run(model.begin(inputs).__enter__)
    Context().run(model.clean().__enter__)
    gc.collect()
    assert what_is_open() == ()
