"""A manifest of questions in, a table of results out: one analysis over all samples, in shards, resumable at any time.

How results lie on the disk is told in `results_folder`, what a manifest holds in `manifest`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from hooked_av.analyses.discard.discard import discard_curve
from hooked_av.analyses.flow.answers import Whose
from hooked_av.analyses.flow.information_flow import InformationFlow, information_flow
from hooked_av.analyses.flow.route_sweep import route_sweep
from hooked_av.analyses.lenses.logit_lens import logit_lens
from hooked_av.analyses.results import Result, model_settings
from hooked_av.datasets.manifest import Sample, SampleCase, checked_ids, manifest_hash, read_manifest
from hooked_av.datasets.patch_media import patch_media
from hooked_av.datasets.results_folder import Failure, ResultsFolder, read_merged
from hooked_av.errors import DatasetError, HookedAVError, HookedAVWarning, nearest
from hooked_av.frozen import Frozen

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

Analysis = Callable[..., Result]  # of a model, a case, and arguments of its own
GIVE_UP_AFTER = 20
OURS = ("sample", "task", "group", "gold")  # columns that say what a sample is


def of_inputs(function: Analysis) -> Analysis:
    """An analysis that takes a prompt, as one that takes a case."""

    @wraps(function)
    def run(model: "HookedAVTransformer", case: SampleCase, **arguments: Any) -> Result:
        return function(model, case.inputs, **arguments)

    return run


@wraps(information_flow)
def flow_of_sample(model: "HookedAVTransformer", case: SampleCase, **arguments: Any) -> InformationFlow:
    """The map of one sample, rightly answered or not: every sample has its rows, and `read_flow` chooses."""
    return information_flow(model, case, only_correct=False, **arguments)


_of_flow = signature(information_flow)
_taken = [argument for name, argument in _of_flow.parameters.items() if name != "only_correct"]
flow_of_sample.__signature__ = _of_flow.replace(parameters=_taken)  # pyright: ignore[reportAttributeAccessIssue]


# What `run_dataset` knows by name: functions of (model, case, **arguments).
ANALYSES: Mapping[str, Analysis] = {
    "discard": discard_curve,
    "flow": flow_of_sample,
    "lens": of_inputs(logit_lens),
    "patch": patch_media,
    "sweep": route_sweep,
}


@dataclass(frozen=True)
class DatasetRun:
    """What a run has done: `n_new` of the `n_samples` of its shard are new; `failures` are all of its shard."""

    folder: Path
    shard: str
    n_samples: int
    n_finished: int
    n_new: int
    failures: tuple[Failure, ...]

    def __str__(self) -> str:
        return (f"shard {self.shard}: {self.n_finished} of {self.n_samples} samples finished, {self.n_new} of them "
                f"now; {len(self.failures)} failed")  # fmt: skip


def run_dataset(
    model: "HookedAVTransformer",
    manifest: str | Path | Sequence[Sample],
    analysis: str | Analysis,
    *,
    out: str | Path,
    shard: str = "1/1",
    prepare: Mapping[str, Any] | None = None,
    progress: bool = False,
    **arguments: Any,
) -> DatasetRun:
    """Run an analysis on every sample of a manifest; what is finished is never run again, whatever stopped the run.

    Args:
        manifest: a .jsonl or .csv file (see `read_manifest`), or its samples.
        analysis: "flow", "lens", "patch", "discard", "sweep", or a function of (model, case, **arguments) that returns
            a result.
        out: a folder; it remembers model, analysis, arguments, manifest and package versions, and takes no others.
        shard: "i/n": the i-th of n parts, from 1; every n-th sample. Shards may run at once, on several machines.
        prepare: arguments of `model.prepare`, such as `sampling`.
        progress: show a bar, with the time that is left.
        arguments: those of the analysis.

    A sample that cannot be prepared or analysed (`HookedAVError`, or no memory for it) is kept with its reason, counted
    and warned of. Any other error ends the run. `merge(out)` makes one table.

    Errors: `DatasetError` for rows that cannot be used, a folder with other settings, unknown arguments, and when
    nothing but failures has come of the first samples.

    >>> import hooked_av as av, tempfile
    >>> samples = [Sample("a", (), "Which digit is this?"), Sample("b", (), "Which colour is this?")]
    >>> out = tempfile.mkdtemp()
    >>> run = run_dataset(av.random_omni(n_layers=2), samples, "lens", out=out, top_k=3)
    >>> run.n_new, len(pd.read_parquet(merge(out)))
    (2, 12)
    """
    samples = read_manifest(manifest) if isinstance(manifest, (str, Path)) else checked_ids(manifest)
    function = _analysis(analysis)
    prepare = dict(prepare or {})
    settings = {"analysis": _name_of(analysis), "arguments": _filled(function, arguments), "prepare": prepare}
    settings |= model_settings(model) | {"manifest": manifest_hash(samples), "samples": [s.id for s in samples]}
    mine = [place for place in range(len(samples)) if place % _shard(shard)[1] == _shard(shard)[0]]
    folder = ResultsFolder.open(out, settings)
    known = folder.finished() | folder.failures().keys()
    todo = [place for place in mine if place not in known]
    jobs = _Jobs(folder, partial(_table, model, function, prepare, arguments))
    with tqdm(desc=settings["analysis"], total=len(mine), initial=len(mine) - len(todo), unit="sample",
              disable=not progress) as bar:  # fmt: skip
        for place in todo:
            jobs.run(place, samples[place])
            bar.set_postfix(failed=jobs.n_failed, refresh=False)
            bar.update()
    return _summary(folder, shard, mine, jobs.n_finished)


def merge(folder: str | Path, *, allow_missing: bool = False) -> Path:
    """Join the tables of all samples, in the order of the manifest, into results.parquet: one row group a sample.

    Failures go to failed.csv beside it.

    Args:
        allow_missing: merge what there is, though samples have neither results nor a failure yet.

    Errors: `DatasetError` for samples that are missing, for no results at all, and for a table of another run.

    >>> import hooked_av as av, tempfile
    >>> out = tempfile.mkdtemp()
    >>> samples = [Sample("a", (), "Which digit is this?", task="reading")]
    >>> run = run_dataset(av.random_omni(n_layers=2), samples, "lens", out=out, top_k=1)
    >>> pd.read_parquet(merge(out))[["sample", "task", "layer"]].values.tolist()
    [['a', 'reading', 0], ['a', 'reading', 1]]
    """
    return ResultsFolder.read(folder).merge(allow_missing)


def read_flow(
    table: str | Path,
    *,
    only_correct: bool = True,
    metric: Whose | None = None,
    where: Mapping[str, str] = Frozen(),
) -> InformationFlow:
    """The map of all samples of a run of "flow": what `information_flow` says of the same cases.

    Args:
        table: the path that `merge` returned.
        only_correct: leave out samples that the clean model answers wrongly, where the right answer is known.
        metric: whose probability counts, "answer" or "gold" (None: what the run was asked for).
        where: columns of the manifest and their values, such as {"task": "auditory"}: only these samples.

    Errors: `DatasetError` for what is no merged table, an unknown column, and no such sample; `InputsError` for samples
    of different layouts, another analysis's table, and when nothing is left.

    >>> import hooked_av as av, tempfile
    >>> samples = [Sample("a", (), "Which digit is this?"), Sample("b", (), "Which colour is that?")]
    >>> out = tempfile.mkdtemp()
    >>> run = run_dataset(av.random_omni(n_layers=2), samples, "flow", out=out)
    >>> read_flow(merge(out)).changes.shape
    (2, 2, 2)
    """
    frame, settings = read_merged(table)
    for column, value in where.items():
        frame = frame.loc[frame[_manifest_column(column)] == value]
    if frame.empty:
        raise DatasetError(
            f"no such samples in {table}", expected="a sample", got=dict(where), next_step="check the values"
        )
    asked: Whose = metric or settings.get("metric", "answer")
    shared = settings | ({"where": dict(where)} if where else {})
    return InformationFlow.from_frame(frame, only_correct=only_correct, metric=asked, settings=shared)


def _manifest_column(name: str) -> str:
    if name not in OURS:
        raise DatasetError(
            f"the manifest has no column {name!r}",
            expected=nearest(name, OURS),
            got=repr(name),
            next_step="choose samples by one of these",
        )
    return name


@dataclass
class _Jobs:
    """Samples, one after the other; each ends as a table or as a failure."""

    folder: ResultsFolder
    table: Callable[[Sample], tuple[pd.DataFrame, Mapping[str, Any]]]
    n_finished: int = 0
    n_failed: int = 0

    def run(self, place: int, sample: Sample) -> None:
        try:
            frame, settings = self.table(sample)
        except (HookedAVError, torch.OutOfMemoryError) as error:
            failure = Failure(sample.id, sample.task, sample.group, type(error).__name__, str(error))
            self.folder.fail(place, failure)
            self.n_failed += 1
            self._check_hope(failure)
        else:
            self.folder.keep(place, frame, settings)
            self.n_finished += 1

    def _check_hope(self, last: Failure) -> None:
        if self.n_failed >= GIVE_UP_AFTER and not self.n_finished:
            raise DatasetError(
                f"the first {self.n_failed} samples have all failed",
                expected="a sample that can be analysed",
                got=f"{last.sample}: {last.kind}: {last.reason}",
                next_step=f"see {self.folder.path / 'failed'}; delete what is in there to try these samples again",
            )


def _table(
    model: "HookedAVTransformer",
    function: Analysis,
    prepare: Mapping[str, Any],
    arguments: Mapping[str, Any],
    sample: Sample,
) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    """A sample's results with what it is, and the settings of its result."""
    case = sample.prepare(model, **prepare)
    result = function(model, case, **arguments)
    frame = result.to_frame()
    ours = dict(zip(OURS, (sample.id, sample.task, sample.group, case.answer), strict=True))
    clash = sorted(name for name in ours if name in frame.columns and not _says(frame[name], ours[name]))
    if clash or frame.empty:
        raise DatasetError(
            "this table cannot be stored",
            expected=f"rows, and no columns {', '.join(ours)} that say something else than the manifest",
            got=f"columns {clash}" if clash else "no row",
            next_step="name the columns of to_frame() otherwise",
        )
    own = frame.drop(columns=list(ours), errors="ignore")
    about = pd.DataFrame({name: pd.Series([value] * len(own), dtype="str") for name, value in ours.items()})
    return pd.concat([about, own.reset_index(drop=True)], axis=1), result.settings


