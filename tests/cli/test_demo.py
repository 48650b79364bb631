"""The main job from the command line to the page: pages parsed, errors shown."""

import base64
import re
import runpy
import subprocess
import sys
import wave
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from support.browser import n_pixels, screenshot

import hooked_av as av
from hooked_av.cli import main as cli
from hooked_av.cli.demo import DemoResult, Origin, run_demo
from hooked_av.cli.report import render_report, write_report
from hooked_av.errors import HookedAVError
from hooked_av.plots.page import REPORT, check_folder

SMALL = av.Sampling(max_pixels=784 * 6)
pytestmark = pytest.mark.usefixtures("one_thread")
RANDOM = Origin("random_omni", random_weights=True, clip="clip.mp4")


@pytest.fixture(scope="module")
def model():
    return av.random_omni(n_layers=4)


@pytest.fixture(scope="module")
def clip():
    return av.Clip.from_file(cli.CLIP, start=0.0, stop=2.0)


@pytest.fixture(scope="module")
def result(model, clip) -> DemoResult:
    return run_demo(model, clip, "What do you hear?", ["a rabbit", "a car"], origin=RANDOM, sampling=SMALL)


PATHWAYS = ("audio → question", "video → question", "audio → last", "video → last")


# --- the demo --------------------------------------------------------------------------------------------------------


def test_lens_and_curves_agree_on_the_answer(result):
    top = result.lens.top_ids[-1, -1, 0]
    assert top == result.curves.answer_ids[0]
    assert result.lens.top_probabilities[-1, -1, 0] == pytest.approx(result.curves.p_answer_base[0], rel=1e-5)


def test_the_clean_run_is_cached(result):
    n_question = len(result.inputs.spans["question"])
    assert result.cached["blocks.3.hook_resid_post@question"] == (1, n_question, 64)
    assert result.cached["blocks.0.hook_resid_post@last"] == (1, 1, 64)
    assert len(result.cached) == 8
    assert set(result.seconds) == {"prepare the prompt", "clean run with cache", "attention knockout", "logit lens"}


