"""Nothing is silently without effect: logits change, or somebody says why not."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.interventions import numbers_of

import hooked_av as av
from hooked_av.decoder import costs
from hooked_av.decoder.cut_masks import takes_pairs
from hooked_av.decoder.cuts import Cut, Keep, RandomCut
from hooked_av.errors import HookedAVError, HookedAVWarning, InterventionError
from hooked_av.interventions.specs import DropTokens

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = av.random_omni(n_layers=2)
INPUTS = MODEL.prepare(question="Which digit do you hear?")
INPUTS = INPUTS.with_span("everything", range(INPUTS.n_pos)).with_span("middle", range(8, 16))
OTHER = MODEL.prepare(question="Which letter do you hear, if you hear any at all?").with_span("middle", range(4, 12))


@dataclass(frozen=True)
class Idle(av.interventions.Intervention):
    """A spec that finds nothing to do."""

    def cuts(self, run, cfg):
        return []


# --- every kind of spec, every way to run it -------------------------------------------------------------------------

SPANS = st.sampled_from(["system", "middle", "question", "assistant", "last", "everything", "last|generated"])
LAYERS = st.sets(st.integers(0, 1), min_size=1).map(sorted)
ROUTES = st.builds("{}->{}@{}".format, SPANS, SPANS, st.sampled_from(["0", "1", "0-1"]))
CUTS = st.builds(
    lambda keys, queries, layers, heads: av.block_attention(keys=keys, queries=queries, layers=layers, heads=heads),
    SPANS, SPANS, LAYERS, st.none() | st.sets(st.integers(0, 3), min_size=1).map(sorted),
)  # fmt: skip
KEEPS = st.lists(ROUTES, min_size=1, max_size=2).map(lambda some: av.keep_only(*some))
RANDOM = st.builds(av.block_random, CUTS | KEEPS, spread=st.sampled_from(["entries", "rows"]), seed=st.integers(0, 9))
DROPS = st.builds(av.drop_tokens, st.sampled_from(["system", "middle", "question"]), st.integers(0, 1))
POINTS = st.builds("blocks.{}.{}".format, st.integers(0, 1), st.sampled_from(["hook_mlp_out", "hook_resid_pre"]))
EDITS = st.one_of(
    st.builds(av.ablate, POINTS, SPANS, st.sampled_from(["zero", "mean"])),
    st.builds(av.patch, POINTS, SPANS, st.integers(0, 9).map(lambda seed: numbers_of((MODEL.cfg.d_model,), seed))),
    st.builds(av.add_vector, POINTS, SPANS, st.just(torch.ones(MODEL.cfg.d_model))),
    st.builds("{}<-{}".format, SPANS, SPANS).map(lambda span: av.ablate("blocks.1.attn.hook_pattern", span)),
)
SPECS = CUTS | ROUTES | KEEPS | RANDOM | DROPS | EDITS | st.just(Idle())


def whole(model, inputs, specs):
    """Logits of every row, so that what no answer reads counts as well."""
    with torch.no_grad():
        return model(inputs, interventions=specs)


def in_blocks(model, inputs, specs):
    with torch.no_grad(), model.intervene(*specs[:1]), model.intervene(*specs[1:]):
        return model(inputs)


def replayed(model, inputs, specs):
    read = "last" if any(isinstance(spec, DropTokens) for spec in specs) else "everything"
    return model.baseline(inputs).run([specs], read=read).logits.view(1, -1, model.cfg.d_vocab)


def written(model, inputs, specs):
    return model.generate(inputs, max_new_tokens=3, stop_tokens=(), keep="logits", interventions=specs).logits


WAYS = {"a pass": whole, "blocks": in_blocks, "a replay": replayed, "generate": written}


def is_silent(way, specs):
    """Whether a run with these specs is the run without the last of them, and nobody says anything."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            ours, without = WAYS[way](MODEL, INPUTS, specs), WAYS[way](MODEL, INPUTS, specs[:-1])
        except HookedAVError:
            return False
    told = [str(warning.message) for warning in said if issubclass(warning.category, HookedAVWarning)]
    n_rows = min(ours.shape[1], without.shape[1])
    return not told and ours.shape == without.shape and torch.equal(ours[:, -n_rows:], without[:, -n_rows:])


@pytest.mark.parametrize("way", ["a pass", "blocks"])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(specs=st.lists(SPECS, min_size=1, max_size=2))
def test_a_run_differs_or_somebody_says_why_not(way, specs):
    # rows may be cut or edited in the layer before they leave, and nobody reads them any more: that is no silence
    assume(not any(isinstance(spec, DropTokens) for spec in specs[:-1]))
    assert not is_silent(way, specs), specs


