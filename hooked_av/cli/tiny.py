"""The commands of tiny-av: `hooked-av train-tiny`, `evaluate-tiny`, `make-tiny-clips`.

Heavy imports happen inside the commands, so that `hooked-av --help` answers at once.
"""

import logging
from pathlib import Path
from typing import Any

import click

from hooked_av.cli.commands import Command, ResumedCommand
from hooked_av.tiny.routes import ROUTES


@click.command("train-tiny", cls=ResumedCommand)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FOLDER",
              help="Where state, log and checkpoint go; a run that broke off is taken up from there.")  # fmt: skip
@click.option("--speech", type=click.Path(path_type=Path), required=True, metavar="FOLDER_OR_NPZ",
              help="The Free Spoken Digit Dataset: its folder `recordings`, or an .npz made from it.")  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of weights, scenes and questions."
)
@click.option("--voices/--no-voices", default=True, show_default=True,
              help="Train on espeak-ng voices too (it must be installed).")  # fmt: skip
@click.option("--leave-out", metavar="SPEAKER", help="Keep this speaker out of training, and test on them alone.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Processor threads.")
@click.option("--route", type=click.Choice(list(ROUTES)), default="free", show_default=True,
              help="; ".join(f"{name}: {route.says}" for name, route in ROUTES.items()) + ".")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="Where the model learns: cpu, cuda, ...")
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True,
              help="Processes that make batches ahead of time.")  # fmt: skip
def train_tiny(
    out: Path,
    speech: Path,
    seed: int,
    voices: bool,
    leave_out: str | None,
    threads: int,
    route: str,
    device: str,
    workers: int,
) -> None:
    """Train tiny-av, or a model like it with a known route, from the real data; the checkpoint goes to FOLDER/model.

    It takes hours on two cores, minutes on a GPU.
    """
    import torch

    from hooked_av.tiny.digits import TRAINING_VOICES, Digits, read_images, read_speech, speak
    from hooked_av.tiny.recipes import beginning_of, recipe_of
    from hooked_av.tiny.training import Trainer

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    recordings, tested = read_speech(speech, held_out=False), read_speech(speech, held_out=True)
    if leave_out is not None:
        recordings, tested = recordings.without(leave_out), tested.by([leave_out])
    if voices:
        recordings += speak(TRAINING_VOICES)
    training = Digits(read_images(held_out=False), recordings)
    model = beginning_of(route, seed)
    held_out = Digits(read_images(held_out=True), tested)
    Trainer(model, recipe_of(route, seed), training, held_out, out, torch.device(device), workers).run()
    model.cpu().save_pretrained(out / "model")
    click.echo(f"Checkpoint: {out / 'model'}")


@click.command("evaluate-tiny", cls=Command)
@click.option("--model", default="tiny-av", show_default=True, metavar="FOLDER", help="The checkpoint to examine.")
@click.option("--questions", type=click.IntRange(min=1), default=200, show_default=True, help="Questions of each form.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Write the tables there as CSV, too.")
def evaluate_tiny(model: str, questions: int, out: Path | None) -> None:
    """Print held-out accuracy: by question and missing modality, by speaker, under cuts, and on the sample clips."""
    import pandas as pd
    import torch

    from hooked_av.model.transformer import HookedAVTransformer
    from hooked_av.plots.page import check_folder
    from hooked_av.tiny.evaluation import by_family, by_speaker
    from hooked_av.tiny.held_out import read_held_out
    from hooked_av.tiny.samples import read_samples, share_right
    from hooked_av.tiny.truth import truth_of

    if out is not None:
        check_folder(out)
    torch.set_num_threads(1)  # a model this small is slower on several threads
    digits = read_held_out()
    loaded = HookedAVTransformer.from_pretrained(model)
    tables: dict[str, Any] = {
        "families": by_family(loaded, digits, questions, progress=True),
        "speakers": by_speaker(loaded, digits, questions, progress=True),
        "routes": truth_of(loaded, digits, questions, progress=True),
    }
    with pd.option_context("display.width", 160, "display.max_rows", None, "display.float_format", "{:.3f}".format):
        for table in tables.values():
            click.echo(f"\n{table.to_string(index=False)}")
    click.echo(f"\nsample clips: {share_right(loaded, read_samples()):.3f} of {len(read_samples())} questions")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            table.to_csv(out / f"{name}.csv", index=False)


@click.command("route-benchmark", cls=Command)
@click.option("--model", "models", multiple=True, metavar="NAME",
              help="A model of tiny-av's kind; give several (default: all whose routes are known).")  # fmt: skip
@click.option("--form", "forms", multiple=True, metavar="FORM",
              help='A form of question, such as "visual" or "visual, options"; give several.')  # fmt: skip
@click.option("--samples", type=click.IntRange(min=2), default=6, show_default=True, metavar="N",
              help="Questions of each form.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Write the table (CSV), the figure (SVG) and the result there.")  # fmt: skip
def benchmark_of_routes(models: tuple[str, ...], forms: tuple[str, ...], samples: int, out: Path | None) -> None:
    """Ask every method for routes that are known, and print what is right."""
    import pandas as pd
    import torch

    from hooked_av.plots.page import check_folder
    from hooked_av.study.route_benchmark import FORMS, MODELS, route_benchmark

    if out is not None:
        check_folder(out)
    torch.set_num_threads(1)  # a model this small is slower on several threads
    found = route_benchmark(models or MODELS, forms or FORMS, samples=samples, progress=True)
    table = found.to_frame()
    with pd.option_context("display.width", 200, "display.max_rows", None, "display.float_format", "{:.2f}".format):
        click.echo(table.to_string(index=False))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        table.to_csv(out / "routes.csv", index=False)
        found.plot().savefig(out / "routes.svg")
        found.save(out / "routes.safetensors")


@click.command("make-tiny-clips", cls=Command, hidden=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FOLDER", help="Where the clips go.")
def make_tiny_clips(out: Path) -> None:
    """Write the sample clips of the package anew (scikit-learn and espeak-ng are needed)."""
    from hooked_av.tiny.samples import make_samples

    make_samples(out)
