"""Ground truth of routes: how often each model of tiny-av's kind is right when a way is cut in every layer.

What survives a cut does not need the way that was cut; what falls to the level of the text alone needs it.

Axes: none; one row a form of question and set of cuts.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import pandas as pd
from tqdm.auto import tqdm

from hooked_av.tiny.digits import Digits
from hooked_av.tiny.evaluation import make_exam, take_under, text_alone
from hooked_av.tiny.questions import FAMILIES
from hooked_av.tiny.routes import ASKED, BEHIND, ITEMS, UNCUT, Cuts

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

CUT_NAMES: dict[str, Cuts] = {
    "nothing": UNCUT,
    "media -> behind the question": frozenset({BEHIND}),
    "media -> question": frozenset({ASKED}),
    "both": frozenset({BEHIND, ASKED}),
    "items -> other items": frozenset({ITEMS}),
}


def truth_of(
    model: "HookedAVTransformer",
    digits: Digits,
    n_questions: int = 200,
    *,
    families: Sequence[str] = tuple(FAMILIES),
    progress: bool = False,
) -> pd.DataFrame:
    """One row a form of question and set of cuts: the share of right answers.

    Columns: form, options, cut, n, right, low, high (Wilson's 95 % interval), "text alone" (what the text of the
    question gives by itself). "items -> other items" is asked of questions about several items only.
    """
    rows = []
    forms = [(family, options) for family in families for options in (False, True)]
    for family, options in tqdm(forms, desc="ground truth", disable=not progress):
        several = {name: cuts for name, cuts in CUT_NAMES.items() if ITEMS not in cuts or "item" in family}
        right, n = take_under(model, make_exam(family, n_questions, options), digits, list(several.values()))
        chance = text_alone(family, options)
        for name, count in zip(several, right, strict=True):
            low, high = wilson_interval(count, n)
            rows.append(
                {"form": family, "options": options, "cut": name, "n": n, "right": count / n}
                | {"low": low, "high": high, "text alone": chance}
            )
    return pd.DataFrame(rows)


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Journal of the American Statistical Association 22, 1927).

    >>> [round(edge, 3) for edge in wilson_interval(98, 100)]
    [0.93, 0.994]
    """
    z, share = NormalDist().inv_cdf(0.975), count / n
    middle, half = share + z**2 / (2 * n), z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