ONE_OF_EACH = {
    "a cut": ["system->last"],
    "a cut of later tokens": ["system->last|generated"],
    "the wrong way round": ["last->system"],
    "a cut of what is cut": ["system->last", av.block_attention("system->last", heads=1)],
    "a cut of what has left": [av.drop_tokens("system", 1), "system->last@1"],
    "routes that stay": [av.keep_only("everything->last", "system->system")],
    "every route stays": [av.keep_only("everything->everything")],
    "a random cut": [av.block_random("system->last")],
    "a random cut of what every route leaves": [av.block_random(av.keep_only("everything->everything"))],
    "ablate": [av.ablate("blocks.0.hook_mlp_out", "last")],
    "ablate what has left": [av.drop_tokens("system", 0), av.ablate("blocks.1.hook_mlp_out", "system")],
    "ablate attention": [av.ablate("blocks.1.attn.hook_pattern", "last<-system")],
    "patch": [av.patch("blocks.1.hook_resid_pre", "last", torch.ones(MODEL.cfg.d_model))],
    "add_vector": [av.add_vector("blocks.1.hook_resid_pre", "last", torch.ones(MODEL.cfg.d_model))],
    "drop_tokens": [av.drop_tokens("system", 1)],
    "drop_tokens twice": [av.drop_tokens("question", 0), av.drop_tokens("question", 1)],
    "drop_tokens twice, later first": [av.drop_tokens("question", 0), av.drop_tokens("question", 0)],
    "a spec with nothing to do": [Idle()],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("specs", ONE_OF_EACH.values(), ids=ONE_OF_EACH)
def test_one_of_each_kind_acts_or_is_reported_however_it_is_run(specs, way):
    assert not is_silent(way, specs)


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_error_says_that_keys_and_queries_are_to_be_swapped():
    with pytest.raises(InterventionError, match=r"never act \(block last → system(.|\n)*swap keys and queries"):
        whole(MODEL, INPUTS, "last->system")
    assert not torch.equal(whole(MODEL, INPUTS, "system->last"), whole(MODEL, INPUTS, ()))


REPORTED = {
    r"drop_tokens takes away its rows": [av.drop_tokens("system", 0), "system->last"],
    r"system → last in layers \[1\]\): drop_tokens": [av.drop_tokens("system", 1), "system->last@1"],
    r"other interventions cut the same": ["system->last", "system->last@1"],
    r"heads \[1\]\): other interventions": ["system|user->last", av.block_attention("user->last", heads=1)],
    r"system → last in every layer\): other interventions": [
        av.block_attention("system->last", heads=range(4)),
        "system->last",
    ],
    r"heads \[1, 3\]\): other interventions": [
        *(av.block_attention("system->last", heads=heads) for heads in ([0, 1], [2, 3], [1, 3]))
    ],
    r"its rows have left before": [av.drop_tokens("system", 0), av.drop_tokens("system", 1)],
    r"leave every \(query, key\) pair": [av.keep_only("everything->everything")],
    r"the same was done before": [av.ablate("blocks.0.hook_mlp_out", "system")] * 2,
    r"these rows are zero already": [
        av.ablate("blocks.0.hook_mlp_out", "system|middle"),
        av.ablate("blocks.0.hook_mlp_out", "system", "mean"),
    ],
    r"the mean of one row is the row itself": [av.ablate("blocks.0.hook_mlp_out", "last", "mean")],
    r"it neither cuts, nor edits, nor drops": [Idle()],
}


@pytest.mark.parametrize(("says", "specs"), REPORTED.items(), ids=REPORTED)
def test_what_only_this_run_leaves_empty_is_reported(says, specs):
    with pytest.warns(HookedAVWarning, match=says):
        whole(MODEL, INPUTS, specs)


FINE = {
    "a part of what leaves": [av.drop_tokens("system", 1), "system->last"],
    "other heads": [av.block_attention("system->last", heads=0), av.block_attention("system->last", heads=[0, 1])],
    "all heads but one, then all": [av.block_attention("system->last", heads=[0, 1, 2]), "system->last"],
    "more keys": ["system->last", "system|user->last"],
    "another layer": ["system->last@0", "system->last@1"],
    "a token that may not read itself": ["last->last"],
    "nothing": [],
}


@pytest.mark.parametrize("specs", FINE.values(), ids=FINE)
def test_what_acts_is_not_reported(specs, recwarn):
    whole(MODEL, INPUTS, specs)
    assert not [warning for warning in recwarn if issubclass(warning.category, HookedAVWarning)]


def test_a_batch_names_the_prompts_in_which_nothing_happens():
    """The span `middle` reads the whole question in no prompt, and a part of it in the first."""
    batch = MODEL.batch([INPUTS.with_span("q", [14, 15]), OTHER.with_span("q", [18, 19])])
    with pytest.warns(HookedAVWarning, match=r"changes nothing in prompts \[1\] of the batch.*causal order"):
        cut = whole(MODEL, batch, "q->middle")
    clean = whole(MODEL, batch, ())
    assert torch.equal(cut[1], clean[1])
    assert not torch.equal(cut[0], clean[0])
    alone = MODEL.batch([OTHER.with_span("q", [18, 19])] * 2)
    with pytest.raises(InterventionError, match="never act"):
        whole(MODEL, alone, "q->middle")


def test_what_an_encoder_overwrites_cannot_be_edited():
    clip = av.Clip.from_arrays(torch.zeros(2, 56, 56, 3, dtype=torch.uint8).numpy(), fps=1)
    inputs = MODEL.prepare(clip, question="What moves?")
    with pytest.raises(InterventionError, match=r"does not fit hook_embed(.|\n)*only rows of media"):
        MODEL(inputs, interventions=av.ablate("hook_embed", "video"))
    assert not torch.equal(whole(MODEL, inputs, av.ablate("hook_embed", "question")), whole(MODEL, inputs, ()))


# --- which cuts take a pair ------------------------------------------------------------------------------------------

POSITIONS = st.sets(st.integers(0, 11), max_size=6).map(lambda some: torch.tensor([sorted(some)], dtype=torch.int64))
SOME_HEADS = st.sets(st.integers(0, 3), min_size=1).map(tuple)
ONE_CUT = st.builds(Cut, POSITIONS, POSITIONS, st.none() | SOME_HEADS)
ANY_CUT = st.one_of(
    ONE_CUT,
    st.lists(ONE_CUT, max_size=2).map(lambda some: Keep(tuple(some))),
    st.lists(st.integers(0, 1), min_size=12, max_size=12).map(
        lambda some: RandomCut.drawn(torch.tensor([some]), (0,), 3, None)
    ),
)


@pytest.mark.parametrize("block", [1, 5, 256])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=ANY_CUT, others=st.lists(ANY_CUT, max_size=2), queries=POSITIONS, keys=POSITIONS)
def test_a_cut_takes_a_pair_exactly_if_there_is_one(monkeypatch, block, cut, others, queries, keys):
    """Beside pairs that are looked at one by one, in each head."""
    monkeypatch.setattr(costs, "CUT_BLOCK", block)

    def takes(some, head, query, key):
        return head in (some.heads or range(4)) and bool(some.blocked(torch.tensor([[query]]), torch.tensor([[key]])))

    pairs = [
        (query, key, {head for head in range(4) if takes(cut, head, query, key)})
        for query in queries[0].tolist() for key in keys[0].tolist() if key <= query
    ]  # fmt: skip
    left = [
        any(not any(takes(other, head, query, key) for other in others) for head in heads)
        for query, key, heads in pairs
    ]
    assert takes_pairs(cut, queries, keys, others, 4) is any(left)


