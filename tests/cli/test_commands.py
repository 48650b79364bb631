"""Every error of the command line is a message on stderr with an exit code of its kind."""

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

import hooked_av as av
from hooked_av.cli import analyses as commands
from hooked_av.cli import commands as commands_module
from hooked_av.cli.commands import NOT_READ, SAMPLES_FAILED, STOPPED, WRONG, Command
from hooked_av.cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(av.__file__).parent.parent
FOUR_PARTS = re.compile(r"Error: .+\n  expected: .+\n  got:      .+\n  next:     .+", re.DOTALL)


def say(*words: str):
    return CliRunner().invoke(main, list(words), prog_name="hooked-av")


def run_in_a_shell(line: str, **more) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    line = line.replace("hooked-av", f"exec {sys.executable} -m hooked_av", 1)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen(["bash", "-c", line], env=environment, text=True, **streams)


@pytest.fixture
def manifest(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(commands, "load_model", lambda name: av.random_omni(n_layers=2))
    path = tmp_path / "m.jsonl"
    path.write_text('{"id": "a", "question": "Which?"}\n{"id": "b", "question": "Which?", "answer": "no one token"}\n')
    return path


def test_samples_that_failed_have_an_exit_code_of_their_own(manifest, tmp_path):
    words = ("lens", "--manifest", str(manifest), "--out", str(tmp_path / "out"), "--top-k", "1")
    for _ in range(2):  # the second time they are known
        done = say(*words)
        assert done.exit_code == SAMPLES_FAILED, done.output
        assert "1 of 2 samples finished" in done.stdout
        assert "Warning: 1 of 2 samples failed" in done.stderr
    assert say(*words, "--shard", "1/2").exit_code == 0
    assert say("merge", str(tmp_path / "out")).exit_code == 0


def test_where_nothing_finished_the_corrected_command_runs(manifest, tmp_path):
    words = ("flow", "--manifest", str(manifest), "--out", str(tmp_path / "out"), "--controls", "0")
    done = say(*words, "--window", "99")
    assert done.exit_code == WRONG
    assert FOUR_PARTS.search(done.stderr)
    assert not done.stdout
    assert say(*words, "--window", "1").exit_code == SAMPLES_FAILED


@pytest.fixture
def command():
    """A command of ours that raises what it is told to."""
    raised: list[BaseException] = []

    @main.command("raise", cls=Command)
    def raise_it() -> None:
        raise raised[-1]

    yield raised.append
    del main.commands["raise"]


@pytest.mark.parametrize(
    "error, code, says",
    [
        (
            ZeroDivisionError("by zero"),
            WRONG,
            "a bug of hooked-av.*ZeroDivisionError: by zero.*hooked-av --debug raise",
        ),
        (ValueError("x" * 100_000), WRONG, "a bug of hooked-av"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), WRONG, "a bug of hooked-av"),
        (MemoryError(), WRONG, "not enough memory.*--max-pixels"),
        (av.errors.MediaError("no film", expected="a film", got="none", next_step="film"), WRONG, "no film.*a film"),
    ],
)
def test_every_error_is_a_message(command, error, code, says):
    command(error)
    done = say("raise")
    assert done.exit_code == code
    assert FOUR_PARTS.search(done.stderr)
    assert re.search(says, done.stderr, re.DOTALL)
    assert "Traceback" not in done.output
    assert not done.stdout
    assert len(done.stderr) < 3000
    told = say("--debug", "raise")
    assert told.exit_code == code
    assert re.search(r"(?s)Traceback.*in raise_it.*Error: ", told.stderr)


def test_command_lines_that_cannot_be_read_are_told_alike():
    for words in (["--nope"], ["nope"], ["lens"], ["merge"], ["study", "--samples", "x"]):
        done = say(*words)
        assert (done.exit_code, done.stdout) == (NOT_READ, "")
        assert FOUR_PARTS.search(done.stderr), done.stderr
    assert "Exit codes: 0" in say("--help").stdout
    assert "Exit code 3" in say("lens", "--help").stdout
    assert "--debug" in say("--help").stdout


def test_a_run_that_is_stopped_says_how_to_go_on(command):
    command(KeyboardInterrupt())
    done = say("raise")
    assert done.exit_code == STOPPED
    assert done.stderr.strip() == "Stopped: nothing is kept of it; run the same command again."
    for name in ("lens", "study", "train-tiny"):
        assert "the same command goes on from there" in main.commands[name].after_stop


@pytest.mark.parametrize("words", ["--help", "lens --help", "merge nowhere"])
def test_a_pipe_that_was_closed_is_quiet(words, tmp_path):
    read, write = os.pipe()
    os.close(read)
    run = run_in_a_shell(f"hooked-av {words}", stdout=write, cwd=tmp_path)
    os.close(write)
    assert not re.search("Traceback|Exception|Broken", run.communicate()[1])


@pytest.mark.slow
def test_control_c_in_the_middle_keeps_what_is_finished(tmp_path):
    rows = "".join(f'{{"id": "{n}", "question": "Which digit?"}}\n' for n in range(2000))
    (tmp_path / "m.jsonl").write_text(rows)
    run = run_in_a_shell("hooked-av flow --manifest m.jsonl --out out --controls 0", cwd=tmp_path)
    while not list(tmp_path.glob("out/samples/*.parquet")):
        assert run.poll() is None
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == STOPPED
    assert "Stopped: what is finished is kept; the same command goes on from there." in errors
    assert "Traceback" not in errors


def test_warnings_of_others_are_shown_as_python_shows_them(capsys):
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest, **more: told.append(str(message))
        with commands_module._plain_warnings():
            warnings.warn("ours", av.errors.HookedAVWarning, stacklevel=1)
            warnings.warn("of others", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "Warning: ours\n"
    assert told == ["of others"]


def test_options_of_sampling_reach_every_prompt(manifest, tmp_path):
    given = ("--fps", "1", "--max-pixels", "3136")
    done = say("lens", "--manifest", str(manifest), "--out", str(tmp_path / "out"), "--top-k", "1", *given)
    assert done.exit_code == SAMPLES_FAILED  # the one whose answer is no token
    settings = (tmp_path / "out" / "settings.json").read_text()
    assert re.search(r"fps=1\.?0?, .*max_pixels=3136|3136.*fps", settings), settings
