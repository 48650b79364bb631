"""The study from start to end: every family measured once, kept in a folder, and what is said of them.

settings.json             what made it: model, weights, versions, samples, window, controls; never changed
results/visual/*          one family: every result by its own `save`; it appears whole or not at all
tables/*.parquet          numbers of all families (see `tables`)
statements.json           what is said, by which numbers
report.html               written by `page.write_study`
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm

from hooked_av.analyses.flow.windows import default_window, layer_window
from hooked_av.analyses.results import model_settings
from hooked_av.datasets.sample_table import unusable
from hooked_av.datasets.settings_file import settled
from hooked_av.datasets.whole_files import appearing, writing
from hooked_av.doors import door
from hooked_av.errors import HookedAVError
from hooked_av.study.findings import Statement, Summary, statements, summaries
from hooked_av.study.measures import FamilyResults, StudyPlan, family_of, measure, slug
from hooked_av.study.tables import tables
from hooked_av.tiny.questions import FAMILIES
from hooked_av.whole_files import part_of

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

RESULTS, TABLES, STATEMENTS = "results", "tables", "statements.json"


@dataclass(frozen=True, eq=False)
class Study:
    """What was measured and what is said."""

    results: tuple[FamilyResults, ...]
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        families = ", ".join(result.family for result in self.results)
        return f"Study of {self.settings.get('model')}: {len(self.results)} families ({families})"

    @cached_property
    def statements(self) -> list[Statement]:
        """Every claim about every family, with its numbers."""
        return statements(self.results)

    @cached_property
    def summaries(self) -> list[Summary]:
        """Every main claim over all families."""
        return summaries(self.statements)

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The numbers, as tables over all families."""
        return tables(self.results)


@door
def run_study(
    model: "HookedAVTransformer",
    families: Sequence[str] | None = None,
    *,
    out: str | Path,
    samples: int = 200,
    window: int | None = None,
    seed: int = StudyPlan.seed,
    progress: bool = False,
) -> Study:
    """Which published findings about audio-visual information flow hold for this model?

    Asks the four findings of the study on questions about held-out digits: routes and pathways by attention knockout,
    contribution of the modalities, discards; each with random controls or intervals, and verdicts by fixed rules.
    `page.write_study` makes the report.

    Args:
        model: tiny-av, or another model that was trained on its task.
        families: of questions (None: all, without options); "visual, options" asks with lettered options.
        out: a folder. A family that is there is not run again; other settings than those it was begun with are refused.
        samples: questions of each family, at least.
        window: layers cut at once in maps over layers (None: `default_window`).
        seed: of questions and random cuts.
        progress: show a bar.

    Errors: `InputsError` for an unknown family or an answer that is not one token of the model; `DatasetError` for a
    folder with other settings, with a damaged family, or that cannot be written; `InterventionError` for a window that
    the model does not have.

    >>> import hooked_av as av, tempfile
    >>> model = av.HookedAVTransformer.from_pretrained("tiny-av")
    >>> study = av.run_study(model, ["auditory"], samples=2, out=tempfile.mkdtemp())
    >>> {one.says for one in study.statements}  # two samples say nothing
    {'cannot be said'}
    """
    names = list(dict.fromkeys([families] if isinstance(families, str) else families or FAMILIES))
    for name in names:
        family_of(name)
    width = default_window(model.cfg.n_layers) if window is None else window
    layer_window(0, model.cfg.n_layers, width)  # refused before anything runs
    plan = StudyPlan(samples, width, seed)
    controls = "one random cut of the same size and layers beside every cut"
    settings = settled(Path(out), {**model_settings(model), **asdict(plan), "controls": controls})
    folder = Path(out) / RESULTS
    with tqdm(names, desc="families", unit="family", disable=not progress) as bar:
        results = tuple(_family(model, name, plan, folder / slug(name), bar) for name in bar)
    study = Study(results, settings)
    _write(study, Path(out))
    return study


def _family(model: "HookedAVTransformer", name: str, plan: StudyPlan, folder: Path, bar: Any) -> FamilyResults:
    """One family, measured now or at an earlier time."""
    if folder.exists():
        return _kept(folder, name)
    found = measure(model, name, plan, lambda stage: bar.set_postfix_str(f"{name}: {stage}"))
    part = part_of(folder)
    try:
        with writing(folder):
            part.mkdir(parents=True)
            found.save(part)
            _put(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return found


def _put(part: Path, folder: Path) -> None:
    """Give a whole family its name, unless another process has measured it, too."""
    try:
        os.replace(part, folder)
    except OSError:
        if not folder.is_dir():
            raise


def _kept(folder: Path, name: str) -> FamilyResults:
    """What was measured at an earlier time."""
    try:
        found = FamilyResults.load(folder)
    except (HookedAVError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise unusable([f"{folder}: {type(error).__name__}: {error}"]) from error
    if found.family != name:
        raise unusable([f"{folder}: family {found.family!r} in the place of {name!r}"])
    return found


def _write(study: Study, out: Path) -> None:
    """Tables and statements, beside the results."""
    with writing(out / TABLES):
        (out / TABLES).mkdir(exist_ok=True)
    for name, table in study.tables.items():
        if len(table):
            with appearing(out / TABLES / f"{name}.parquet") as part:
                table.to_parquet(part, index=False)
    said = {"statements": [asdict(one) for one in study.statements], "summaries": [asdict(s) for s in study.summaries]}
    with appearing(out / STATEMENTS) as part:
        part.write_text(json.dumps(said, indent=1, ensure_ascii=False), encoding="utf-8")