def _says(column: pd.Series, value: str | None) -> bool:
    """Whether a column says this of every row; an empty text says that nothing is known."""
    return bool(column.astype(object).where(column.notna(), "").eq(value or "").all())


def _summary(folder: ResultsFolder, shard: str, mine: Sequence[int], n_new: int) -> DatasetRun:
    failures = tuple(failure for place, failure in folder.failures().items() if place in set(mine))
    if failures:
        first = failures[0]
        message = (
            f"{len(failures)} of {len(mine)} samples failed (see {folder.path / 'failed'}), such as {first.sample}"
        )
        warnings.warn(f"{message}: {first.kind}: {first.reason}", HookedAVWarning, stacklevel=3)
    n_finished = len(folder.finished().intersection(mine))
    return DatasetRun(folder.path, shard, len(mine), n_finished, n_new, failures)


def _shard(text: str) -> tuple[int, int]:
    """Number of the shard, from 0, and how many there are.

    >>> _shard("2/8")
    (1, 8)
    """
    number, slash, total = (part.strip() for part in text.partition("/"))
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise DatasetError(
            "no such shard", expected="i/n with 1 <= i <= n", got=repr(text), next_step='say "1/4" ... "4/4"'
        )
    return int(number) - 1, int(total)


# ---- The analysis ----------------------------------------------------------------------------------------------------


def _analysis(given: str | Analysis) -> Analysis:
    if isinstance(given, str) and given not in ANALYSES:
        raise DatasetError(
            f"no analysis {given!r}",
            expected=nearest(given, ANALYSES),
            got=repr(given),
            next_step="give one of these names, or a function of (model, case)",
        )
    return ANALYSES[given] if isinstance(given, str) else given


def _name_of(analysis: Any) -> str:
    if isinstance(analysis, str):
        return analysis
    function = analysis.func if isinstance(analysis, partial) else analysis
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _filled(function: Analysis, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an analysis with its defaults: what a folder remembers of it."""
    try:
        bound = signature(function).bind(None, None, **arguments)
    except TypeError as error:
        known = list(signature(function).parameters)[2:]
        raise DatasetError(
            "these arguments do not fit the analysis",
            expected=", ".join(known) or "none",
            got=f"{', '.join(arguments) or 'none'} ({error})",
            next_step="check the spelling",
        ) from error
    bound.apply_defaults()
    return {name: value for name, value in list(bound.arguments.items())[2:] if name != "progress"}
