"""The map of information flow, what can be said of it, and its table: tables of many samples become one map again.

In the table, one row is a sample, pathway and layer; the columns of a random cut end with its draw
(`control_p_answer_0`).

Axes: sample, draw (random control), pathway, layer (centre of the window that is cut), edge (low and high, or first and
last).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from hooked_av.analyses.bootstrap import bootstrap_interval
from hooked_av.analyses.cases import nothing_left
from hooked_av.analyses.flow.answers import BASES, READINGS, SHOWN, SHOWN_BASES, UNKNOWN, Answers
from hooked_av.analyses.flow.pathways import other_layout
from hooked_av.analyses.metric import Follow, Metric
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.former import formerly

_OF_DRAWS = (*READINGS, *SHOWN, "best_texts")
_CELL = ["id", "pathway", "layer"]
_WINDOW = ("first_cut=windows[edge=0]", "last_cut=windows[edge=1]")


@dataclass(frozen=True, eq=False, kw_only=True)
class InformationFlow(Answers):
    """The answer of every sample while each pathway is cut around each layer, and while random cuts are made."""

    figure: ClassVar = "hooked_av.plots.flow:plot_information_flow"
    axes: ClassVar = {
        **Answers.axes,
        **dict.fromkeys((*READINGS, *SHOWN, "best_texts", "best_is_right"), ("sample", "pathway", "layer")),
        **dict.fromkeys(("changes", "changes_percent"), ("sample", "pathway", "layer")),
        **dict.fromkeys(("control_changes_mean", "control_changes_percent"), ("sample", "pathway", "layer")),
        **dict.fromkeys((f"control_{name}" for name in _OF_DRAWS), ("sample", "draw", "pathway", "layer")),
        **dict.fromkeys(("change", "control_change", "change_percent", "control_percent"), ("pathway", "layer")),
        **dict.fromkeys(("logit_difference_change", "flips", "accuracy"), ("pathway", "layer")),
        **dict.fromkeys(("interval", "control_interval"), ("edge", "pathway", "layer")),
        "windows": ("layer", "edge"),
    }
    labels: ClassVar = {**Answers.labels, "pathway": "pathways"}
    columns: ClassVar = (
        "id=sample", "task=tasks", "pathway", "layer", *_WINDOW, "answer=answers", "gold=golds",
        "alternative=alternatives", "answer_id=answer_ids", "gold_id=gold_ids", "alternative_id=alternative_ids",
        "base_is_right", *SHOWN_BASES, *BASES, *SHOWN, *READINGS, "best_token=best_texts", "is_right=best_is_right",
        "change_percent=changes_percent", "control_percent=control_changes_percent",
        "metric", "change=changes", "control_change=control_changes_mean",
    )  # fmt: skip
    log_p_answer: Float64[np.ndarray, "sample pathway layer"]
    log_p_gold: Float64[np.ndarray, "sample pathway layer"]
    log_p_alternative: Float64[np.ndarray, "sample pathway layer"]
    best_ids: Int64[np.ndarray, "sample pathway layer"]  # the most probable token while the pathway is cut
    control_log_p_answer: Float64[np.ndarray, "sample draw pathway layer"]
    control_log_p_gold: Float64[np.ndarray, "sample draw pathway layer"]
    control_log_p_alternative: Float64[np.ndarray, "sample draw pathway layer"]
    control_best_ids: Int64[np.ndarray, "sample draw pathway layer"]
    windows: Int64[np.ndarray, "layer edge=2"]  # first and last layer that are cut, both included
    pathways: tuple[str, ...]
    window: int
    skipped: tuple[str, ...] = ()  # samples left out, because the clean model answers them wrongly

    @property
    def changes(self) -> Float64[np.ndarray, "sample pathway layer"]:
        """What each cut does to the metric: of a probability percent of the clean run's, else the difference to it."""
        return self.changes_of(self.metric)

    @property
    def control_changes(self) -> Float64[np.ndarray, "sample draw pathway layer"]:
        """The same under the random cuts."""
        return self.changes_of(self.metric, "control_")

    @property
    def control_changes_mean(self) -> Float64[np.ndarray, "sample pathway layer"]:
        """The mean of `control_changes` over draws; NaN without controls."""
        return self._over_draws(self.control_changes)

    @property
    def change(self) -> Float64[np.ndarray, "pathway layer"]:
        """The mean of `changes` over samples."""
        return self.changes.mean(axis=0)

    @property
    def interval(self) -> Float64[np.ndarray, "edge pathway layer"]:
        """95 % bootstrap interval of `change` over samples; NaN for one sample."""
        return bootstrap_interval(self.changes)

    @property
    def control_change(self) -> Float64[np.ndarray, "pathway layer"]:
        """The mean of `control_changes` over draws and samples; NaN without controls."""
        return self.control_changes_mean.mean(axis=0)

    @property
    def control_interval(self) -> Float64[np.ndarray, "edge pathway layer"]:
        """95 % bootstrap interval of `control_change` over samples; of one sample, the range of its draws."""
        changes = self.control_changes
        if len(changes) == 1 and changes.shape[1]:
            return np.stack([changes[0].min(axis=0), changes[0].max(axis=0)])
        return bootstrap_interval(self.control_changes_mean)

    @property
    def changes_percent(self) -> Float64[np.ndarray, "sample pathway layer"]:
        """Change of the probability in each sample, 100 * (p_cut - p_base) / p_base, whatever the metric."""
        return self.changes_of("probability")

    @property
    def control_changes_percent(self) -> Float64[np.ndarray, "sample pathway layer"]:
        """The same under the random cuts, the mean over draws; NaN without controls."""
        return self._over_draws(self.changes_of("probability", "control_"))

    @property
    def change_percent(self) -> Float64[np.ndarray, "pathway layer"]:
        """The mean of `changes_percent` over samples."""
        return self.changes_percent.mean(axis=0)

    @property
    def control_percent(self) -> Float64[np.ndarray, "pathway layer"]:
        """The mean of `control_changes_percent` over samples."""
        return self.control_changes_percent.mean(axis=0)

    @property
    def logit_difference_change(self) -> Float64[np.ndarray, "pathway layer"]:
        """Mean change of the logit difference to the alternative."""
        return self.changes_of("logit_difference").mean(axis=0)

    def _over_draws(
        self, values: Float64[np.ndarray, "sample draw pathway layer"]
    ) -> Float64[np.ndarray, "sample pathway layer"]:
        return values.mean(axis=1) if values.shape[1] else np.full_like(self.log_p_answer, np.nan)

    @property
    def flips(self) -> Float64[np.ndarray, "pathway layer"]:
        """Share of samples whose most probable token is another one."""
        return (self.best_ids != self.per_sample(self.answer_ids, self.best_ids)).mean(axis=0)

    @property
    def accuracy(self) -> Float64[np.ndarray, "pathway layer"]:
        """Share of samples that are answered rightly; NaN where a right answer is not known."""
        return self.is_right(self.best_ids).mean(axis=0)

    def summary(self) -> pd.DataFrame:
        """One row a pathway and layer, over all samples."""
        return self.tabulate(
            "pathway", "layer", *_WINDOW, "n_samples", "metric", "change", "low=interval[edge=0]",
            "high=interval[edge=1]", "control_change", "control_low=control_interval[edge=0]",
            "control_high=control_interval[edge=1]", "change_percent", "control_percent", "logit_difference_change",
            "flips", "accuracy",
        )  # fmt: skip

    def to_frame(self) -> pd.DataFrame:
        """One row a sample, pathway and layer, with everything that `from_frame` needs; `summary` has the means."""
        read = [(name.replace("best_texts", "best_token"), f"control_{name}") for name in _OF_DRAWS]
        draws = range(self.control_best_ids.shape[1])
        controls = [f"control_{name}_{draw}={of}[draw={draw}]" for draw in draws for name, of in read]
        return self.tabulate(*self.columns, *controls)

    @classmethod
    @formerly("table", "frame")
    @formerly("metric", "follow", ("answer", "gold"))
    @door
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        only_correct: bool = True,
        metric: Metric = "probability",
        follow: Follow = "answer",
        settings: Mapping[str, Any] | None = None,
    ) -> "InformationFlow":
        """The result of these samples, from tables that `to_frame` made of them together or one by one.

        Args:
            frame: one table, or several that were joined (`pd.concat`).
            only_correct: leave out samples that the clean model answers wrongly, where the right answer is known.
            metric, follow, settings: how the table is read; see `information_flow`.

        Errors: `InputsError` for samples of different layouts, for what is no such table, and when nothing is left.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> flow = av.information_flow(model, model.prepare(question="Which digit do you hear?"))
        >>> again = InformationFlow.from_frame(flow.to_frame())
        >>> bool((again.control_changes == flow.control_changes).all())
        True
        """
        fields = fields_of(frame, only_correct)
        counts = {"n_samples": len(fields["ids"]), "n_skipped": len(fields["skipped"])}
        found = cls(**fields, settings={**(settings or {}), "only_correct": only_correct, **counts})
        return found.with_metric(metric, follow)


