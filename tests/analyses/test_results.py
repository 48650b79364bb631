"""Every result type, whatever it holds: it has a table, comes back from its file as it was, and is drawn from that."""

from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from jaxtyping import Float64, Int64
from support import every_result
from support.every_result import MAKERS

import hooked_av as av
from hooked_av.analyses.result_files import plain_value
from hooked_av.analyses.results import Result
from hooked_av.errors import InputsError
from hooked_av.plots.style import svg_text

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning"),
]
PUBLIC = sorted(
    name
    for name in av.analyses.__all__
    if name not in ("Result", "LensConvention") and issubclass(getattr(av.analyses, name), Result)
)


def test_every_public_result_is_tested_here_and_has_a_figure():
    assert sorted(MAKERS) == PUBLIC
    assert all(getattr(av.analyses, name).figure for name in PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_result_comes_back_as_it_was(name, tmp_path):
    made = every_result.made(name)
    kind = getattr(av.analyses, name)
    assert type(made) is kind
    assert {"model", "weights", "dtype", "attention", "positions", "hooked_av"} <= set(made.settings)
    again = kind.load(made.save(tmp_path / "result.safetensors"))
    for field in fields(kind):
        one, other = getattr(again, field.name), getattr(made, field.name)
        if isinstance(other, np.ndarray):
            assert field.name in kind.axes
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


# --- a type of one's own ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Gates(Result):
    axes: ClassVar = {"n_tokens": ("layer",), "gates": ("layer", "expert"), "shares": ("layer", "expert"),
                      "by_pair": ("layer", "pair")}  # fmt: skip
    labels: ClassVar = {"expert": "experts"}
    n_tokens: Int64[np.ndarray, " layer"]
    gates: Float64[np.ndarray, "layer expert"]
    experts: tuple[str, ...]

    @property
    def shares(self) -> Float64[np.ndarray, "layer expert"]:
        return self.gates / self.gates.sum(axis=1, keepdims=True)

    @property
    def by_pair(self) -> Float64[np.ndarray, "layer pair"]:
        return self.gates[:, :1]


def gates(kind=Gates, n_layers=2):
    values = np.arange(1.0, 1 + 3 * n_layers).reshape(n_layers, 3)
    return kind(n_tokens=np.array([7, 8][:n_layers]), gates=values, experts=("low", "middle", "high"))


def test_the_table_of_a_type_that_declares_its_axes():
    wanted = pd.DataFrame(
        {
            "layer": [0, 0, 0, 1, 1, 1],
            "expert": ["low", "middle", "high"] * 2,
            "n_tokens": [7, 7, 7, 8, 8, 8],
            "gates": [1.0, 2, 3, 4, 5, 6],
            "shares": [1 / 6, 2 / 6, 3 / 6, 4 / 15, 5 / 15, 6 / 15],
        }
    )
    pd.testing.assert_frame_equal(gates().to_frame(), wanted)  # of pairs it says nothing: they are no cell's


def test_a_type_can_say_which_columns_and_by_what_names():
    class Named(Gates):
        columns: ClassVar = ("layer", "expert", "share=shares", "first=gates[expert=0]")

    wanted = {"layer": [0], "expert": ["low"], "share": [1 / 6], "first": [1.0]}
    pd.testing.assert_frame_equal(gates(Named).to_frame().iloc[[0]], pd.DataFrame(wanted))
    assert gates(Named).to_frame()["first"].tolist() == [1, 1, 1, 4, 4, 4]
    few = gates().tabulate("layer", "high=gates[expert=2]")  # no row for each expert
    pd.testing.assert_frame_equal(few, pd.DataFrame({"layer": [0, 1], "high": [3.0, 6.0]}))
    with pytest.raises(InputsError, match=r"no such column(.|\n)*'gates\[0\]'"):
        gates().tabulate("gates[0]")


def test_a_subclass_is_drawn_as_its_parent_is():
    class Mine(av.analyses.LogitLens):
        pass

    lens = every_result.made("LogitLens")
    mine = Mine(**{field.name: getattr(lens, field.name) for field in fields(lens)})
    assert svg_text(mine.plot()) == svg_text(lens.plot())


def test_a_type_can_name_a_function_of_its_own_as_its_figure():
    def draw_gates(gates):
        return f"{gates.gates.size} gates"

    class Drawn(Gates):
        figure: ClassVar = draw_gates

    class Child(Drawn):
        pass

    assert gates(Drawn).plot() == gates(Child).plot() == "6 gates"


def test_settings_that_json_does_not_know_are_written_as_what_they_hold():
    assert plain_value(MappingProxyType({"a": 1})) == {"a": 1}
    assert (plain_value(np.float32(0.5)), plain_value(Path("a"))) == (0.5, "a")
