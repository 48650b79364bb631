"""Every result type, whatever it holds: it has a table, comes back from its file as it was, and is drawn from that."""

from dataclasses import fields

import numpy as np
import pytest
from support.every_result import MAKERS

import hooked_av as av
from hooked_av.analyses.results import Result
from hooked_av.plots.style import svg_text

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning"),
]
PUBLIC = sorted(
    name for name in av.__all__ if isinstance(getattr(av, name), type) and issubclass(getattr(av, name), Result)
)


def test_every_public_result_is_tested_here_and_has_a_figure():
    assert sorted(MAKERS) == PUBLIC
    assert all(getattr(av, name).figure for name in PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_result_comes_back_as_it_was(name, tmp_path):
    made = MAKERS[name]()
    kind = getattr(av, name)
    assert type(made) is kind
    assert {"model", "weights", "dtype", "attention", "positions", "hooked_av"} <= set(made.settings)
    again = kind.load(made.save(tmp_path / "result.safetensors"))
    for field in fields(kind):
        one, other = getattr(again, field.name), getattr(made, field.name)
        if field.name in kind.axes:
            assert one.dtype == other.dtype, field.name
            assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), field.name
        elif field.name == "settings":
            assert one.keys() == other.keys()
        else:
            assert one == other, field.name
    frame = made.to_frame()
    assert len(frame) > 0
    assert again.to_frame().equals(frame)
    assert svg_text(again.plot()) == svg_text(made.plot())