def fields_of(table: pd.DataFrame, only_correct: bool) -> dict[str, Any]:
    """The fields of the `InformationFlow` of these samples, but for how it is read.

    Errors: `InputsError` for samples of different pathways or layers, for one that is there twice or in parts, for a
    table of something else, and when nothing is left.
    """
    _check_columns(table)
    ids, pathways, layers = _grid(table)
    cells = pd.MultiIndex.from_product([ids, pathways, layers], names=_CELL)
    table = table.set_index(_CELL).reindex(cells).reset_index()
    is_wrong = table["gold_id"].ne(UNKNOWN) & table["gold_id"].ne(table["answer_id"])
    kept = table.loc[~is_wrong] if only_correct else table
    skipped = tuple(dict.fromkeys(table.loc[is_wrong, "id"])) if only_correct else ()
    if kept.empty:
        raise nothing_left(skipped)
    firsts = kept.iloc[:: len(pathways) * len(layers)]
    shape = (len(firsts), len(pathways), len(layers))
    windows = kept[["first_cut", "last_cut"]].iloc[: len(layers)].to_numpy(dtype=np.int64)
    return {
        "answer_ids": firsts["answer_id"].to_numpy(dtype=np.int64),
        "gold_ids": firsts["gold_id"].to_numpy(dtype=np.int64),
        "alternative_ids": firsts["alternative_id"].to_numpy(dtype=np.int64),
        **{name: firsts[name].to_numpy(dtype=np.float64) for name in BASES},
        **{name: _numbers(kept, name).reshape(shape) for name in READINGS},
        **_controls(kept, shape),
        "ids": tuple(firsts["id"]),
        "tasks": tuple(firsts["task"]),
        "token_texts": _texts(kept),
        "windows": windows,
        "window": int((windows[:, 1] - windows[:, 0]).max()) + 1,
        "pathways": tuple(pathways),
        "skipped": skipped,
    }


