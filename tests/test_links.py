"""Links and anchors of all that is read lead somewhere, in the repository and in the site."""

import json

import pytest
from support.pages import PAGES, ROOT, TUTORIALS, anchors, link_faults, misread_lists, name_of, text_of

PLANTED = ROOT / "docs" / "planted.md"  # where the texts below would stand


@pytest.mark.parametrize("page", [*PAGES, *TUTORIALS], ids=name_of)
def test_links_lead_somewhere(page):
    assert link_faults(text_of(page), page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lists_are_read_alike_by_github_and_by_the_site(page):
    assert misread_lists(text_of(page)) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](nowhere.md)", "nowhere.md: no such file"),
        ("[a](nowhere.md#x)", "nowhere.md#x: no such file"),
        ("![a](images/nowhere.png)", "images/nowhere.png: no such file"),
        ("| a |\n|---|\n| [in a table](nowhere.md) |", "nowhere.md: no such file"),
        ("* a\n\n    [in a list](nowhere.md)", "nowhere.md: no such file"),
        ("[a][b]\n\n[b]: nowhere.md", "nowhere.md: no such file"),
        ("[out](../../elsewhere)", "../../elsewhere: no such file"),
        ("[a](gotchas.md#nothing)", "gotchas.md#nothing: no such heading"),
        ("[a](gotchas.md#From-transformers)", "gotchas.md#From-transformers: no such heading"),
        ("[a](#here)\n\n# There", "#here: no such heading"),
        ("[a](#twice)\n\n# Twice\n\n# Twice", "#twice: no such heading"),
        ("[a](../hooked_av/model/loading.py#L3)", "../hooked_av/model/loading.py#L3: no such heading"),
        ("[a](http://example.org)", "http://example.org: not https"),
        ("<http://example.org>", "http://example.org: not https"),
        ("[a](mailto:a@example.org)", "mailto:a@example.org: not https"),
        ('<img src="images/demo.png">', '<img src="images/demo.png">: only links of markdown are the site\'s, too'),
    ],
)
@pytest.mark.parametrize("ending", ["md", "ipynb", "py"])
def test_a_wrong_link_is_seen(text, fault, ending, tmp_path):
    assert link_faults(as_read(text, tmp_path / f"page.{ending}"), PLANTED) == [fault]


def as_read(text, page):
    """The same markdown as a page, in a notebook, and in the notebook's source; code of these is not read."""
    lines = text.splitlines(keepends=True)
    cells = [{"cell_type": "markdown", "source": lines}, {"cell_type": "code", "source": ["# [a](b)"]}]
    source = "# %% [markdown]\n" + "".join(f"# {line}" for line in lines) + "\n# %%\n# [a](b)\n"
    page.write_text({".md": text, ".ipynb": json.dumps({"cells": cells}), ".py": source}[page.suffix], encoding="utf-8")
    return text_of(page)


@pytest.mark.parametrize(
    "text",
    [
        "[a](gotchas.md#video-salmonn-2)",
        "[a](../README.md), [b](https://example.org/#x)",
        "[a](#a-head-of-its-own)\n\n## A `head` of its own",
        "`[a](nowhere.md)`",
        "```python\nx[a](nowhere.md)\n```",
    ],
)
def test_right_links_pass(text):
    assert link_faults(text, PLANTED) == []


def test_anchors_are_githubs():
    text = "# Where we differ, and why\n## `model.begin`: a door\n## video-SALMONN 2+\n## Two\n## Two\n"
    assert anchors(text) == {"where-we-differ-and-why", "modelbegin-a-door", "video-salmonn-2"}


@pytest.mark.parametrize("block", ["```python\n  x\n  ```", "* nested", "another paragraph"])
def test_a_block_that_ends_a_list_in_mkdocs_only_is_seen(block):
    assert misread_lists(f"* item\n  goes on\n\n  {block}\n") == [f"line 4:   {block.splitlines()[0]}"]
    wide = "\n".join(f"    {line.strip()}" for line in block.splitlines())
    assert misread_lists(f"* item\n  goes on\n\n{wide}\n\n* next\n") == []
    assert misread_lists(f"* item\n  goes on\n\n{wide}\n* next\n") == [f"line {4 + len(wide.splitlines())}: * next"]


def test_a_list_that_mkdocs_reads_as_text_is_seen():
    assert misread_lists("What:\n* one\n* two\n") == ["line 2: * one"]
    assert misread_lists("What:\n\n* one\n* two\n\n1. three\n2. four\n") == []
