"""The pages of the site: those of docs/, those from elsewhere in the repository, one for every module of public names.

`site_hooks.py` hands them to mkdocs. Nothing that is made here is written into the repository.
"""

import ast
import posixpath
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "hooked_av/tiny/MODEL_CARD.md": "project/tiny_av.md",
    "hooked_av/data/ATTRIBUTION.md": "project/attribution.md",
}
# What stands where, in this order. A page that no pattern takes belongs to the first section.
SECTIONS = {
    "Start": ["index.md", "start/*"],
    "Tutorials": ["tutorials/*"],
    "Concepts": ["concepts/spans.md", "concepts/hook_points.md", "concepts/*", "interventions.md", "cut_rows.md"],
    "How to": ["howto/*", "datasets.md", "study.md"],
    "Reference": ["reference/*", "analyses.md", "hooks.md", "transformer_lens.md", "gotchas.md", "not_silent.md"],
    "API": ["api/hooked_av.md", "api/*"],
    "Project": ["architecture.md", "routes.md", "project/*"],
}
MODULES = ("analyses", "checks", "datasets", "errors", "interventions", "plots", "tiny")  # of public names
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


@cache
def taken_from_elsewhere() -> dict[str, Path]:
    """Pages that are files outside of docs/; a docs/index.md goes before the README."""
    return {uri: ROOT / name for name, uri in ELSEWHERE.items() if not (DOCS / uri).exists()}


@cache
def notebooks() -> list[str]:
    """The tutorials, which stand in the site where they stand in the repository."""
    return [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tutorials").glob("*.ipynb"))]


@cache
def places() -> dict[Path, str]:
    """Where a file of the repository stands in the site."""
    own = {path: path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.*") if path.suffix != ".py"}
    taken = {path: uri for uri, path in taken_from_elsewhere().items()}
    return own | taken | {ROOT / uri: uri for uri in notebooks()}


def public_names(module: str) -> list[str]:
    """The names of a stub (of errors.py, which has none, its classes); "" is the top level, without its modules."""
    folder = ROOT / "hooked_av" / module
    stub = folder / "__init__.pyi" if folder.is_dir() else folder.with_suffix(".py")
    tree = ast.parse(stub.read_text(encoding="utf-8"))
    imported = [alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    names = imported if folder.is_dir() else defined
    return sorted(set(names) - set(MODULES), key=str.lower)


def api_pages() -> dict[str, str]:
    """A page for the top level and for every module of public names: one entry a name, filled by mkdocstrings."""
    return {f"api/{module or 'hooked_av'}.md": api_page(module) for module in ("", *MODULES)}


def api_page(module: str) -> str:
    path = f"av.{module}" if module else "av"
    lead = "`import hooked_av as av`"
    if not module:
        lead += ", and in modules of their own: " + ", ".join(f"[`av.{below}`]({below}.md)" for below in MODULES)
    return "\n\n".join([f"# {path}", lead, *(entry(f"{path}.{name}") for name in public_names(module))]) + "\n"


def entry(name: str) -> str:
    """What mkdocstrings fills; griffe finds by the stub where a name lives."""
    return f"::: hooked_{name}\n    options:\n      heading: {name}\n      toc_label: {name}"


def navigation(uris: Iterable[str]) -> list[dict[str, list[str]]]:
    """The sections with their pages; a page says its own title."""
    left = dict.fromkeys(sorted(uri for uri in uris if uri.endswith((".md", ".ipynb"))))
    sections: dict[str, list[str]] = {}
    for section, patterns in SECTIONS.items():
        pages = dict.fromkeys(uri for pattern in patterns for uri in left if fnmatch(uri, pattern))
        left = {uri: None for uri in left if uri not in pages}
        sections[section] = list(pages)
    sections["Start"] += left
    return [{section: pages} for section, pages in sections.items() if pages]


def linked(markdown: str, source: Path, uri: str) -> str:
    """Links between files become links between pages; a file that the site has not is named only."""

    def of_the_site(found: re.Match[str]) -> str:
        text, target, anchor = found.groups("")
        path = (source.parent / target).resolve()
        if "://" in target or not path.exists():
            return found[0]  # mkdocs says what leads nowhere
        if path in places():
            return f"[{text}]({posixpath.relpath(places()[path], posixpath.dirname(uri) or '.')}{anchor})"
        name = path.relative_to(ROOT).as_posix()
        return text if name.endswith(text.strip("`")) else f"{text} (`{name}`)"

    return LINK.sub(of_the_site, markdown)


def linked_html(html: str, source: Path, url: Callable[[str], str]) -> str:
    """The same for notebooks, which come as HTML; `url` says where a page stands, seen from this one."""

    def of_the_site(found: re.Match[str]) -> str:
        target, anchor = found.groups("")
        uri = places().get((source.parent / target).resolve())
        return f'href="{url(uri)}{anchor}"' if uri else found[0]

    return re.sub(r'href="([^"#:]+)(#[^"]*)?"', of_the_site, html)
