"""The commands that run an analysis over a manifest: `hooked-av flow | lens | patch | discard | sweep`.

`merge` joins what they wrote. `hooked-av study` asks published findings of a model.

Heavy imports happen inside the commands, so that `hooked-av --help` answers at once; `hooked-av lens --help` imports
the analyses, whose signatures and docstrings it shows.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hooked_av.cli.commands import SAMPLES_FAILED, Command, ResumedCommand
from hooked_av.cli.options import Form, Reader, options_of
from hooked_av.interventions.routes import Route
from hooked_av.tiny.routes import MODEL_NAMES

if TYPE_CHECKING:
    from hooked_av.media.sampling import Sampling
    from hooked_av.model.transformer import HookedAVTransformer

TINY = "tiny-av"

_COMMON = (
    click.Option(["--model"], metavar="PATH_OR_ID", default=TINY, show_default=True,
                 help="Checkpoint folder or hub id."),
    click.Option(["--manifest"], type=click.Path(path_type=Path), required=True, metavar="FILE",
                 help="Questions: .jsonl or .csv with id, media, question, options, answer, task, group."),
    click.Option(["--out"], type=click.Path(path_type=Path), required=True, metavar="FOLDER",
                 help="Where results go; a run that was stopped is taken up from there."),
    click.Option(["--shard"], default="1/1", show_default=True, metavar="I/N",
                 help="Run the I-th of N parts only; the parts may run at once."),
    click.Option(["--max-pixels"], type=int, metavar="N", help="Pixels of a frame, at most (default: as released)."),
    click.Option(["--fps"], type=float, metavar="N",
                 help="Frames a second that the model sees (default: as released)."),
    click.Option(["--positions"], metavar="MODE",
                 help="How positions are counted (video-SALMONN 2+: generate, train)."),
)  # fmt: skip


_FAILED = (
    f"Exit code {SAMPLES_FAILED}: the run came to its end, and samples have failed (FOLDER/failed says why). Where "
    "none could be finished, no folder is begun."
)


class AnalysisCommand(ResumedCommand):
    """A command named as an analysis in `datasets.ANALYSES`, whose options are the arguments of that one.

    They are read when they are asked for, so that a list of all commands imports no analysis.
    """

    def __init__(self, name: str, **more: Any) -> None:
        super().__init__(name, epilog=_FAILED, **more)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self.params:
            self.params = [*_COMMON, *self.arguments()]
        return super().get_params(ctx)

    def arguments(self) -> list[click.Option]:
        """The options that are arguments of the analysis."""
        from hooked_av.datasets.run import ANALYSES

        return options_of(ANALYSES[str(self.name)], FORMS)

    def invoke(self, ctx: click.Context) -> None:
        """Runs with what was said; what was not has the defaults of the analysis."""
        given = {n: v for n, v in ctx.params.items() if ctx.get_parameter_source(n) is not ParameterSource.DEFAULT}
        run_analysis(str(self.name), **{name: ctx.params[name] for name in ("model", "shard")} | given)


def _pathway(text: str) -> str:
    """As it is written in Python, so that a folder can be filled from both."""
    route = Route.parse(text)
    if route.layers is not None:
        raise click.BadParameter("pathways have no layers: every layer is cut in turn")
    return f"{route.keys}->{route.queries}"


def _controls(text: str) -> Any:
    """ "2:rows" is two draws of that spread; what is no spread is refused by `Controls`."""
    from hooked_av.analyses.flow.controls import Controls

    draws, _, spread = text.partition(":")
    if not draws.isdecimal():
        raise click.BadParameter("give a number of draws, such as 2 or 2:rows")
    chosen: Any = {"spread": spread} if spread else {}
    return Controls(int(draws), **chosen)


def _say_controls(controls: Any) -> str:
    return f"{controls.draws}:{controls.spread}"


def _cut(text: str) -> str:
    Route.parse(text)
    return text


def _convention(text: str) -> str:
    from hooked_av.analyses.lenses.convention import LensConvention

    LensConvention.parse(text)
    return text


# Arguments that are said in a form of their own; a text that is wrong is refused before a model is loaded.
FORMS = {
    "pathways": Form(Reader("KEYS->QUERIES", _pathway), is_multiple=True),
    "controls": Form(Reader("DRAWS[:SPREAD]", _controls, _say_controls)),
    "cuts": Form(Reader("ROUTE", _cut), is_multiple=True),
    "convention": Form(Reader("NAME[+NAME]", _convention)),
    "kv": Form(click.Choice(("keep", "drop"))),
}
COMMANDS = (
    AnalysisCommand(
        "flow",
        help="Cut attention along all pathways, layer by layer, beside random cuts, and measure what becomes of the "
        "answer.",
    ),
    AnalysisCommand("lens", help="Read the logit lens: the best tokens of every layer."),
    AnalysisCommand(
        "patch",
        help="Patch each sample's run into that of its silenced or blanked clip, span by span and layer by layer.",
    ),
    AnalysisCommand("discard", help="Drop tokens before each layer; measure answers, and what is saved."),
    AnalysisCommand("sweep", help="Cut each of the given routes, and measure what becomes of the answer."),
)


def run_analysis(name: str, model: str, manifest: Path, out: Path, shard: str, **given: Any) -> None:
    """One command, from its options to the folder of results."""
    from hooked_av.datasets.manifest import read_manifest
    from hooked_av.datasets.run import run_dataset
    from hooked_av.media.sampling import Sampling

    samples = read_manifest(manifest)  # what is wrong with it is said before a model is loaded
    sampling = {option: given.pop(option) for option in ("fps", "max_pixels") if option in given}
    prepare: dict[str, Any] = {"positions": given.pop("positions")} if "positions" in given else {}
    if sampling:
        prepare["sampling"] = Sampling(**sampling)
        check_sampling(prepare["sampling"])
    run = run_dataset(load_model(model), samples, name, out=out, shard=shard, prepare=prepare, progress=True, **given)
    click.echo(f"{click.format_filename(out)}: {run}")
    if run.failures:
        click.get_current_context().exit(SAMPLES_FAILED)


@click.command(cls=Command)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--allow-missing", is_flag=True, help="Merge what there is, though samples are missing.")
def merge(folder: Path, allow_missing: bool) -> None:
    """Join the results in FOLDER into one table, results.parquet, with one row group a sample."""
    from hooked_av.datasets.results_folder import ResultsFolder
    from hooked_av.datasets.run import merge as join

    path = join(folder, allow_missing=allow_missing)
    found = ResultsFolder.read(folder)
    total, finished, failed = len(found.settings["samples"]), len(found.finished()), len(found.failures())
    left = f"{failed} failed, {total - finished - failed} missing"
    click.echo(f"{click.format_filename(path)}: {finished} of {total} samples; {left}")


@click.command(cls=ResumedCommand)
@click.option("--model", metavar="PATH_OR_ID", default=TINY, show_default=True,
              help="tiny-av, or a checkpoint that was trained on its task.")  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), default=200, show_default=True, metavar="N",
              help="Questions of each family, at least.")  # fmt: skip
@click.option("--families", multiple=True, metavar="NAME",
              help="A family of questions; give several (default: all, without options).")  # fmt: skip
@click.option("--window", type=int, metavar="LAYERS",
              help="Layers cut at once in maps over layers (default: 9, less in small models).")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=20_261_125, show_default=True,
              help="Of questions and random cuts.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("study"), show_default=True, metavar="FOLDER",
              help="Where report.html and the results go; families that are there are not run again.")  # fmt: skip
def study(model: str, samples: int, families: tuple[str, ...], window: int | None, seed: int, out: Path) -> None:
    """Ask four published findings about information flow of a model, and write report.html.

    Attention knockout with random controls, contribution of the modalities, and discards, on held-out questions of
    tiny-av's task; every verdict is computed by a rule that the report gives.
    """
    from hooked_av.plots.page import check_folder
    from hooked_av.study.measures import family_of
    from hooked_av.study.page import write_study
    from hooked_av.study.run import run_study

    check_folder(out)
    for name in families:
        family_of(name)  # what is wrong with it is said before a model is loaded
    found = run_study(
        load_model(model), families or None, out=out, samples=samples, window=window, seed=seed, progress=True
    )
    for one in found.summaries:
        click.echo(f"{one.finding}. {one.claim}: {one.says}")
    click.echo(f"Report: {write_study(found, out)}")


def check_sampling(sampling: "Sampling") -> None:
    """Rates and sizes that no clip can be seen at are refused before a model is loaded."""
    from hooked_av.media.patches import MAX_FRAMES, MIN_FRAMES, SAMPLED_FPS, VIDEO_BUDGET, sample_indices
    from hooked_av.media.sampling import ResolvedSampling

    seen = sampling.resolved(ResolvedSampling(SAMPLED_FPS, MIN_FRAMES, MAX_FRAMES))
    sample_indices(1, 1.0, fps=seen.fps)
    seen.budget(VIDEO_BUDGET)


def load_model(name: str) -> "HookedAVTransformer":
    """A checkpoint, on the GPU if there is one."""
    import torch

    from hooked_av.model.transformer import HookedAVTransformer

    if name in MODEL_NAMES:
        torch.set_num_threads(1)  # a model this small is slower on several threads, many times so on a busy machine
    return HookedAVTransformer.from_pretrained(name, device="cuda" if torch.cuda.is_available() else "cpu")
