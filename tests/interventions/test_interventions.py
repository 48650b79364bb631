"""Attention cuts: specs are checked, equal transformers with a 4-D mask, and obey the oracles of causality."""

import numpy as np
import pytest
import torch

import hooked_av as av
from hooked_av.decoder import costs
from hooked_av.decoder.cut_masks import CausalBlock
from hooked_av.errors import HookedAVWarning, InterventionError, SpanError

pytestmark = [pytest.mark.usefixtures("each_family"), pytest.mark.usefixtures("one_thread")]
# Set for each family in turn.
FAMILY = MODEL = INPUTS = CLEAN = None
LAYERS = range(3)


def use(family):
    global FAMILY, MODEL, INPUTS, CLEAN
    FAMILY, MODEL, INPUTS = family, family.model, family.inputs("audio in video", n_question=6)
    assert len(LAYERS) == MODEL.cfg.n_layers
    CLEAN = logits()


def logits(*specs, inputs=None):
    with torch.no_grad():
        return MODEL(INPUTS if inputs is None else inputs, interventions=specs)


def block(keys, queries, layers=LAYERS, heads=None):
    return av.block_attention(keys=keys, queries=queries, layers=layers, heads=heads)


def published_with_mask(queries, keys, layers):
    """transformers, eager, with a dense additive mask in the chosen layers."""
    text_model, run = FAMILY.reference(INPUTS)
    n_pos = INPUTS.n_pos
    allowed = torch.ones(n_pos, n_pos, dtype=torch.bool).tril()
    causal, cut = allowed.clone(), allowed
    cut[torch.tensor(queries)[:, None], torch.tensor(keys)] = False

    def additive(mask):
        return torch.zeros(1, 1, n_pos, n_pos).masked_fill(~mask, torch.finfo(torch.float32).min)

    for index, layer in enumerate(text_model.layers):
        mask = additive(cut if index in layers else causal)
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, mask=mask: (args, {**kwargs, "attention_mask": mask}), with_kwargs=True
        )
    with torch.no_grad():
        return run()


@pytest.mark.parametrize("keys", ["audio", "video", "av"])
@pytest.mark.parametrize("layers", [[0], [1, 2], [0, 1, 2]], ids=str)
def test_a_cut_equals_transformers_with_a_mask(keys, layers):
    ours = logits(block(keys, "question", layers))
    rows, columns = INPUTS.spans["question"].positions.tolist(), INPUTS.spans[keys].positions.tolist()
    theirs = published_with_mask(rows, columns, layers)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours[0, -1], CLEAN[0, -1], atol=1e-3)


@pytest.mark.parametrize(
    ("keys", "queries"), [("audio", "video"), ("video", "audio"), ("audio", "av"), ("video", "av")]
)
@pytest.mark.parametrize("block_size", [4, 256])
def test_cuts_among_media_equal_transformers_with_a_mask(monkeypatch, keys, queries, block_size):
    """Many rows, in blocks of a mask each, or as causal attention without the keys that they lose."""
    monkeypatch.setattr(costs, "CUT_BLOCK", block_size)
    causal, read = [], CausalBlock.read
    monkeypatch.setattr(CausalBlock, "read", lambda self, *given: causal.append(self) or read(self, *given))
    ours = logits(block(keys, queries, [0, 2]))
    rows, columns = (INPUTS.spans[name].positions.tolist() for name in (queries, keys))
    torch.testing.assert_close(ours, published_with_mask(rows, columns, [0, 2]), rtol=1e-4, atol=1e-4)
    assert bool(causal) is (block_size == 4 and queries != "av")  # among `av` are the keys themselves


def test_keys_that_no_query_could_read_change_nothing():
    """The media and the question may not read the question: the media never could."""
    both = INPUTS.with_span("both", [*INPUTS.spans["av"], *INPUTS.spans["question"]])
    cut = logits(block("question", "both"), inputs=both)
    assert torch.equal(cut, logits(block("question", "question")))
    assert not torch.equal(cut, CLEAN)


def test_a_cut_in_the_last_layer_cannot_reach_the_answer():
    question = INPUTS.with_span("body", list(INPUTS.spans["question"])[:-1])
    cut = logits(block("audio", "body", [LAYERS[-1]]), inputs=question)
    assert torch.equal(cut[0, -1], CLEAN[0, -1])
    assert not torch.equal(cut, CLEAN)


