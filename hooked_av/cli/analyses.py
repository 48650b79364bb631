"""The commands that run an analysis over a manifest, from one table: `hooked-av flow | lens | patch | discard | sweep`.

`merge` joins what they wrote. `hooked-av study` asks published findings of a model.

Heavy imports happen inside the commands, so that `hooked-av --help` answers at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hooked_av.interventions.routes import Route

TINY = "tiny-av"

_COMMON = (
    click.option("--model", metavar="PATH_OR_ID", default=TINY, show_default=True, help="Checkpoint folder or hub id."),
    click.option("--manifest", type=click.Path(path_type=Path), required=True, metavar="FILE",
                 help="Questions: .jsonl or .csv with id, media, question, options, answer, task, group."),
    click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FOLDER",
                 help="Where results go; a run that was stopped is taken up from there."),
    click.option("--shard", default="1/1", show_default=True, metavar="I/N",
                 help="Run the I-th of N parts only; the parts may run at once."),
    click.option("--max-pixels", type=int, metavar="N", help="Pixels of a frame, at most (default: as released)."),
    click.option("--fps", type=float, metavar="N", help="Frames a second that the model sees (default: as released)."),
    click.option("--positions", metavar="MODE", help="How positions are counted (video-SALMONN 2+: generate, train)."),
)  # fmt: skip


@dataclass(frozen=True)
class AnalysisCommand:
    """A command; its name is that of the analysis in `datasets.ANALYSES`, its options are that one's arguments."""

    name: str
    help: str
    options: tuple[Callable[..., Any], ...]

    def build(self) -> click.Command:
        def run(model: str, manifest: Path, out: Path, shard: str, **rest: Any) -> None:
            run_analysis(self.name, model, manifest, out, shard, rest)

        for option in reversed((*_COMMON, *self.options)):
            run = option(run)
        return click.command(self.name, help=self.help)(run)


def _pathways(ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    routes = [Route.parse(text) for text in texts]
    if any(route.layers is not None for route in routes):
        raise click.BadParameter("pathways have no layers: every layer is cut in turn", ctx, option)
    return tuple((route.keys, route.queries) for route in routes)


def _controls(ctx: click.Context, option: click.Parameter, text: str | None) -> Any:
    """ "2:rows" is two draws of that spread; what is no spread is refused by `Controls`."""
    if text is None:
        return None
    from hooked_av.analyses.flow.controls import Controls

    draws, _, spread = text.partition(":")
    if not draws.isdecimal():
        raise click.BadParameter("give a number of draws, such as 2 or 2:rows", ctx, option)
    chosen: Any = {"spread": spread} if spread else {}
    return Controls(int(draws), **chosen)


COMMANDS = (
    AnalysisCommand(
        "flow",
        "Cut attention along all pathways, layer by layer, beside random cuts, and measure what becomes of the answer.",
        (
            click.option("--pathway", "pathways", multiple=True, metavar="KEYS->QUERIES", callback=_pathways,
                         help="What is cut; give several (default: all that the prompt has)."),
            click.option("--window", type=int, metavar="LAYERS",
                         help="Layers cut at a time (default: 9, less in small models)."),
            click.option("--metric", type=click.Choice(["answer", "gold"]),
                         help="Whose probability counts: of the clean answer (default), or of the right one."),
            click.option("--controls", metavar="DRAWS[:SPREAD]", callback=_controls,
                         help="Random cuts beside each cut (default: 1:entries; 1:rows is cheaper; 0: none)."),
        ),
    ),
    AnalysisCommand(
        "lens",
        "Read the logit lens: the best tokens of every layer.",
        (
            click.option("--at", metavar="SPAN", help="Where it is read (default: last)."),
            click.option("--top-k", type=int, metavar="N", help="Tokens kept a layer and position (default: 5)."),
            click.option("--convention", type=click.Choice(["final_norm", "no_norm"]),
                         help="Whether the final norm comes before unembedding (default: final_norm)."),
        ),
    ),
    AnalysisCommand(
        "patch",
        "Patch each sample's run into that of its silenced or blanked clip, span by span and layer by layer.",
        (
            click.option("--corruption", type=click.Choice(["silence", "black_frames"]),
                         help="What happens to the clip (default: silence)."),
            click.option("--span", "spans", multiple=True, metavar="SPAN",
                         help="Rows that are patched together; give several (default: all usual ones)."),
            click.option("--component", "components", multiple=True, metavar="NAME",
                         help="What is patched (default: resid_pre, attn_out, mlp_out)."),
        ),
    ),
    AnalysisCommand(
        "discard",
        "Drop tokens before each layer; measure answers, and what is saved.",
        (
            click.option("--tokens", "spans", multiple=True, metavar="SPAN",
                         help="What is dropped; give several (default: audio, video, av)."),
            click.option("--kv", type=click.Choice(["keep", "drop"]),
                         help="Whether keys and values of earlier layers stay (default: keep)."),
            click.option("--repeats", type=int, metavar="N", help="Timed passes of each (default: 3)."),
        ),
    ),
    AnalysisCommand(
        "sweep",
        "Cut each of the given routes, and measure what becomes of the answer.",
        (
            click.option("--cut", "cuts", multiple=True, required=True, metavar="ROUTE",
                         help='Such as "audio->question@2-5" (layers from 0, the last included); give several.'),
        ),
    ),
)  # fmt: skip


def run_analysis(name: str, model: str, manifest: Path, out: Path, shard: str, rest: dict[str, Any]) -> None:
    """One command, from its options to the folder of results."""
    from hooked_av.datasets.manifest import read_manifest
    from hooked_av.datasets.run import run_dataset
    from hooked_av.media.sampling import Sampling

    samples = read_manifest(manifest)  # what is wrong with it is said before a model is loaded
    given = {option: value for option, value in rest.items() if value not in (None, ())}
    sampling = {option: given.pop(option) for option in ("fps", "max_pixels") if option in given}
    prepare = {"positions": given.pop("positions")} if "positions" in given else {}
    if sampling:
        prepare["sampling"] = Sampling(**sampling)
    run = run_dataset(load_model(model), samples, name, out=out, shard=shard, prepare=prepare, progress=True, **given)
    click.echo(f"{out}: {run}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--allow-missing", is_flag=True, help="Merge what there is, though samples are missing.")
def merge(folder: Path, allow_missing: bool) -> None:
    """Join the results in FOLDER into one table, results.parquet, with one row group a sample."""
    from hooked_av.datasets.results_folder import ResultsFolder
    from hooked_av.datasets.run import merge as join

    path = join(folder, allow_missing=allow_missing)
    found = ResultsFolder.read(folder)
    total, finished, failed = len(found.settings["samples"]), len(found.finished()), len(found.failures())
    click.echo(f"{path}: {finished} of {total} samples; {failed} failed, {total - finished - failed} missing")


@click.command()
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


def load_model(name: str) -> Any:
    """A checkpoint, on the GPU if there is one."""
    import torch

    from hooked_av.model.transformer import HookedAVTransformer

    if name == TINY:
        torch.set_num_threads(1)  # a model this small is slower on several threads, many times so on a busy machine
    return HookedAVTransformer.from_pretrained(name, device="cuda" if torch.cuda.is_available() else "cpu")
