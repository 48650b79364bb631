"""The command line: `hooked-av demo`; analyses over manifests and the commands of tiny-av have files of their own.

Heavy imports happen inside the commands, so that `--help` and `--version` answer at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hooked_av.cli.analyses import COMMANDS, TINY, check_sampling, load_model, merge, study
from hooked_av.cli.commands import EXIT_CODES, Commands
from hooked_av.cli.tiny import benchmark_of_routes, evaluate_tiny, make_tiny_clips, train_tiny
from hooked_av.tiny.routes import MODEL_NAMES

if TYPE_CHECKING:
    from hooked_av.cli.demo import DemoResult, Origin
    from hooked_av.media.sampling import Sampling
    from hooked_av.model.transformer import HookedAVTransformer

HOME = Path(__file__).parent.parent
TINY_CLIP = HOME / "tiny" / "clips" / "four-is-spoken-twice.mp4"
TINY_QUESTION = "What is the shown digit plus the spoken digit in second two?"
CLIP = HOME / "data" / "bigbuckbunny.mp4"
QUESTION = "What do you hear?"
ATTRIBUTION = (
    "bigbuckbunny.mp4: 5.3 seconds of “Big Buck Bunny”, © 2008 Blender Foundation, www.bigbuckbunny.org, under "
    "CC BY 3.0, https://creativecommons.org/licenses/by/3.0/. The clip itself is unchanged; frames are shown smaller."
)


@dataclass(frozen=True)
class DemoOptions:
    """What `hooked-av demo` was asked to do."""

    model: str
    video: Path | None
    question: str | None
    options: tuple[str, ...]
    start: float | None
    stop: float | None
    max_pixels: int | None
    fps: float | None
    window: int | None
    out: Path

    @property
    def clip(self) -> Path:
        """The file that was named, or a clip of the package: digits for tiny-av's kind, a film for all other models."""
        return self.video or (TINY_CLIP if self.model in MODEL_NAMES else CLIP)

    @property
    def asked(self) -> str:
        """The question that was put, or one that fits the clip of the package."""
        return self.question or (TINY_QUESTION if self.clip == TINY_CLIP else QUESTION)

    @property
    def sampling(self) -> "Sampling":
        from hooked_av.media.sampling import Sampling

        return Sampling(fps=self.fps, max_pixels=self.max_pixels)

    @property
    def origin(self) -> "Origin":
        from hooked_av.cli.demo import Origin

        return Origin(self.model, False, self.clip.name, ATTRIBUTION if self.clip == CLIP else "")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(package_name="hooked-av", prog_name="hooked-av")
@click.option("--debug", is_flag=True, help="Show the trace of an error, before its message.")
def main(debug: bool) -> None:
    """Mechanistic interpretability of audio-visual language models."""


@main.command()
@click.option("--model", metavar="PATH_OR_ID", default=TINY, show_default=True, help="Checkpoint folder or hub id.")
@click.option("--video", type=click.Path(path_type=Path), metavar="FILE",
              help="Film, sound or image (default: a clip of the package).")  # fmt: skip
@click.option("--question", metavar="TEXT", help="What is asked about the clip (default: one that fits it).")
@click.option("--option", "options", multiple=True, metavar="TEXT", help="An answer option; give two or more.")
@click.option("--start", type=float, metavar="SECONDS", help="Where in the file the clip begins.")
@click.option("--stop", type=float, metavar="SECONDS", help="Where in the file the clip ends.")
@click.option("--max-pixels", type=int, metavar="N",
              help="Pixels of a frame, at most (default: as released).")  # fmt: skip
@click.option("--fps", type=float, metavar="N", help="Frames a second that the model sees (default: as released).")
@click.option("--window", type=click.IntRange(min=1), metavar="N",
              help="Layers that are cut at once (default: by the model's depth).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, metavar="FOLDER",
              help="Where report.html goes.")  # fmt: skip