def test_a_cut_never_changes_earlier_rows():
    first = int(INPUTS.spans["question"].positions[0])
    cut = logits(block("audio", "question"))
    assert torch.equal(cut[0, :first], CLEAN[0, :first])


def test_naming_every_head_is_naming_none():
    torch.testing.assert_close(
        logits(block("audio", "question", heads=range(4))), logits(block("audio", "question")), rtol=1e-5, atol=1e-5
    )
    assert not torch.allclose(logits(block("audio", "question", heads=2)), logits(block("audio", "question")))


def test_cuts_add_up():
    both = logits(block("audio", "question"), block("video", "question"))
    torch.testing.assert_close(both, logits(block("av", "question")), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(both, logits(block("audio|video", "question")), rtol=1e-5, atol=1e-5)


def test_the_pattern_shows_the_cut():
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(
            INPUTS,
            names_filter="blocks.1.attn.hook_pattern@question<-audio",
            interventions=[block("audio", "question", [1])],
        )
    assert torch.equal(cache["blocks.1.attn.hook_pattern@question<-audio"].count_nonzero(), torch.tensor(0))


def test_a_cut_that_a_hook_observes_is_the_same_cut():
    """Reading the pattern forces nothing; editing it keeps the cut."""
    spec = block("audio", "question")
    with torch.no_grad():
        seen = MODEL.run_with_hooks(
            INPUTS, fwd_hooks=[("blocks.*.attn.hook_pattern", lambda p, hook: p.clone())], interventions=[spec]
        )
    torch.testing.assert_close(seen, logits(spec), rtol=1e-4, atol=1e-4)


def test_intervene_nests_and_cleans_up():
    with torch.no_grad():
        with MODEL.intervene(block("audio", "question")):
            outer = MODEL(INPUTS)
            with MODEL.intervene(block("video", "question")):
                inner = MODEL(INPUTS)
            assert torch.equal(MODEL(INPUTS), outer)
        assert torch.equal(MODEL(INPUTS), CLEAN)
    assert torch.equal(outer, logits(block("audio", "question")))
    assert torch.equal(inner, logits(block("audio", "question"), block("video", "question")))


def test_intervene_cleans_up_after_an_error():
    with pytest.raises(ZeroDivisionError), MODEL.intervene(block("audio", "question")):
        raise ZeroDivisionError
    assert torch.equal(logits(), CLEAN)


def test_a_row_with_no_key_left_is_reported():
    spec = block("text|av|boundary", "last", [1])
    with pytest.warns(HookedAVWarning, match="no key left"):
        assert logits(spec).isfinite().all()


def test_one_spec_needs_no_list_and_numpy_numbers_are_numbers():
    spec = block("audio", "question", np.int64(1))
    with torch.no_grad():
        assert torch.equal(MODEL(INPUTS, interventions=spec), logits(block("audio", "question", 1)))


def test_specs_are_values():
    one, other = block("audio", "question", [2, 1]), block("audio", "question", (1, 2))
    assert one == other
    assert hash(one) == hash(other)
    assert str(one) == "block audio → question in layers [1, 2]"
    with pytest.raises(AttributeError):
        one.keys = "video"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: block("audio", "question", []), "no layers to cut"),
        (lambda: logits(block("audio", "question", [3])), "no such layers(.|\n)*layers 0 to 2"),
        (lambda: logits(block("audio", "question", [-1])), "no such layers"),
        (lambda: logits(block("audio", "question", [0], heads=[4])), "no such heads"),
        (lambda: MODEL.intervene(block("audio", "question", [7])).__enter__(), "no such layers"),
        (lambda: logits(lambda x: x), "not an intervention"),
        (lambda: block("audio", "question", "all"), "layers are numbers"),
        (lambda: block("audio", "question", [0.5]), "layers are numbers"),
    ],
)
def test_specs_that_do_not_fit_are_refused(make, message):
    with pytest.raises(InterventionError, match=message):
        make()


def test_spans_that_are_not_there_are_refused():
    text_only = FAMILY.inputs("text")
    with pytest.raises(SpanError, match="no span 'audio'"):
        logits(block("audio", "last"), inputs=text_only)
