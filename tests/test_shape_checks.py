"""The canary: shape annotations are really checked while the tests run, and cost nothing outside."""

import subprocess
import sys

import jaxtyping
import pytest
import torch

from hooked_av.analyses.flow.windows import layer_window
from hooked_av.decoder.attention import weigh
from hooked_av.decoder.decoder import rotate
from hooked_av.errors import HookedAVError
from hooked_av.interventions.routes import Route


def test_a_wrong_shape_is_caught():
    with pytest.raises(jaxtyping.TypeCheckError):
        rotate(torch.zeros(1, 3, 2, 8), torch.zeros(1, 4, 8), torch.zeros(1, 3, 8))


def test_a_wrong_dtype_is_caught():
    with pytest.raises(jaxtyping.TypeCheckError):
        weigh(torch.zeros(1, 2, 3, 3, dtype=torch.int64), torch.zeros(1, 2, 3, 8))


def test_nothing_is_checked_outside_pytest():
    code = (
        "import torch; from hooked_av.decoder.decoder import rotate; "
        "rotate(torch.zeros(1, 3, 2, 8), torch.zeros(1, 1, 8), torch.zeros(1, 3, 8))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    "call",
    [
        lambda: layer_window("0", 4, 1),  # pyright: ignore
        lambda: Route("audio", 3),  # pyright: ignore
        lambda: HookedAVError.__init__(HookedAVError, 1, expected="", got="", next_step=""),  # pyright: ignore
    ],
    ids=["function", "dataclass", "method"],
)
def test_a_wrong_type_is_caught_where_there_are_no_shapes(call):
    with pytest.raises(jaxtyping.TypeCheckError):
        call()


@pytest.mark.usefixtures("as_a_user")
def test_nothing_is_checked_for_a_user():
    assert Route("audio", 3).queries == 3  # pyright: ignore
