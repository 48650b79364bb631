"""Options of the commands are the arguments of the analyses: every one, with its default and its explanation."""

import subprocess
import sys
from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Literal

import click
import numpy as np
import pytest
from click.testing import CliRunner

import hooked_av as av
from hooked_av.cli import main as cli
from hooked_av.cli.analyses import COMMANDS, FORMS
from hooked_av.cli.options import EXCLUDED, form_of, options_of
from hooked_av.datasets.run import ANALYSES, DatasetRun
from hooked_av.errors import HookedAVError

OLD = {
    "flow": ["--pathway", "--window", "--metric", "--follow", "--controls"],
    "lens": ["--at", "--top-k", "--convention"],
    "patch": ["--corruption", "--span", "--component"],
    "discard": ["--span", "--kv", "--repeats"],
    "sweep": ["--cut"],
}  # names that were there before options came from signatures


def arguments_of(function) -> dict[str, Parameter]:
    return dict(list(signature(function).parameters.items())[2:])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_argument_is_an_option_with_its_default(command):
    options = {option.name: option for option in command.arguments()}
    arguments = arguments_of(ANALYSES[command.name])
    assert list(options) == [name for name in arguments if name not in EXCLUDED]
    for name, option in options.items():
        default = arguments[name].default
        assert option.required == (default is Parameter.empty)
        if not option.required:
            several = {None: ()}.get(default, (default,) if isinstance(default, str) else default)
            assert option.default == (several if option.multiple else default), name
        assert option.help
    spelled = [text for option in options.values() for text in option.opts]
    assert set(OLD[command.name]) <= set(spelled)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_no_two_options_have_one_name(command):
    options = command.get_params(click.Context(command))
    spelled = [text for option in options for text in option.opts]
    assert len(spelled) == len(set(spelled))
    assert len({option.name for option in options}) == len(options)


def test_what_is_excluded_or_said_otherwise_is_an_argument_of_an_analysis():
    known = {name for function in ANALYSES.values() for name in arguments_of(function)}
    assert EXCLUDED.keys() | FORMS.keys() <= known
    assert all(EXCLUDED.values())


def test_help_shows_what_the_docstring_says():
    said = " ".join(CliRunner().invoke(cli.main, ["lens", "--help"]).output.split())
    assert "Tokens kept a layer and position. [default: 5]" in said
    assert "layer_input" in said
    said = " ".join(CliRunner().invoke(cli.main, ["flow", "--help"]).output.split())
    assert "Layers that are cut at once (default: `default_window`)" in said
    assert "1:entries" in said


