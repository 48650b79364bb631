"""The pages that people read, as markdown: of notebooks the text cells."""

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pymdownx.slugs import slugify

ROOT = Path(__file__).parent.parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *(ROOT / "hooked_av" / name for name in ("tiny/MODEL_CARD.md", "data/ATTRIBUTION.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TUTORIALS = [path for ending in ("py", "ipynb") for path in sorted((ROOT / "tutorials").glob(f"*.{ending}"))]
WRONG = 'python title="wrong"'  # what not to write
NEEDS_WEIGHTS = 'python title="needs weights"'  # of a block that the tests compile, and do not run
LISTS = {"bullet_list_open", "ordered_list_open"}
BLOCKS = {*LISTS, "paragraph_open", "fence", "code_block", "table_open"}
# GitHub's rule, and so the site's (docs/site_hooks.py).
slug = slugify(case="lower")


@dataclass(frozen=True)
class Block:
    """A fenced or indented block of a page: its language and what follows, its code, its first line."""

    info: str
    code: str
    line: int


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    """A page's markdown."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    if page.suffix == ".py":
        cells = re.findall(r"^# %% \[markdown\].*\n((?:(?!# %%)#.*\n?)*)", text, flags=re.MULTILINE)
        return "\n\n".join(re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells)
    return text


def tokens(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def blocks(text: str) -> list[Block]:
    """In order. Indented ones have no language."""
    found = [token for token in tokens(text) if token.type in ("fence", "code_block")]
    return [Block(token.info.strip(), token.content, token.map[0] + 1) for token in found if token.map]


def inline(text: str) -> list[Token]:
    """What stands in lines, in order: texts, links, code."""
    return [child for token in tokens(text) for child in token.children or []]


def anchors(text: str) -> set[str]:
    """What can be linked to: a heading's slug, unless two have the same (GitHub and mkdocs count those differently)."""
    parsed = tokens(text)
    headings = [after for token, after in pairwise(parsed) if token.type == "heading_open"]
    slugs = [slug("".join(child.content for child in heading.children or []), "-") for heading in headings]
    return {name for name in slugs if slugs.count(name) == 1}


def link_faults(text: str, page: Path) -> list[str]:
    """Links of a page's text that lead nowhere, from the page's place or in the site."""
    targets = [str(token.attrs.get("href") or token.attrs.get("src", "")) for token in inline(text)]
    faults = [fault for target in targets if target and (fault := link_fault(target, page, text))]
    html = [token.content for token in [*tokens(text), *inline(text)] if token.type in ("html_block", "html_inline")]
    return faults + [f"{code.strip()}: only links of markdown are the site's, too" for code in html if "src=" in code]


def link_fault(target: str, page: Path, text: str) -> str:
    """Why a link does not lead anywhere, or nothing."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return "" if parts.scheme == "https" and parts.netloc else f"{target}: not https"
    path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if parts.path and not (path.exists() and path.is_relative_to(ROOT)):
        return f"{target}: no such file"
    if not parts.fragment:
        return ""
    there = anchors(text if path == page else text_of(path)) if path.suffix in (".md", ".ipynb") else set()
    return "" if parts.fragment in there else f"{target}: no such heading"


def misread_lists(text: str) -> list[str]:
    """Lines that GitHub reads as parts of a list, and mkdocs does not."""
    lines = text.splitlines()
    found = sorted({*narrow_blocks(text, lines), *crowded_items(text, lines)})
    return [f"line {number + 1}: {lines[number]}" for number in found]


def narrow_blocks(text: str, lines: list[str]) -> list[int]:
    """What follows an item's first paragraph is indented by four for every list that it is in."""
    inside = [
        (token.map[0], 2 * token.level)
        for before, token in pairwise(tokens(text))
        if token.type in BLOCKS and token.level >= 2 and token.map and before.type != "list_item_open"
    ]
    return [number for number, wide in inside if len(lines[number]) - len(lines[number].lstrip()) < wide]


def crowded_items(text: str, lines: list[str]) -> list[int]:
    """A list, and an item after one that has empty lines inside, begin after an empty line."""
    parsed = [token for token in tokens(text) if token.map]
    lists = [token.map[0] for token in parsed if token.type in LISTS and token.level == 0 and token.map]
    items = [token.map[0] for token in parsed if token.type == "list_item_open" and token.level == 1 and token.map]
    after_long = [
        after for item, after in pairwise(items) if after not in lists and "" in map(str.strip, lines[item:after])
    ]
    return [number for number in lists + after_long if number and lines[number - 1].strip()]
