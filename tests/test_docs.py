"""What the documentation says is what the code does."""

import re
import shlex
import sys
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import click  # noqa: E402
import make_architecture  # noqa: E402
import make_hooks  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from support.pages import NEEDS_WEIGHTS, PAGES, WRONG, blocks, inline, name_of, text_of  # noqa: E402
from test_package import ORDER  # noqa: E402

from hooked_av.cli.main import main  # noqa: E402

LONG = {"docs/study.md", "docs/datasets.md"}  # half a minute and more
WITH_CODE = [
    pytest.param(page, marks=pytest.mark.slow) if name_of(page) in LONG else page
    for page in PAGES
    if page.parent != ROOT and "```python" in text_of(page)  # the README's is tested with more
]
OTHER_COMMANDS = {"CHANGELOG.md", "benchmarks/README.md"}  # those of the past, and of other programs


def test_the_hook_table_is_that_of_the_code():
    assert make_hooks.PAGE.read_text(encoding="utf-8") == make_hooks.hook_table(), "run python docs/make_hooks.py"


def test_the_page_of_the_architecture_is_that_of_the_code():
    assert list(make_architecture.FOLDERS) == [folder for folder in ORDER if (make_architecture.ROOT / folder).is_dir()]
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in make_architecture.FOLDERS:
        assert f"| `{folder}/` | {make_architecture.sentence(folder)}. |" in page.replace("`tiny-av`", "tiny-av")
    for name in re.findall(r"`([a-z_]+/)?([a-z_]+\.py)`", page):
        assert list((ROOT / "hooked_av").rglob("".join(name))) or (ROOT / "".join(name)).exists(), name
    stops = {folder for way in make_architecture.WAYS.values() for folder, _ in way["stops"]}
    assert stops <= set(make_architecture.FOLDERS)
    assert "the code: `python docs/make_architecture.py`" in page
    assert all(folder in make_architecture.draw() for folder in ("<svg", "</svg>"))


def test_the_readmes_code_runs(monkeypatch, capsys, tmp_path):
    """Every python block of the README, in order, from a folder that is not the repository's."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert out.splitlines() == re.findall(r"^print\(.*texts\)  # (.*)$", "".join(blocks), flags=re.MULTILINE)
    assert not torch.equal(names["silenced"], names["logits"])
    assert (tmp_path / "flow.png").stat().st_size > 10_000
    lines = [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 15


@pytest.mark.usefixtures("as_a_user", "one_thread")
@pytest.mark.filterwarnings("ignore::hooked_av.errors.HookedAVWarning")  # some pages show what warns
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_the_code_of_a_page_runs(page, monkeypatch, capsys, tmp_path):
    """Every python block, in order, from a folder of its own; a comment behind a print is what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    with torch.enable_grad():  # what a page turns off is on again behind it
        wanted = run_page(text_of(page), name_of(page))
    assert OutputChecker().check_output(wanted, capsys.readouterr().out, ELLIPSIS | NORMALIZE_WHITESPACE), wanted


def run_page(text: str, name: str) -> str:
    """Runs the blocks of a page, compiles those that need weights or are wrong, and gives what should be printed."""
    names: dict = {"__name__": "a_page"}
    wanted = []
    for block in blocks(text):
        if not block.info.startswith("py"):
            continue
        assert block.info in ("python", NEEDS_WEIGHTS, WRONG), f"{name}:{block.line}: ```{block.info}"
        code = compile("\n" * block.line + block.code, name, "exec")  # so that an error names the line of the page
        if block.info == "python":
            exec(code, names)
            wanted += re.findall(r"^ *print\(.*\)  # (.*\n)", block.code, flags=re.MULTILINE)
    return "".join(wanted)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```python\nx = 1\n```\n```python\nprint(x + nothing)  # 2\n```", NameError),
        ('```python title="needs weights"\nx = = 1\n```', SyntaxError),
        ('```python title="wrong"\nx = = 1\n```', SyntaxError),
        ("```python skip\nx = 1\n```", AssertionError),
        ("```py\nx = 1\n```", AssertionError),
    ],
)
def test_code_that_does_not_run_is_seen(text, fault):
    with pytest.raises(fault):
        run_page(text, "page.md")


def test_what_a_page_should_print_is_read(capsys):
    text = (
        "```python\nx = 1\nfor _ in 'a':\n    print(x)  # 1\n```\n\n* a\n\n    ```python\n    print(x)  # 2\n    ```\n"
    )
    text += f"\n```{NEEDS_WEIGHTS}\nnothing()\nprint(x)  # 3\n```\n"
    assert run_page(text, "page.md") == "1\n2\n"
    assert capsys.readouterr().out == "1\n1\n"


@pytest.mark.parametrize("page", [page for page in PAGES if name_of(page) not in OTHER_COMMANDS], ids=name_of)
def test_commands_of_a_page_are_those_of_the_program(page):
    assert command_faults(text_of(page)) == []


def command_faults(text: str) -> list[str]:
    """Lines of `hooked-av` that it would not read: in blocks as a whole, in texts as far as they go."""
    shells = [line for block in blocks(text) if not block.info.startswith("py") for line in block.code.split("\n")]
    whole = [line for line in shells if re.match(r"(\$ )?(\S*/)?hooked-av ", line)]
    parts = [token.content for token in inline(text) if token.type == "code_inline"]
    named = [part for part in parts if re.match(r"(\S*/)?hooked-av ", part)]
    options = [part.split()[0] for part in parts if part.startswith("--")]
    known = {
        name
        for command in main.commands.values()
        for option in command.get_params(click.Context(command))
        for name in option.opts
    }
    faults = [f"{line}: {fault}" for line in whole if (fault := command_fault(line, whole=True))]
    faults += [f"{line}: {fault}" for line in named if (fault := command_fault(line, whole=False))]
    return faults + [f"{option}: no command has it" for option in options if option not in known]


def command_fault(line: str, whole: bool) -> str:
    """What click says of a line, without running it; `whole` lines must have all that is required."""
    words = shlex.split(re.sub(r"[\[\]]", "", line).partition("hooked-av ")[2], comments=True)
    context = click.Context(main)
    try:
        _, rest, _ = main.make_parser(context).parse_args(words)
        if not rest or rest[0].isupper():  # "hooked-av --debug COMMAND ..."
            return ""
        _, command, rest = main.resolve_command(context, rest)
        given, too_many, _ = command.make_parser(click.Context(command)).parse_args(rest)
    except click.UsageError as error:
        return error.format_message()
    missing = [param.name for param in command.params if whole and param.required and given.get(param.name) is None]
    return f"without {missing}" if missing else f"{too_many} is too much" if too_many else ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("    hooked-av fly --out x", "No such command"),
        ("```console\n$ .venv/bin/hooked-av flow --manifest a --out b --wide 3  # three\n```", "No such option"),
        ("    hooked-av flow --out x", "without ['manifest']"),
        ("    hooked-av merge a b", "is too much"),
        ("`hooked-av demo --film FILE [--model X]`", "No such option"),
        ("or `--films 3`", "no command has it"),
    ],
)
def test_a_wrong_command_is_seen(text, fault):
    assert [fault in said for said in command_faults(text)] == [True]


def test_right_commands_pass():
    text = (
        "`hooked-av flow`, `--window 3`, `hooked-av --debug COMMAND ...`\n\n    hooked-av merge results  # and then\n"
    )
    assert command_faults(text) == []