def test_a_list_of_all_commands_imports_no_analysis():
    code = """
import sys
from hooked_av.cli.main import main
main(["--help"], standalone_mode=False)
print("heavy:", sorted({"torch", "transformers", "numpy", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Read the logit lens" in done.stdout
    assert "heavy: []" in done.stdout


# --- types -----------------------------------------------------------------------------------------------------------


def example(
    model,
    case,
    needed: int,
    share: float = 0.5,
    *,
    is_fast: bool = True,
    kind: Literal["a", "b"] = "a",
    window: int | Literal["all"] | None = None,
    layers: Sequence[int] | None = None,
    spans: str | Sequence[str] = "audio",
    at: str | np.ndarray | Sequence[int] = "last",
) -> None:
    """Args:
    needed: one.
    share: two.
    is_fast: three.
    kind: four.
    window: five, "all" or None: none.
    layers: six.
    spans: seven.
    at: eight.
    """


def said(*words: str) -> dict:
    found = {}
    command = click.Command("example", params=[*options_of(example, {})], callback=lambda **given: found.update(given))
    done = CliRunner().invoke(command, [*words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return found


def test_a_text_becomes_a_value_of_the_type():
    assert said("--needed", "3") == {"needed": 3, "share": 0.5, "is_fast": True, "kind": "a", "window": None,
                                     "layers": (), "spans": ("audio",), "at": "last"}  # fmt: skip
    words = ["--needed", "3", "--share", "1", "--no-is-fast", "--kind", "b", "--window", "all", "--layer", "1"]
    found = said(*words, "--layers", "2", "--span", "video", "--spans", "image", "--at", "question")
    assert found == {"needed": 3, "share": 1.0, "is_fast": False, "kind": "b", "window": "all", "layers": (1, 2),
                     "spans": ("video", "image"), "at": "question"}  # fmt: skip
    assert isinstance(found["share"], float)
    assert said("--needed", "3", "--window", "7")["window"] == 7


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ([], "Missing option '--needed'"),
        (["--needed", "x"], "'x' is not a valid integer"),
        (["--needed", "1", "--kind", "c"], "'c' is not one of 'a', 'b'"),
        (["--needed", "1", "--window", "many"], "'many' is not one of integer|all"),
    ],
)
def test_a_text_of_another_type_is_refused(words, refused):
    done = CliRunner().invoke(click.Command("example", params=[*options_of(example, {})]), words)
    assert done.exit_code == 2
    assert refused in done.output


@pytest.mark.parametrize("annotation", [object, np.ndarray, Sequence[np.ndarray], Literal[1, 2], None, "int"])
def test_a_type_that_no_text_can_express_has_no_form(annotation):
    assert form_of(annotation) is None


def test_an_argument_that_cannot_be_an_option_is_an_error():
    def unknown(model, case, mask: np.ndarray) -> None:
        """Args:
        mask: of rows.
        """

    def unexplained(model, case, seed: int = 0) -> None:
        """Args:
        model: any.
        """

    with pytest.raises(HookedAVError, match=r"(?s)'mask' of .*unknown cannot become an option.*EXCLUDED"):
        options_of(unknown, {})
    with pytest.raises(HookedAVError, match=r"(?s)'seed' of .*unexplained cannot become.*no such line"):
        options_of(unexplained, {})
    assert options_of(unknown, {"mask": FORMS["kv"]})[0].type == FORMS["kv"].type


# --- what the analyses take ------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the analysis of a command is called with."""
    calls = []

    def run_dataset(model, samples, name, *, out, shard, prepare, progress, **arguments):
        calls.append((name, shard, prepare, arguments))
        return DatasetRun(out, shard, 1, 1, 1, ())

    monkeypatch.setattr("hooked_av.cli.analyses.load_model", lambda name: name)
    monkeypatch.setattr("hooked_av.datasets.run.run_dataset", run_dataset)
    (tmp_path / "m.jsonl").write_text('{"id": "a", "question": "What?"}\n')

    def call(name: str, *words: str):
        common = [name, "--manifest", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "out")]
        done = CliRunner().invoke(cli.main, [*common, *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return calls.pop()

    return call


def test_only_what_was_said_is_passed_on(asked):
    assert asked("discard") == ("discard", "1/1", {}, {})
    assert asked("lens", "--convention", "no_norm+layer_input", "--token", "two", "--shard", "1/2") == (
        "lens", "1/2", {}, {"convention": "no_norm+layer_input", "tokens": ("two",)},
    )  # fmt: skip
    words = ["--window", "all", "--controls", "2:rows", "--pathways", "audio->last", "--positions", "train"]
    assert asked("flow", *words) == (
        "flow", "1/1", {"positions": "train"},
        {"window": "all", "controls": av.Controls(2, "rows"), "pathways": ("audio->last",)},
    )  # fmt: skip
    assert asked("discard", "--rule", "random", "--layers", "1", "--kept-share", "0.5")[-1] == {
        "rules": ("random",), "layers": (1,), "kept_share": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (["lens", "--convention", "no_nrm"], "unknown convention of the logit lens"),
        (["sweep", "--cut", "audio"], "not a route"),
        (["discard", "--kv", "lose"], "'lose' is not one of 'keep', 'drop'"),
        (["discard", "--rule", "half"], "'half' is not one of 'all', 'random'"),
        (["patch", "--corruption", "noise"], "'noise' is not one of 'silence', 'black_frames'"),
    ],
)
def test_what_an_analysis_cannot_take_is_refused_before_it_runs(words, refused):
    done = CliRunner().invoke(cli.main, [*words, "--manifest", "none", "--out", "none"])
    assert done.exit_code in (1, 2)
    assert refused in done.output
