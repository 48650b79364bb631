"""Spans: set algebra, selectors, time and place, and errors that say what to do."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_av.errors import SpanError
from hooked_av.prompt.spans import Span, Spans, TokenPlaces

SETS = st.sets(st.integers(0, 30), min_size=1)


@given(a=SETS, b=SETS)
def test_algebra_is_that_of_sets(a, b):
    left, right = Span("a", a), Span("b", b)
    assert set(left | right) == a | b
    assert set(left & right) == a & b
    assert set(left - right) == a - b
    assert [p for start, stop in left.runs for p in range(start, stop)] == sorted(a)
    assert all((p in left) == (p in a) for p in range(31))


@given(a=SETS, b=SETS, c=SETS)
def test_selectors_read_left_to_right(a, b, c):
    spans = Spans(31, {"a": a, "b": b, "c.d": c})
    wanted = (a | b) - c
    if wanted:
        assert set(spans.resolve("a|b - c.d")) == wanted
    else:
        with pytest.raises(SpanError, match="selects no token"):
            spans.resolve("a|b - c.d")


@given(a=SETS, offset=st.integers(0, 9))
def test_shifting_moves_every_position(a, offset):
    moved = Spans(31, {"a": a}).shifted(offset, 31 + offset)
    assert set(moved["a"]) == {p + offset for p in a}
    assert moved.n_pos == 31 + offset


def places():
    where = TokenPlaces.nowhere(8)
    where.cells[2:6] = [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]
    where.seconds[2:6] = [[0, 1], [0, 1], [1, 2], [1, 2]]
    where.seconds[6] = [0.5, 1.5]
    return where


def test_tokens_are_found_by_time_and_place():
    spans = Spans(8, {"av": range(2, 7)}, places())
    assert list(spans.between(0, 0.5)) == [2, 3]
    assert list(spans.between(0.9, 1.0)) == [2, 3, 6]
    assert list(spans.frame(1)) == [4, 5]
    assert list(spans.region(rows=[0], cols=[1])) == [3, 5]
    assert list(spans.shifted(3, 11).frame(1)) == [7, 8]


@pytest.mark.parametrize(
    "use, message",
    [
        (lambda s: s["vidio"], "no span 'vidio'.*\n.*video"),
        (lambda s: s.resolve("video+audio"), "cannot read this span selector"),
        (lambda s: s.resolve("video audio"), "cannot read this span selector"),
        (lambda s: s.resolve(""), "cannot read this span selector"),
        (lambda s: s.resolve("video & audio"), "selects no token"),
        (lambda s: s.resolve([8]), "leaves the prompt"),
        (lambda s: s.resolve([]), "selects no token"),
        (lambda s: s.with_span("bad name", [1]), "plain name"),
        (lambda s: s.with_span("mine", [-1]), "leaves the prompt"),
        (lambda s: s.between(100, 101), "selects no token"),
        (lambda s: s.frame(-1), "'frame group -1' selects no token"),
        (lambda s: s.region([-1], [-1]), "selects no token"),
        (lambda s: s.with_span("mine", np.array([True] * 8)), "needs token positions(.|\n)*bool"),
        (lambda s: s.with_span("mine", np.array([1.7, 2.2])), "needs token positions(.|\n)*float64"),
        (lambda s: s.frame(5), "'frame group 5' selects no token"),
        (lambda s: s.region([9], [9]), "selects no token"),
    ],
)
def test_errors_name_the_next_step(use, message):
    with pytest.raises(SpanError, match=message) as caught:
        use(Spans(8, {"video": [2, 3], "audio": [6]}, places()))
    assert "next:" in str(caught.value)


def test_an_empty_span_is_refused():
    with pytest.raises(SpanError, match="'audio' selects no token"):
        Spans(4, {"audio": []})


def test_places_must_cover_the_prompt():
    with pytest.raises(SpanError, match="do not cover"):
        Spans(4, {"text": [0]}, TokenPlaces.nowhere(3))


def test_positions_cannot_be_edited_in_place():
    span = Span("a", [1, 2])
    with pytest.raises(ValueError, match="read-only"):
        span.positions[0] = 5
    assert np.array_equal(span.positions, [1, 2])


# --- spans as indices, as attributes, and the span of everything -----------------------------------------------------


@given(positions=SETS)
def test_a_span_is_an_index_of_tensors_and_arrays(positions):
    span, wanted = Span("mine", positions), sorted(positions)
    x = torch.arange(2 * 31 * 3).view(2, 31, 3)
    assert torch.equal(x[:, span], x[:, wanted])
    assert torch.equal(x[0][span], x[0][wanted])
    assert np.array_equal(x.numpy()[:, span], x.numpy()[:, wanted])
    for made in (torch.tensor(span), torch.as_tensor(span)):
        assert made.tolist() == wanted
        assert made.dtype == torch.int64
    assert np.asarray(span).tolist() == wanted
    assert np.asarray(span, dtype=np.float32).dtype == np.float32
    assert [span[0], span[-1]] == [wanted[0], wanted[-1]]
    edited = x.clone()
    edited[:, span] = -1
    assert (edited == -1).any(dim=2).sum().item() == 2 * len(wanted)


def test_an_array_made_of_a_span_is_not_the_span():
    span = Span("mine", [1, 2])
    np.asarray(span)[0] = 7
    assert list(span) == [1, 2]


@given(positions=SETS)
def test_only_a_span_of_one_token_is_a_number(positions):
    span = Span("mine", positions)
    if len(positions) == 1:
        assert int(span) == next(iter(positions))
    else:
        with pytest.raises(SpanError, match="not one position"):
            int(span)


SPANS = Spans(9, {"audio": [4, 5], "item0.audio": [4], "between": [1], "last": [8]})


def test_spans_are_attributes_where_no_method_has_the_name():
    assert SPANS.audio is SPANS["audio"]
    assert callable(SPANS.between)
    assert list(SPANS["between"]) == [1]
    assert {"audio", "last", "all", "resolve"} <= set(dir(SPANS))
    assert "audio" in SPANS._ipython_key_completions_()


@pytest.mark.parametrize("name", ["adio", "_spans_", "__array__", "_repr_html_"])
def test_an_attribute_that_is_no_span_is_an_attribute_error(name):
    assert not hasattr(SPANS, name)
    with pytest.raises(AttributeError):
        getattr(SPANS, name)


def test_an_unknown_attribute_names_the_nearest_span():
    with pytest.raises(SpanError, match=r"no span 'adio'\n  expected: audio"):
        _ = SPANS.adio


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda spans: pickle.loads(pickle.dumps(spans))])
def test_spans_and_what_is_all_survive_a_copy(twin):
    moved = twin(SPANS.shifted(3, 14))
    assert dict(moved) == dict(SPANS.shifted(3, 14))
    assert list(moved["all"]) == list(range(3, 12))


@given(a=SETS, offset=st.integers(0, 5), behind=st.integers(0, 5), n_new=st.integers(1, 4))
def test_all_is_every_token_and_no_padding(a, offset, behind, n_new):
    spans = Spans(31, {"a": a})
    assert list(spans["all"]) == list(range(31)) == list(spans.all)
    assert "all" in spans
    assert list(spans) == ["a"], "it is not listed: tables and pictures show what differs"
    assert set(spans.resolve("all|a")) == set(range(31))
    padded = spans.shifted(offset, 31 + offset + behind)
    assert list(padded["all"]) == list(range(offset, offset + 31))
    assert list(padded.with_span("mine", [offset])["all"]) == list(padded["all"])
    longer = spans.shifted(offset, 31 + offset).continued(n_new)
    assert list(longer["all"]) == list(range(offset, offset + 31 + n_new))


@pytest.mark.parametrize("make", [lambda: SPANS.with_span("all", [1]), lambda: Spans(3, {"all": [0]})])
def test_nobody_else_is_called_all(make):
    with pytest.raises(SpanError, match="every token of the prompt already"):
        make()


def test_equal_spans_are_one_key_and_an_empty_one_has_no_runs():
    assert len({Span("a", [4, 5]), Span("b", [4, 5]), Span("a", [4, 6])}) == 2
    assert Span("a", []).runs == []