def _numbers(table: pd.DataFrame, column: str) -> np.ndarray:
    return table[column].to_numpy(dtype=np.int64 if "best_ids" in column else np.float64)


def _n_draws(table: pd.DataFrame) -> int:
    return sum(str(column).startswith("control_best_ids_") for column in table.columns)


def _controls(table: pd.DataFrame, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    draws = range(_n_draws(table))
    empty = {name: np.empty((shape[0], 0, *shape[1:]), dtype=_numbers(table, name).dtype) for name in READINGS}
    if not draws:
        return {f"control_{name}": values for name, values in empty.items()}
    return {
        f"control_{name}": np.stack([_numbers(table, f"control_{name}_{d}").reshape(shape) for d in draws], axis=1)
        for name in READINGS
    }


def _texts(table: pd.DataFrame) -> tuple[tuple[int, str], ...]:
    """The text of every token that is an answer somewhere."""
    pairs = [("answer_id", "answer"), ("gold_id", "gold"), ("alternative_id", "alternative")]
    pairs += [("best_ids", "best_token")]
    pairs += [(f"control_best_ids_{draw}", f"control_best_token_{draw}") for draw in range(_n_draws(table))]
    found = {
        (int(token), text)
        for pair in pairs
        for token, text in table[list(pair)].drop_duplicates().itertuples(index=False)
        if token != UNKNOWN
    }
    return tuple(sorted(found))


def _grid(table: pd.DataFrame) -> tuple[list[str], list[str], list[int]]:
    """Samples, pathways and layers, in the order of the table; every sample must have all of them, once."""
    ids, first = list(dict.fromkeys(table["id"])), table.loc[table["id"] == table["id"].iloc[0]]
    pathways, layers = list(dict.fromkeys(first["pathway"])), sorted(set(first["layer"]))
    for sample, names in table.groupby("id", sort=False)["pathway"]:
        differing = set(names) ^ set(pathways)
        if differing:
            raise other_layout(str(sample), str(ids[0]), sorted(differing))
    counts = Counter(table["id"])
    odd = [sample for sample in ids if counts[sample] != len(pathways) * len(layers)]
    if odd or table.duplicated(_CELL).any():
        raise _not_a_table(f"samples that are there in part, or more than once: {', '.join(odd) or 'some'}")
    if set(table["layer"]) != set(layers):
        raise _not_a_table("samples of different layers")
    return ids, pathways, layers


def _check_columns(table: pd.DataFrame) -> None:
    needed = [
        *_CELL,
        "task",
        "first_cut",
        "last_cut",
        "answer",
        "answer_id",
        "gold_id",
        "alternative",
        "alternative_id",
        *BASES,
        *READINGS,
        "best_token",
    ]
    missing = [name for name in needed if name not in table.columns]
    if missing or table.empty:
        raise _not_a_table(f"no columns {', '.join(missing)}" if missing else "no row")


def _not_a_table(got: str) -> InputsError:
    return InputsError(
        "this is no table of information flow",
        expected="one row a sample, pathway and layer, as InformationFlow.to_frame makes it",
        got=got,
        next_step="give the table of information_flow, or of run_dataset(..., 'flow')",
    )
