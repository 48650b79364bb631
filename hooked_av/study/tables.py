"""Tables of the study: what figures draw and files keep, one row a family and route, layer, or run."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hooked_av.study.findings import alone, index_of, route, words
from hooked_av.study.measures import FamilyResults
from hooked_av.study.rules import HOLDS


def tables(results: Sequence[FamilyResults]) -> dict[str, pd.DataFrame]:
    """All of them, by name; rows of a family that the model does not answer are in "families" only."""
    asked = [family for family in results if family.answered.says == HOLDS]
    return {
        "families": pd.DataFrame(map(_family, results)),
        "routes": _joined(_routes(family) for family in asked),
        "layers": _joined(_layers(family) for family in asked),
        "reliance": pd.DataFrame(map(_reliance, asked)),
        "pathways": _joined(_pathways(family) for family in asked),
        "discards": _joined(_discards(family) for family in asked),
    }


def _joined(parts: Iterator[pd.DataFrame]) -> pd.DataFrame:
    found = [part for part in parts if len(part)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _family(family: FamilyResults) -> dict[str, Any]:
    found = family.contribution
    right = found.is_right(found.answer_ids)
    return {
        "family": family.family,
        "needs": " + ".join(family.needs),
        "items": "several" if family.has_items else "one clip",
        "n": len(right),
        "n_right": int(right.sum()),
        "accuracy": float(right.mean()),
        "text_alone": family.chance,
        "asked": family.answered.says == HOLDS,
        "why": family.answered.why,
    }


def _routes(family: FamilyResults) -> pd.DataFrame:
    whole = family.whole
    if whole is None:
        return pd.DataFrame()
    table = whole.summary().drop(columns=["layer"]).rename(columns={"pathway": "route"})
    table.insert(0, "family", family.family)
    return table.assign(needed=[route(family, name).says for name in whole.pathways], several=family.has_items)


def _layers(family: FamilyResults) -> pd.DataFrame:
    if family.flow is None:
        return pd.DataFrame()
    table = family.flow.summary().rename(columns={"pathway": "route"})
    table.insert(0, "family", family.family)
    return table.assign(beyond_random=table.change_percent - table.control_percent, several=family.has_items)


def _reliance(family: FamilyResults) -> dict[str, Any]:
    row: dict[str, Any] = {"family": family.family, "needs": " + ".join(family.needs)}
    for name, kind in (("reliance", "blank"), ("contribution", "cut")):
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), index_of(family, kind), strict=True))
    return row


def _pathways(family: FamilyResults) -> pd.DataFrame:
    parts = []
    for name, kept in (("sequential", family.sequential), ("direct", family.direct)):
        if kept is None:
            return pd.DataFrame()
        table = kept.summary().replace({"run": {"these edges": name, "random edges": f"random, as {name}"}})
        parts.append(table.assign(enough=np.where(table["run"] == name, alone(family, kept).says, "")))
    table = pd.concat(parts, ignore_index=True).drop_duplicates("run", ignore_index=True)
    table.insert(0, "family", family.family)
    return table


def _discards(family: FamilyResults) -> pd.DataFrame:
    if family.discards is None:
        return pd.DataFrame()
    table = family.discards.to_frame()
    table.insert(0, "family", family.family)
    clean = float(family.discards.clean_correct.mean())
    return table.assign(tokens=[words(span) for span in table["span"]], clean_accuracy=clean, several=family.has_items)
