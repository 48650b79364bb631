"""A manifest of questions in, a table of results out: one analysis over all samples, in shards, resumable at any time.

How results lie on the disk is told in `results_folder`, what a manifest holds in `manifest`.
"""

import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from hooked_av.analyses.discard.discard import discard_curve
from hooked_av.analyses.flow.information_flow import InformationFlow, information_flow
from hooked_av.analyses.flow.route_sweep import route_sweep
from hooked_av.analyses.lenses.logit_lens import logit_lens
from hooked_av.analyses.metric import Follow, Metric
from hooked_av.analyses.results import Result, model_settings
from hooked_av.datasets.manifest import Sample, SampleCase, checked_samples, manifest_hash, read_manifest
from hooked_av.datasets.patch_media import patch_media
from hooked_av.datasets.results_folder import Failure, ResultsFolder, read_merged
from hooked_av.datasets.sample_table import Table, as_table
from hooked_av.doors import door
from hooked_av.errors import DatasetError, HookedAVError, HookedAVWarning, nearest
from hooked_av.former import formerly
from hooked_av.frozen import Frozen

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

Analysis = Callable[..., Result]  # of a model, a case, and arguments of its own
GIVE_UP_AFTER = 20
OURS = ("sample", "task", "group", "gold")  # columns that say what a sample is


def of_inputs(function: Callable[..., Any]) -> Analysis:
    """An analysis that takes a prompt (or a batch, for results of each), as one that takes a case."""

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

    def __repr__(self) -> str:
        return f"DatasetRun({str(self.folder)!r}, {self})"

    def __str__(self) -> str:
        return (f"shard {self.shard}: {self.n_finished} of {self.n_samples} samples finished, {self.n_new} of them "
                f"now; {len(self.failures)} failed")  # fmt: skip


@door
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

    A sample that cannot be prepared or analysed is kept with its reason (of an error that is not one of ours, with its
    trace), counted and warned of. `merge(out)` makes one table.

    The folder is begun with the first result: where no sample finishes, nothing is left behind. One in which nothing
    has finished may be begun anew with other settings.

    Errors: `DatasetError` for rows that cannot be used, a folder with results of other settings or with damaged files,
    unknown arguments, a folder that cannot be written, and when nothing but failures has come of the samples.

    >>> import hooked_av as av, tempfile
    >>> samples = [Sample("a", (), "Which digit is this?"), Sample("b", (), "Which colour is this?")]
    >>> out = tempfile.mkdtemp()
    >>> run = run_dataset(av.random_omni(n_layers=2), samples, "lens", out=out, top_k=3)
    >>> run.n_new, len(pd.read_parquet(merge(out)))
    (2, 12)
    """
    samples = read_manifest(manifest) if isinstance(manifest, (str, Path)) else checked_samples(manifest)
    function = _analysis(analysis)
    prepare = _of_prepare(prepare or {})
    settings = {"analysis": _name_of(analysis), "arguments": _filled(function, arguments), "prepare": prepare}
    settings |= model_settings(model) | {"manifest": manifest_hash(samples), "samples": [s.id for s in samples]}
    mine = [place for place in range(len(samples)) if place % _shard(shard)[1] == _shard(shard)[0]]
    jobs = _Jobs(Path(out), settings, partial(_table, model, function, prepare, arguments))
    known = jobs.known()
    todo = [place for place in mine if place not in known]
    with tqdm(desc=settings["analysis"], total=len(mine), initial=len(mine) - len(todo), unit="sample",
              disable=not progress) as bar:  # fmt: skip
        for place in todo:
            jobs.run(place, samples[place])
            bar.set_postfix(failed=jobs.n_failed, refresh=False)
            bar.update()
    return _summary(Path(out), jobs.end(), shard, mine, jobs.n_finished)


@door
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


@formerly("table", "path")
@formerly("metric", "follow", ("answer", "gold"))
@door
def read_flow(
    path: str | Path,
    *,
    only_correct: bool = True,
    metric: Metric | None = None,
    follow: Follow | None = None,
    where: Mapping[str, str] = Frozen(),
) -> InformationFlow:
    """The map of all samples of a run of "flow": what `information_flow` says of the same cases.

    Args:
        path: the table, as `merge` returned it.
        only_correct: leave out samples that the clean model answers wrongly, where the right answer is known.
        metric, follow: how it is read, as for `information_flow` (None: what the run was asked for).
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
    frame, settings = read_merged(path)
    for column, value in where.items():
        frame = frame.loc[frame[_manifest_column(column)] == value]
    if frame.empty:
        raise DatasetError(
            f"no such samples in {path}", expected="a sample", got=dict(where), next_step="check the values"
        )
    how: dict[str, Any] = {"metric": metric or settings.get("metric", "probability")}
    how |= {"follow": follow or settings.get("follow", "answer")}
    shared = settings | ({"where": dict(where)} if where else {})
    return InformationFlow.from_frame(frame, only_correct=only_correct, settings=shared, **how)


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
    """Samples, one after the other; each ends as a table or as a failure. The folder is begun with the first table."""

    out: Path
    settings: Mapping[str, Any]
    table: Callable[[Sample], Table]
    n_finished: int = 0
    n_failed: int = 0
    _folder: ResultsFolder | None = None
    _held: dict[int, Failure] = field(default_factory=dict)  # failures before the first table
    _foreign: int = 0  # errors in a row that are not ours

    def known(self) -> set[int]:
        """Places of samples that are not run again."""
        self._folder = ResultsFolder.find(self.out, self.settings)
        return set() if self._folder is None else self._folder.finished() | self._folder.failures().keys()

    def run(self, place: int, sample: Sample) -> None:
        try:
            table = self.table(sample)
        except MemoryError:  # of the machine; that of a GPU is the sample's
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is: the other samples are not to blame
            self._fail(place, sample, error)
        else:
            folder = self._begun()
            folder.keep(place, table)
            self.n_finished += 1
            self._foreign = 0

    def end(self) -> ResultsFolder | None:
        """The folder; None if there was nothing to do."""
        if self._folder is None and self._held:
            self._folder = ResultsFolder.find(self.out, self.settings)  # another shard may have begun it
            if self._folder is None:
                raise _hopeless(
                    f"0 of {self.n_failed} samples could be finished; no folder was begun", self._held.values()
                )
            self._begun()
        return self._folder

    def _fail(self, place: int, sample: Sample, error: Exception) -> None:
        is_ours = isinstance(error, (HookedAVError, torch.OutOfMemoryError))
        self.n_failed += 1
        self._foreign = 0 if is_ours else self._foreign + 1
        self._held[place] = failure = _failure(sample, error, is_ours)
        if self._folder is not None:
            self._begun()
        elif self.n_failed >= GIVE_UP_AFTER:
            raise _hopeless(f"the first {self.n_failed} samples have all failed", self._held.values()) from error
        if self._foreign >= GIVE_UP_AFTER:  # such as a GPU that answers nothing any more
            raise _hopeless(f"the last {self._foreign} samples met errors that are not ours", [failure]) from error

    def _begun(self) -> ResultsFolder:
        """The folder, with all failures so far."""
        folder = self._folder = self._folder or ResultsFolder.begin(self.out, self.settings)
        while self._held:
            folder.fail(*self._held.popitem())
        return folder