def demo(**given: Any) -> None:
    """Run the whole path on one clip and write report.html.

    Decodes the clip, builds the prompt, runs the model with a cache, cuts attention from audio and video
    to the question and to the last position layer by layer, and reads the logit lens at the last position.
    """
    run(DemoOptions(**given))


def run(asked: DemoOptions) -> None:
    """The demo from options to report; nothing is written unless all of it worked."""
    _check(asked)
    from hooked_av.cli.demo import run_demo, stage
    from hooked_av.cli.report import write_report
    from hooked_av.media.clip import Clip
    from hooked_av.plots.page import check_folder

    check_folder(asked.out)
    seconds: dict[str, float] = {}
    with stage("open the clip", seconds, progress=True):
        clip = Clip.from_file(asked.clip, asked.start or 0.0, asked.stop)
    with stage("load the model", seconds, progress=True):
        model = _load(asked)
    result = run_demo(
        model, clip, asked.asked, asked.options,
        origin=asked.origin, sampling=asked.sampling, window=asked.window, progress=True,
    )  # fmt: skip
    with stage("write the report", seconds, progress=True):
        path = write_report(result, asked.out)
    _show(result, path)


def _check(asked: DemoOptions) -> None:
    """What can be wrong without a model is refused before one is loaded."""
    from hooked_av.prompt.text import check_options, question_parts

    question_parts(asked.asked, check_options(asked.options), None)
    check_sampling(asked.sampling)


def _load(asked: DemoOptions) -> "HookedAVTransformer":
    return load_model(asked.model)


def _show(result: "DemoResult", path: Path) -> None:
    """Summary, table and the place of the report."""
    from rich.console import Console
    from rich.text import Text

    from hooked_av.plots.text import visible

    sampling, counts = result.inputs.settings["sampling"], result.inputs.spans
    media = ", ".join(f"{len(counts[name])} {name}" for name in ("audio", "video", "image") if name in counts)
    budget = "the released pixel budget" if sampling["max_pixels"] is None else f"{sampling['max_pixels']:,} pixels"
    console = Console()
    console.print()
    console.print(Text(f"Clip:      {result.origin.clip}, {result.clip}"))
    console.print(Text(f"Question:  {result.question}"))
    console.print(Text(f"Prompt:    {result.inputs.n_pos} tokens ({media}); {sampling['fps']:g} frames a second, "
                       f"at most {budget} a frame; positions: {result.inputs.settings['positions']}"))  # fmt: skip
    console.print(Text(f"Answer:    {visible(result.curves.answers[0])}, p = {result.curves.p_answer_base[0]:.3g}"))
    for note in result.notes:
        console.print(Text(f"Note:      {note}"))
    console.print(_table(result))
    if result.origin.attribution:
        console.print(Text(result.origin.attribution), style="dim")
    click.echo(f"Report: {path}")


def _table(result: "DemoResult") -> Any:
    from rich.table import Table
    from rich.text import Text

    from hooked_av.plots.text import shortened, visible

    curves, lens = result.curves, result.lens
    cut = "one layer" if curves.window == 1 else f"{curves.window} layers"
    table = Table(title=f"Change of answer probability, attention cut in {cut} at a time; best token of the logit lens")
    table.add_column("layer", justify="right")
    for pathway in curves.pathways:
        table.add_column(f"{pathway} %", justify="right")
    table.add_column("lens token")
    table.add_column("p", justify="right")
    for layer, change in enumerate(curves.change_percent.T):
        best, p = lens.top_texts[layer][-1][0], float(lens.top_probabilities[layer, -1, 0])
        cells = [Text(f"{value:+.2f}") for value in change]
        table.add_row(str(layer), *cells, Text(shortened(visible(best), 14)), f"{p:.3g}")
    return table


for command in (*COMMANDS, merge, study):
    main.add_command(command)
main.add_command(train_tiny)
main.add_command(evaluate_tiny)
main.add_command(benchmark_of_routes)
main.add_command(make_tiny_clips)

if __name__ == "__main__":
    main()