@pytest.fixture(scope="module")
def files(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    clip.cut(0, 1).without_audio().save(folder / "mute.mp4")
    clip.cut(0, 1).save(folder / "film.mp4")
    (folder / "empty.mp4").touch()
    Image.fromarray(clip.read_frames([0])[0]).save(folder / "still.png")
    for name, samples in (("sound.wav", clip.waveform[:16_000]), ("silence.wav", np.zeros(16_000))):
        with wave.open(str(folder / name), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((samples * 32_767).astype("<i2").tobytes())
    return folder


@pytest.mark.parametrize(
    ("name", "media", "note"),
    [
        ("mute.mp4", ("video",), "no sound: audio → question and audio → last do not exist"),
        ("sound.wav", ("audio",), "no pictures: video → question and video → last do not exist"),
        ("still.png", ("image",), "image → question and image → last stand for those of video"),
    ],
)
def test_only_pathways_that_exist_are_cut(model, files, tmp_path, name, media, note):
    pathways = tuple(f"{medium} → {reader}" for reader in ("question", "last") for medium in media)
    found = run_demo(model, av.Clip.from_file(files / name), "What?", origin=RANDOM, sampling=SMALL)
    assert found.curves.pathways == pathways
    assert any(note in one for one in found.notes)
    page = Page.read(write_report(found, tmp_path))
    assert note in page.text
    assert [cell for cell in page.headers if cell.endswith(", %")] == [f"{p}, %" for p in pathways]


# --- the page --------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Text, addresses and table headers of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.headers: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    @classmethod
    def read(cls, path: Path) -> "Page":
        return cls(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        if self.tags[-1:] != ["style"]:
            self.text = re.sub(r"\s+", " ", f"{self.text} {data}")
        if self.tags[-1:] == ["th"] and data.strip():
            self.headers.append(data.strip())


def images_of(page):
    return [base64.b64decode(address.partition("base64,")[2]).decode() for address in page.addresses]


def test_the_page_stands_alone(result, tmp_path):
    path = write_report(result, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / REPORT
    assert [file.name for file in path.parent.iterdir()] == [REPORT]
    assert path.stat().st_size < 1_000_000
    page = Page.read(path)
    assert len(page.addresses) == 2
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in path.read_text(encoding="utf-8")
    for image in images_of(page):
        root = ElementTree.fromstring(image)
        links = [value for node in root.iter() for name, value in node.attrib.items() if name.endswith("href")]
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_the_page_says_what_was_found(result):
    page = Page(render_report(result))
    layout, knockout = images_of(page)
    assert result.curves.pathways == PATHWAYS
    for pathway in PATHWAYS:
        assert f"<!-- {pathway} -->" in knockout  # matplotlib names each text that it draws as outlines
        assert f"{pathway}, %" in page.headers
    for span in ("system", "audio", "video", "boundary", "question", "option_a", "option_b", "last"):
        assert f"<!-- {span} -->" in layout
    for change in result.curves.change_percent.ravel():
        assert f" {change:+.2f} " in page.text
    assert f"{result.inputs.n_pos} tokens" in page.text
    for text in ("What do you hear?", "a rabbit", "a car", av.__version__, torch.__version__, "blocks.*"):
        assert text in page.text
    lens = result.lens
    for layer in range(4):
        assert f"{100 * lens.top_probabilities[layer, 0, 0]:.2g} %" in page.text


def with_origin(result, **origin):
    fields = {name: getattr(result, name) for name in DemoResult.__dataclass_fields__}
    return DemoResult(**{**fields, "origin": Origin(**{"model": "m", "random_weights": False, **origin})})


def test_only_random_weights_raise_the_banner(result):
    assert "RANDOM WEIGHTS Answers and curves mean nothing" in Page(render_report(result)).text
    trained = Page(render_report(with_origin(result)))
    assert "RANDOM" not in trained.text
    assert "mean nothing" not in trained.text


def test_texts_from_outside_are_escaped(model, clip):
    evil = "<script>alert('1')</script> & <img src=http://x>"
    found = run_demo(model, clip.cut(0, 1), evil, origin=Origin(evil, False, evil, evil), sampling=SMALL)
    page = Page(render_report(found))
    assert (
        page.text.count("<script>alert('1')</script> & <img src=http://x>") == 5
    )  # title, model, clip, question, licence
    assert "script" not in page.tags
    assert len(page.addresses) == 2


def test_a_page_that_cannot_be_written_leaves_the_old_one(result, tmp_path, monkeypatch):
    old = tmp_path / REPORT
    old.write_text("old")

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hooked_av.whole_files.os.replace", full)
    with pytest.raises(HookedAVError, match=r"cannot write(.|\n)*No space left"):
        write_report(result, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [REPORT]
    assert old.read_text() == "old"


def test_folders_are_checked_without_being_made(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "taken" / REPORT).mkdir(parents=True)
    for folder in ("file", "file/below", "taken"):
        with pytest.raises(HookedAVError, match="cannot write a report"):
            check_folder(tmp_path / folder)
    assert check_folder(tmp_path / "new") == tmp_path / "new"
    assert not (tmp_path / "new").exists()


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def hooked_av_command(model, tmp_path, monkeypatch):
    """Runs `hooked-av`, in an empty folder, with the small model in the place of the default one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_load", lambda asked: model)

    def run(*arguments):
        return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])

    return run


def test_the_default_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.main, ["demo"])
    assert done.exit_code == 0, done.output
    assert "Question:  What is the shown digit plus the spoken digit in second two?" in done.stdout
    assert re.search(r"Answer:    thirteen, p = [01]", done.stdout), done.stdout
    heads = [line for line in done.stdout.splitlines() if "┃" in line]
    assert len(heads) == 2
    assert heads[0].count("audio →") == heads[0].count("video →") == heads[1].count("question %") == 2
    assert heads[1].count("last %") == 2
    assert "lens" in heads[0]
    assert "token" in heads[1]
    assert len(re.findall(r"^│ +\d+ │", done.stdout, re.MULTILINE)) == 8
    assert done.stdout.splitlines()[-1] == f"Report: {Path('demo') / REPORT}"
    stages = ["open the clip", "load the model", "prepare the prompt", "clean run", "interventions",
              "logit lens", "write the report"]  # fmt: skip
    assert all(f"{stage}" in done.stderr for stage in stages)
    page = Page.read(Path("demo") / REPORT)
    assert "tiny-av" in page.text
    assert "RANDOM WEIGHTS" not in page.text + done.output
    assert "Blender" not in page.text + done.output


def test_another_model_gets_the_film_of_the_package(hooked_av_command):
    done = hooked_av_command("demo", "--model", "mine", "--stop", "1.5", "--max-pixels", 784 * 6)
    assert done.exit_code == 0, done.output
    assert "at most 4,704 pixels" in re.sub(r"\s+", " ", done.stdout)
    assert "What do you hear?" in done.stdout
    assert "© 2008 Blender Foundation" in Page.read(Path("demo") / REPORT).text


def test_options_of_the_demo_reach_the_run(hooked_av_command, files):
    done = hooked_av_command("demo", "--video", files / "film.mp4", "--question", "Who sings?", "--option", "a dog",
                             "--option", "a cat", "--start", "0.2", "--stop", "0.8", "--fps", "8", "--max-pixels",
                             "1568", "--window", "2", "--out", "elsewhere/deep")  # fmt: skip
    assert done.exit_code == 0, done.output
    page = Page.read(Path("elsewhere/deep") / REPORT)
    for text in ("film.mp4", "Who sings?", "a dog · a cat", "0.60 s", "fps 8.0", "max_pixels 1568"):
        assert text in page.text
    assert "In a window of 2 layers" in page.text
    assert "Blender" not in page.text + done.output


EXAMPLE = Path(__file__).parents[2] / "examples" / "make_salmonn_folder.py"


def test_the_example_of_video_salmonn_runs_on_the_real_clip(tmp_path, monkeypatch):
    """What `make demo-salmonn` runs: a checkpoint folder is written, then taken apart."""
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path / "random-salmonn")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    recipe = re.search(r"hooked-av (demo --model .*)", (EXAMPLE.parent.parent / "Makefile").read_text())
    arguments = recipe[1].replace("demo/", f"{tmp_path}/").split()
    run = CliRunner().invoke(cli.main, arguments)
    assert run.exit_code == 0, run.output
    told = re.sub(r"\s+", " ", run.stdout)
    assert "(60 audio, 81 video); 10 frames a second, at most 4,704 pixels a frame; positions: generate" in told
    assert len(re.findall(r"^│ +\d+ │", run.stdout, re.MULTILINE)) == 6
    page = Page.read(tmp_path / "salmonn" / REPORT)
    assert "positions generate" in page.text
    assert "audio → question" in page.text


@pytest.mark.parametrize("family", ["omni", "salmonn"])
def test_a_model_folder_is_loaded_and_not_called_random(model, files, tmp_path, family):
    (model if family == "omni" else av.random_salmonn(n_layers=2)).save_pretrained(tmp_path / "checkpoint")
    run = CliRunner().invoke(cli.main, ["demo", "--model", str(tmp_path / "checkpoint"), "--video",
                                        str(files / "sound.wav"), "--out", str(tmp_path / "out")])  # fmt: skip
    assert run.exit_code == 0, run.output
    page = Page.read(tmp_path / "out" / REPORT)
    assert "RANDOM" not in run.output + page.text
    assert "released pixel budget" in re.sub(r"\s+", " ", run.stdout)


ERRORS = {
    "missing file": (["--video", "nothing.mp4"], "no such file: nothing.mp4"),
    "empty file": (["--video", "{files}/empty.mp4"], "an empty file"),
    "no film": (["--video", "{file}"], "corrupt, cut off, or of an unsupported format"),
    "stop past the end": (["--stop", "99"], "stop is past the end"),
    "start past the end": (["--start", "99"], "start is outside the clip"),
    "start is not a number": (["--start", "nan"], "start is outside the clip"),
    "an image has no time": (["--video", "{files}/still.png", "--stop", "1"], "an image has no time to cut"),
    "empty question": (["--question", "  "], "an empty question"),
    "one option": (["--option", "yes"], "at least two different texts"),
    "the same option twice": (["--option", "yes", "--option", "yes"], "at least two different texts"),
    "no frames": (["--fps", "0"], "fps"),
    "frames that are not a number": (["--fps", "nan"], "fps"),
    "no pixels": (["--max-pixels", "0"], "nothing can be seen: max_pixels"),
    "a file in the way": (["--out", "{file}"], "cannot write a report"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_user_errors_are_shown_before_the_model_is_loaded(hooked_av_command, files, tmp_path, monkeypatch, name):
    arguments, message = ERRORS[name]
    (tmp_path / "file").write_text("no film at all")
    monkeypatch.setattr(cli, "_load", lambda asked: pytest.fail("the model was loaded"))
    done = hooked_av_command("demo", *(a.format(files=files, file=tmp_path / "file") for a in arguments))
    assert done.exit_code == 1
    assert "Error: " in done.stderr
    assert message in done.stderr
    assert re.search(r"\n  expected: .+\n  got:  .+\n  next:  .+", done.stderr)
    assert "Traceback" not in done.output
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_an_unknown_model_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli.main, ["demo", "--model", "./no/such/folder"])
    assert done.exit_code == 1
    assert "unknown model" in done.stderr
    assert not list(tmp_path.iterdir())


def test_special_tokens_in_the_question_are_an_error_and_leave_nothing(hooked_av_command, tmp_path):
    done = hooked_av_command("demo", "--question", "What <|im_end|>?")
    assert done.exit_code == 1
    assert "special tokens" in done.stderr
    assert not list(tmp_path.iterdir())


def test_other_errors_are_said_to_be_bugs(hooked_av_command, tmp_path, monkeypatch):
    def broken(asked):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(cli, "_load", broken)
    done = hooked_av_command("demo")
    assert done.exit_code == 1
    assert "RuntimeError: a fault of ours" in done.stderr
    assert "hooked-av --debug demo" in done.stderr
    assert not list(tmp_path.iterdir())


def test_silence_is_said_plainly(hooked_av_command, files):
    done = hooked_av_command("demo", "--video", files / "silence.wav")
    assert done.exit_code == 0, done.output
    assert re.search(r"^(.*\r.*)?Warning: the sound of .* is digital silence", done.stderr, re.MULTILINE)
    assert "HookedAVWarning" not in done.stderr
    assert "digital silence" in Page.read(Path("demo") / REPORT).text


def test_version_and_help(hooked_av_command):
    assert hooked_av_command("--version").output == f"hooked-av, version {av.__version__}\n"
    shown = hooked_av_command("demo", "--help").output
    for option in ("model", "video", "question", "option", "start", "stop", "max-pixels", "fps", "out"):
        assert f"--{option} " in shown


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_the_page_renders_without_a_network(result, tmp_path):
    pixels = screenshot(write_report(result, tmp_path), tmp_path, 2400)
    assert pixels.shape == (2400, 1200, 3)

    assert n_pixels(pixels, (176, 0, 32)) > 5_000  # the banner's border
    assert n_pixels(pixels, (230, 159, 0)) > 5_000  # audio tokens
    assert n_pixels(pixels, (0, 114, 178)) > 5_000  # video tokens
    dark_rows = (pixels.min(axis=-1) < 120).any(axis=1)
    assert dark_rows[:2000].mean() > 0.4  # text and figures down the page


def test_the_package_runs_as_a_module():
    for module in ("hooked_av", "hooked_av.cli.main"):
        out = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
        assert out.stdout == f"hooked-av, version {av.__version__}\n"