def _failure(sample: Sample, error: Exception, is_ours: bool) -> Failure:
    about, reason = (sample.id, sample.task, sample.group, type(error).__name__), str(error)
    if is_ours:
        return Failure(*about, reason)
    trace = "".join(traceback.format_exception(error))
    return Failure(*about, f"{reason} (not an error of hooked_av's own: please report it, with its trace)", trace)


def _hopeless(what: str, failures: Iterable[Failure]) -> DatasetError:
    """The error for a run without results: what its samples died of, each reason once."""
    reasons: dict[str, Failure] = {}
    for one in failures:
        reasons.setdefault(f"{one.kind}: {one.reason}", one)
    shown = [f"sample {one.sample[:80]!r}: {reason[:500]}" for reason, one in list(reasons.items())[:3]]
    trace = next((one.trace for one in reasons.values() if one.trace), "")
    return DatasetError(
        what,
        expected="a sample that can be analysed with these arguments",
        got="\n".join([*shown, trace[-800:]]).strip().replace("\n", "\n    "),
        next_step="mend the arguments or these samples, and run again",
    )


def _table(
    model: "HookedAVTransformer",
    function: Analysis,
    prepare: Mapping[str, Any],
    arguments: Mapping[str, Any],
    sample: Sample,
) -> Table:
    """A sample's results with what it is."""
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
    return as_table(pd.concat([about, own.reset_index(drop=True)], axis=1), result.settings)


def _says(column: pd.Series, value: str | None) -> bool:
    """Whether a column says this of every row; an empty text says that nothing is known."""
    return bool(column.astype(object).where(column.notna(), "").eq(value or "").all())


def _summary(out: Path, folder: ResultsFolder | None, shard: str, mine: Sequence[int], n_new: int) -> DatasetRun:
    if folder is None:  # a shard without samples
        return DatasetRun(out, shard, len(mine), 0, 0, ())
    failures = tuple(failure for place, failure in folder.failures().items() if place in set(mine))
    if failures:
        first = failures[0]
        message = f"{len(failures)} of {len(mine)} samples failed (see {out / 'failed'}), such as {first.sample[:80]}"
        warnings.warn(f"{message}: {first.kind}: {first.reason[:1000]}", HookedAVWarning, stacklevel=3)
    n_finished = len(folder.finished().intersection(mine))
    return DatasetRun(out, shard, len(mine), n_finished, n_new, failures)


def _shard(text: str) -> tuple[int, int]:
    """Number of the shard, from 0, and how many there are.

    >>> _shard("2/8")
    (1, 8)
    """
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
    number, total = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= total:
        raise DatasetError(
            "no such shard", expected="i/n with 1 <= i <= n", got=repr(text[:80]), next_step='say "1/4" ... "4/4"'
        )
    return number - 1, total


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


def _of_prepare(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `model.prepare` that are not the sample's own."""
    own = {"media", "question", "options"}.intersection(given)
    if own:
        raise DatasetError(
            f"{', '.join(sorted(own))} cannot be given for all samples",
            expected="other arguments of model.prepare, such as sampling",
            got=", ".join(map(repr, given)),
            next_step="write them into the manifest",
        )
    return dict(given)


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
