"""The benchmark of methods: what is known of a route, what methods say, and how that is scored."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import hooked_av as av
from hooked_av.cli.main import main
from hooked_av.errors import InputsError
from hooked_av.study import route_benchmark as benchmark
from hooked_av.study.contrasts import draw_contrasts
from hooked_av.study.methods import METHODS, Evidence, _once_read, _until_read, _while_read
from hooked_av.study.route_benchmark import RouteBenchmark, _summary, route_benchmark, way_is_seen

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return av.HookedAVTransformer.from_pretrained("tiny-av")


QUICK = ("knockout, three layers", "patching, denoising", "attention")


@pytest.fixture(scope="module")
def found(model):
    """tiny-av answers plain questions past the question, and lettered ones through it."""
    return route_benchmark([model], ["visual", "visual, options"], samples=3, methods=QUICK)


def test_what_is_known_is_what_survives(found):
    assert found.subjects == ("tiny-av: visual", "tiny-av: visual, options")
    assert found.truth.tolist() == ["behind", "question"]
    assert found.kept[0, 1] > 0.9 > found.kept[0, 0]
    assert (found.moves[0, :, 0] == [-1, 3]).any()
    first, last = found.moves
    assert 0 <= first[0, 1] <= last[0, 1] < 8


def test_methods_find_the_route_that_is_there(found):
    says = {name: found.says[:, at].tolist() for at, name in enumerate(found.methods)}
    for name in QUICK[:2]:
        assert says[name] == ["behind", "question"], name
    assert found.score[0, found.methods.index("patching, denoising")] == "right"
    assert not (found.score[0] == "wrong").any()


@pytest.mark.slow
def test_every_method_says_something_of_a_model_without_a_wrong_word_about_plain_questions(model):
    """All methods, with their controls, on a form whose route everything but "cannot say" names rightly."""
    whole = route_benchmark([model], ["visual"], samples=8)
    assert whole.methods == tuple(METHODS)
    assert not (whole.score == "wrong").any()
    assert (whole.score == "right").sum() >= 8


def test_layers_that_are_named_are_those_in_which_media_are_read(found):
    at = found.methods.index("patching, denoising")
    assert found.layer_score[:, at].tolist() == ["right", "right"]


def test_a_table_a_file_and_a_figure(found, tmp_path):
    table = found.to_frame()
    assert len(table) == 2 * len(QUICK)
    assert set(table["score"]) <= {"right", "wrong", "cannot say"}
    found.save(tmp_path / "routes.safetensors")
    again = RouteBenchmark.load(tmp_path / "routes.safetensors")
    assert again.to_frame().equals(table)
    figure = again.plot()
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == 2 * len(QUICK)
    assert set(texts) <= {"✓", "✗", "?"}


def numbers(kept, beyond, low, high) -> RouteBenchmark:
    """A benchmark of one subject and method, of numbers that are given."""
    cell = np.array([[beyond]], float)
    return RouteBenchmark(
        seen=cell, control=np.zeros_like(cell), beyond=cell, interval=np.array([[[low]], [[high]]], float),
        layers=np.array([[[2, 5]]]), kept=np.array([kept], float), moves=np.array([[[1, -1]], [[3, -1]]]),
        n=np.array([8]), models=("m",), forms=("f",), methods=("one",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "beyond", "low", "high", "truth", "says", "score"),
    [
        ([1, 0], [0.9, 0.0], [0.8, -0.1], [1.0, 0.1], "question", "question", "right"),
        ([0, 1], [0.9, 0.0], [0.8, -0.1], [1.0, 0.1], "behind", "question", "wrong"),
        ([1, 1], [0.9, 0.0], [0.8, -0.1], [1.0, 0.1], "both", "question", "wrong"),
        ([1, 1], [0.9, 0.5], [0.8, 0.3], [1.0, 0.7], "both", "both", "right"),
        ([1, 1], [0.0, 0.0], [-0.1, -0.1], [0.1, 0.1], "both", "cannot say", "cannot say"),
        ([1, 0], [0.9, 0.3], [0.8, -0.2], [1.0, 0.8], "question", "cannot say", "cannot say"),
        ([0.5, 0.5], [0.9, 0.0], [0.8, -0.1], [1.0, 0.1], "cannot say", "question", ""),
    ],
)
def test_scores(kept, beyond, low, high, truth, says, score):
    one = numbers(kept, beyond, low, high)
    assert (one.truth[0], one.says[0, 0], one.score[0, 0]) == (truth, says, score)


def test_a_layer_is_right_where_the_way_is_read():
    one = numbers([1, 0], [0.9, 0.0], [0.8, -0.1], [1.0, 0.1])
    assert (one.layer[0, 0], one.layer_score[0, 0]) == (2, "right")
    late = replace(one, layers=np.array([[[4, 5]]]))
    assert late.layer_score[0, 0] == "wrong"
    silent = replace(one, beyond=np.zeros((1, 1, 2)), interval=np.array([[[[-0.1, -0.1]]], [[[0.1, 0.1]]]]))
    assert (silent.layer[0, 0], silent.layer_score[0, 0]) == (-1, "")


def test_where_a_way_is_read():
    seen = np.zeros((2, 1, 6))
    seen[0, 0] = [0, 0, 1.0, 0.2, 0, 0]
    seen[1, 0] = [0, 0.1, 0.2, 0.8, 1.0, 1.0]
    assert _while_read(seen, seen).read_in.tolist() == [2, 4]
    assert _once_read(seen, seen).read_in.tolist() == [1, 2]
    assert _until_read(seen, seen).read_in.tolist() == [2, 5]


def test_a_control_counts_in_the_layer_where_most_is_seen():
    seen, control = np.zeros((2, 4, 3)), np.zeros((2, 4, 3))
    seen[:, :, 1], control[:, :, 1], control[:, :, 2] = 0.9, 0.8, 1.0
    summary = _summary(Evidence(seen, control, np.array([1, 1])))
    assert summary["beyond"] == pytest.approx([0.1, 0.1])
    assert way_is_seen(0.1, 0.1, 0.1) == "does not hold"


def test_contrasts_differ_by_their_digits_alone(model):
    for one in draw_contrasts(model, "shown in item, options", 3):
        assert one.case.inputs.input_ids.equal(one.other.input_ids)
        said = [model.to_string(int(model(inputs, logits_at="last")[0, -1].argmax()))
                for inputs in (one.case.inputs, one.other, one.third)]  # fmt: skip
        assert said[:2] == [one.answer, one.alternative]
        assert one.answer != one.alternative


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"forms": ["comparison"]}, "no contrast"),
        ({"forms": ["visuel"]}, "no such family"),
        ({"methods": ["guessing"]}, "no such method"),
        ({"samples": 1}, "too few"),
    ],
)
def test_what_cannot_be_asked(model, arguments, says):
    with pytest.raises(InputsError, match=says):
        route_benchmark([model], **{"forms": ["visual"], "methods": ["attention"], "samples": 2, **arguments})


def test_the_command_writes_table_figure_and_result(tmp_path, monkeypatch):
    asked = ["route-benchmark", "--model", "tiny-av", "--form", "visual", "--samples", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(benchmark, "METHODS", {name: METHODS[name] for name in QUICK})
    run = CliRunner().invoke(main, asked)
    assert run.exit_code == 0, run.output
    assert {path.name for path in tmp_path.iterdir()} == {"routes.csv", "routes.svg", "routes.safetensors"}
    assert "knockout, three layers" in run.output