def test_between_media_the_order_is_the_prompts_own():
    """The sound of a film of one second comes after its frames; of a longer film it stands between them."""
    frames = np.zeros((8, 28, 28, 3), np.uint8)
    loud = {"waveform": np.full(16_000, 0.1, np.float32), "sampling_rate_hz": 16_000}
    long = {"waveform": np.full(64_000, 0.1, np.float32), "sampling_rate_hz": 16_000}
    short, longer = (
        MODEL.prepare(av.Clip.from_arrays(frames, fps, **sound), question="What moves?")
        for fps, sound in ((8, loud), (2, long))
    )
    with pytest.warns(HookedAVWarning, match=r"changes nothing(.|\n)*in this prompt, all of these keys come after"):
        assert MODEL(short, interventions="audio->video").equal(MODEL(short))
    assert not MODEL(longer, interventions="audio->video").equal(MODEL(longer))
    with pytest.raises(InterventionError, match="can never act"):
        MODEL(short, interventions="question->video")


def test_scores_of_later_keys_may_be_ablated_and_numpys_layers_are_layers():
    spec = av.ablate("blocks.1.attn.hook_attn_scores", "last<-system")
    assert not torch.equal(whole(MODEL, INPUTS, [spec]), whole(MODEL, INPUTS, []))
    ours = av.block_attention(keys="system", queries="last", layers=[np.int64(0)])
    assert ours == av.block_attention(keys="system", queries="last", layers=[0])
    assert all(type(layer) is int for layer in ours.layers)
