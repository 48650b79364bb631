"""Everything that the package hands out can be copied, pickled, and sent to another process, or says why not."""

import copy
import io
import multiprocessing
import pickle
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from support import every_result

import hooked_av as av
from hooked_av.errors import HookedAVError, HookNameError, InputsError
from hooked_av.hooks.cache import AVCache
from hooked_av.interventions import Route
from hooked_av.prompt.spans import Spans
from hooked_av.tiny.samples import read_samples

RESID = "blocks.1.hook_resid_post"


def model():
    return every_result.model()


@cache
def inputs():
    return every_result.inputs()


@cache
def batch():
    return model().batch([case.inputs for case in every_result.cases()])


@cache
def a_cache():
    with torch.no_grad():
        return model().run_with_cache(batch(), names_filter=[RESID, f"{RESID}@audio", "hook_audio_embed"])[1]


def vector():
    return torch.arange(float(model().cfg.d_model))


# The name of what is handed out -> one of it.
MAKERS = {
    **{name: partial(every_result.made, name) for name in every_result.MAKERS},
    "AVInputs": inputs,
    "AVInputs, a batch": batch,
    "AVInputs, a row": lambda: batch()[1],
    "Spans": lambda: inputs().spans,
    "Span": lambda: inputs().spans["audio"],
    "Clip of a file": lambda: av.Clip.from_file(Path(av.__file__).parent / "data" / "bigbuckbunny.mp4", stop=2),
    "Clip of arrays": lambda: av.Clip.from_arrays(
        np.zeros((8, 28, 28, 3), np.uint8), fps=4, waveform=np.zeros(32_000, np.float32), sampling_rate_hz=16_000
    ),
    "Clip of sound": lambda: read_samples()[0].clip.without_video(),
    "Case": lambda: every_result.cases()[0],
    "Pair": lambda: av.make_pair(
        model(), read_samples()[1].clip, "audio", other=read_samples()[3].clip, question="Which digit is spoken first?"
    ),
    "Sample": lambda: read_samples()[0],
    "Generation": lambda: model().generate(inputs(), max_new_tokens=2),
    "AVCache": a_cache,
    "FlatRows": lambda: a_cache().rows(RESID, "audio"),
    "BlockAttention": lambda: av.block_attention("audio->last@1-2", heads=None),
    "KeepOnly": lambda: av.keep_only("audio->last", "question->last@1"),
    "BlockRandom": lambda: av.block_random("audio->last@1", seed=4),
    "DropTokens": lambda: av.drop_tokens("audio", 2),
    "Ablate": lambda: av.ablate(RESID, "audio", vector()),
    "Patch": lambda: av.patch(RESID, "last", torch.ones(model().cfg.d_model)),
    "Add": lambda: av.add_vector(RESID, "last", vector(), scale=2.0),
    "Route": lambda: Route.parse("audio->last@1"),
    "Sampling": lambda: av.Sampling(fps=1),
    "ModelConfig": lambda: model().cfg,
    "an error": lambda: InputsError("what", expected="a", got="b", next_step="c"),
}


@cache
def made(name):
    return MAKERS[name]()


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "torch.save": saved,
}


def same(one, other):
    """Whether two things say the same, whatever they are made of."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if isinstance(one, AVCache):
        return same(one.cache_dict, other.cache_dict) and same(one.rows(RESID, "audio"), other.rows(RESID, "audio"))
    if isinstance(one, Spans):
        return (
            same(dict(one), dict(other)) and one.extent == other.extent and same(vars(one.places), vars(other.places))
        )
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, av.Clip):
        heard = not one.has_audio or same(one.waveform, other.waveform)
        seen = one.kind == "audio" or same(one.read_frames([0]), other.read_frames([0]))
        return heard and seen and repr(one) == repr(other)
    if is_dataclass(one) and type(one).__eq__ is object.__eq__:
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, Exception):
        return str(one) == str(other)
    return one == other or (one != one and other != other)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_says_the_same(name, way):
    thing = made(name)
    twin = way(thing)
    assert type(twin) is type(thing)
    assert same(thing, twin)


def test_every_public_type_that_holds_data_is_here():
    kinds = {type(made(name)).__name__ for name in MAKERS}
    assert set(every_result.MAKERS) <= kinds
    specs = {
        spec.__name__
        for spec in av.interventions.Intervention.kinds.values()
        if spec.__module__.startswith("hooked_av.")
    }
    assert specs <= kinds | {"Edit"}
    assert {"AVInputs", "Spans", "Span", "Clip", "Case", "Pair", "AVCache", "Generation"} <= kinds


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_copied_inputs_run_as_before(way):
    with torch.no_grad():
        wanted = model()(batch())
        assert torch.equal(model()(way(batch())), wanted)
        assert torch.equal(model()(way(inputs())), model()(inputs()))


def test_a_model_is_copied_with_all_that_it_does():
    twin = copy.deepcopy(model())
    with torch.no_grad():
        assert torch.equal(twin(inputs()), model()(inputs()))
        twin.blocks[0].attn.o_proj.weight.zero_()
        assert not torch.equal(twin(inputs()), model()(inputs()))
        assert twin.hook_dict["blocks.0.hook_resid_pre"] is not model().hook_dict["blocks.0.hook_resid_pre"]
        assert torch.equal(pickle.loads(pickle.dumps(model()))(inputs()), model()(inputs()))


def test_a_cache_is_written_without_its_model():
    """Nobody wants the weights in each file of activations."""
    assert len(pickle.dumps(a_cache())) < 2 * sum(x.numel() * x.element_size() for x in a_cache().cache_dict.values())
    twin = pickle.loads(pickle.dumps(a_cache()))
    with pytest.raises(HookedAVError, match=r"cache\.model = model"):
        twin.accumulated_resid()
    with pytest.raises(HookNameError, match="not in the cache"):
        twin["pattern", 1]
    assert copy.deepcopy(a_cache()).model is model()
    twin.model = model()
    assert torch.equal(twin["resid_post", -1 - model().cfg.n_layers + 2], a_cache()["resid_post", 1])


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_baseline_is_kept_where_it_is(way):
    with pytest.raises(InputsError, match="a baseline"):
        way(model().baseline(inputs()))


def check_there(names, things, questions):
    """In the other process: everything has arrived, and inputs run there."""
    there = av.HookedAVTransformer.from_pretrained("tiny-av")
    with torch.no_grad():
        logits = [there(one, logits_at="last") for one in questions]
    return [type(thing).__name__ for thing in things], things, logits


@pytest.mark.slow
def test_everything_crosses_to_a_spawned_process_and_back():
    things = [made(name) for name in MAKERS]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        kinds, back, logits = pool.apply(check_there, (list(MAKERS), things, [inputs(), batch()[0]]))
    assert kinds == [type(thing).__name__ for thing in things]
    assert all(map(same, things, back))
    with torch.no_grad():
        assert all(map(torch.equal, logits, [model()(one, logits_at="last") for one in (inputs(), batch()[0])]))
