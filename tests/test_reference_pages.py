"""The reference pages name everything that the code has: errors, commands, families, and what a family must say."""

import inspect
import re
from pathlib import Path

import click
import pytest

from hooked_av import errors
from hooked_av.cli.main import main
from hooked_av.families.family import Family
from hooked_av.families.qwen import QwenFamily
from hooked_av.families.salmonn.family import SalmonnFamily
from hooked_av.model.loading import FAMILY_OF_TYPE

DOCS = Path(__file__).parent.parent / "docs"
KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, (errors.HookedAVError, Warning))
]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not errors.HookedAVError], ids=lambda k: k.__name__)
def test_every_error_has_a_section_that_raises_it_and_says_what_to_do(kind: type[Exception]):
    told = section(page("reference/errors.md"), kind.__name__)
    assert "```python" in told
    if not issubclass(kind, Warning | errors.SpanNameError):
        assert re.search(rf"raised\(\s*av\.errors\.{kind.__name__}, ", told), "nothing that raises it"
    assert "**Do**" in told or kind is errors.SpanNameError


def test_the_tree_of_errors_is_that_of_the_code():
    tree = inspect.cleandoc(str(errors.__doc__))
    drawn = tree[tree.index("    HookedAVError") : tree.index("Every message says")]
    assert inspect.cleandoc(drawn) == page("reference/errors.md").split("```\n")[1].strip()
    for kind in KINDS:
        parent = kind.__bases__[0].__name__
        assert kind.__name__ in drawn
        assert parent in drawn or kind in (errors.HookedAVError, errors.HookedAVWarning)


def test_every_command_stands_on_its_page_with_an_example():
    told = page("reference/commands.md")
    shown = {name for name, command in main.commands.items() if not command.hidden}
    assert set(re.findall(r"^\* `hooked-av ([\w-]+)` ", told, flags=re.MULTILINE)) == shown
    for name, rest in re.findall(r"`hooked-av ([\w-]+) ([^`]+)`", told):
        command = main.commands.get(name)
        if command is not None:  # and not "COMMAND --help"
            known = {option for argument in command.get_params(click.Context(command)) for option in argument.opts}
            assert set(re.findall(r"--[\w-]+", rest)) <= known, name


def test_the_models_page_has_every_family_and_way_of_counting():
    told = page("reference/models.md")
    families = {*FAMILY_OF_TYPE.values(), SalmonnFamily}
    modes = [mode for family in families for mode in getattr(family, "position_modes", ())]
    assert not [mode for mode in modes if f"`{mode}`" not in told]


def test_the_page_on_families_says_what_a_family_must_have():
    told = page("howto/add_a_family.md")
    values = [name for name in Family.__annotations__ if not hasattr(Family, name) or name == "hears"]
    asked = {*Family.__abstractmethods__, *QwenFamily.__abstractmethods__, *values}
    assert not [name for name in sorted(asked) if f"`{name}`" not in told]


def test_every_picture_of_a_page_is_there_and_small():
    for path in [*(DOCS / "start").glob("*.md"), *(DOCS / "howto").glob("*.md")]:
        for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
            assert 1_000 < (path.parent / picture).stat().st_size <= 60_000, f"{path.name}: {picture}"


def test_every_how_to_picture_is_used():
    text = "".join(path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md"))
    assert not [path.name for path in (DOCS / "images" / "howto").glob("*.png") if path.name not in text]
