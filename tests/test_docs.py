"""What the documentation says is what the code does."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import make_architecture  # noqa: E402
import make_hooks  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from test_package import ORDER  # noqa: E402


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
    assert "Span('audio'" in out
    assert out.splitlines()[-2:] == re.findall(r"^print\(.*texts\)  # (.*)$", "".join(blocks), flags=re.MULTILINE)
    assert abs(names["right"].count(True) - int(re.search(r"# (\d+) of them", text)[1])) <= 2
    assert not torch.equal(names["silenced"], names["logits"])
    assert names["cut"].shape == (1, 1, names["model"].cfg.d_vocab)


@pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning")
@pytest.mark.parametrize("page", ["interventions.md"])
def test_the_code_of_a_page_runs(page, monkeypatch, capsys, tmp_path):
    """Every python block, in order, from a folder of its own; a comment behind a print is what it prints."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": f"docs_{page.removesuffix('.md')}"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)
    wanted = re.findall(r"^print\(.*\)  # (.*)$", "".join(blocks), flags=re.MULTILINE)
    assert blocks
    assert capsys.readouterr().out.splitlines() == wanted


def test_links_in_the_documentation_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
