"""What figures say of the metric: every result that takes one, in each metric."""

import re
from dataclasses import replace
from functools import cache

import pytest
from matplotlib.collections import QuadMesh
from matplotlib.text import Text
from support.every_result import MAKERS

import hooked_av as av
from hooked_av.analyses.patching.spans import PatchEffects

pytestmark = pytest.mark.usefixtures("one_thread")
METRICS = {"probability": "probability", "log_prob": "log probability", "logit_difference": "logit difference"}
HYPHEN = re.compile(r"(?:^|[\s(=e])-\d")  # axes write a minus
WITH_METRIC = [
    "InformationFlow", "EffectivePathway", "ModalityContribution", "RouteSweep", "SpanPatching", "HeadPatching",
    "PathPatching", "PositionPatching", "AttributionPatching", "BackPatching",
]  # fmt: skip


@cache
def made(name):
    return MAKERS[name]()


def in_metric(result, metric, metric_clean):
    """A table of patches in another metric is another run; for its words the numbers do not matter."""
    if isinstance(result, PatchEffects):
        return replace(result, metric=metric, metric_clean=metric_clean)
    return result.with_metric(metric) if hasattr(result, "with_metric") else replace(result, metric=metric)


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("name", WITH_METRIC)
@pytest.mark.parametrize("metric", METRICS)
def test_figures_say_what_was_measured_and_where_it_can_hardly_move(name, metric):
    said = texts(in_metric(made(name), metric, 0.999).plot())
    whole = "\n".join(said).lower()
    assert METRICS[metric] in whole
    assert "log prob " not in whole
    assert "log_prob" not in whole
    assert any("p is near 1" in text for text in said) == (metric == "probability")
    for other in {"log probability", "logit difference"} - {METRICS[metric]}:
        assert other not in whole
    assert not [text for text in said if HYPHEN.search(text)]


def test_every_result_that_takes_a_metric_is_looked_at():
    kinds = {name: getattr(av.analyses, name) for name in MAKERS}
    assert {name for name, kind in kinds.items() if "metric" in kind.__dataclass_fields__} == set(WITH_METRIC)


@pytest.mark.parametrize("name", [*WITH_METRIC[4:], "DirectAttribution"])
def test_colours_of_signed_numbers_are_symmetric_and_told_apart_in_grey(name):
    figure = made(name).plot()
    meshes = [found for axes in figure.axes for found in axes.collections if isinstance(found, QuadMesh)]
    assert meshes
    for mesh in meshes:
        assert mesh.norm.vmin == -mesh.norm.vmax
    striped = [found for axes in figure.axes for found in axes.collections if getattr(found, "get_hatch", str)()]
    assert striped
