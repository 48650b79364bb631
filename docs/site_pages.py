"""The site's pages: those of docs/, those that it takes from elsewhere in the repository, and one for every public module.

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
    "Concepts": ["concepts/*", "interventions.md", "cut_rows.md", "not_silent.md"],
    "How to": ["howto/*", "datasets.md", "study.md"],
    "Reference": ["reference/*", "analyses.md", "hooks.md", "transformer_lens.md", "gotchas.md", "api/*"],
    "Project": ["architecture.md", "routes.md", "project/*"],
}
MODULES = ("analyses", "datasets", "errors", "interventions", "plots", "tiny")  # of public names, below the top level
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


@cache
def taken_from_elsewhere() -> dict[str, Path]:
    """Pages that are files outside of docs/. A docs/index.md goes before the README, and the tutorials are notebooks."""
    found = {uri: ROOT / name for name, uri in ELSEWHERE.items() if not (DOCS / uri).exists()}
    notebooks = sorted((ROOT / "tutorials").glob("*.ipynb"))
    return found | {f"tutorials/{path.name}": path for path in notebooks}


@cache
def places() -> dict[Path, str]:
    """Where a file of the repository stands in the site."""
    own = {path: path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.*") if path.suffix != ".py"}
    return own | {path: uri for uri, path in taken_from_elsewhere().items()}


def public_names(module: str) -> dict[str, str]:
    """The public names of a stub (or of errors.py, which has none), and where each lives; "" is the top level."""
    folder = ROOT / "hooked_av" / module
    if not folder.is_dir():
        tree = ast.parse(folder.with_suffix(".py").read_text(encoding="utf-8"))
        return {node.name: f"hooked_av.{module}.{node.name}" for node in tree.body if isinstance(node, ast.ClassDef)}
    package = ".".join(filter(None, ["hooked_av", module]))
    found = {}
    for node in ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            home = ".".join(filter(None, [package, node.module]))
            found |= {alias.name: f"{home}.{alias.name}" for alias in node.names}
    return found


def api_pages() -> dict[str, str]:
    """A page for the top level and for every module of public names: one entry a name, rendered by mkdocstrings."""
    return {f"api/{module or 'hooked_av'}.md": api_page(module) for module in ("", *MODULES)}


def api_page(module: str) -> str:
    names = {name: home for name, home in public_names(module).items() if name not in MODULES}
    prefix = ".".join(filter(None, ["av", module]))
    also = [f"[`av.{below}`]({below}.md)" for below in MODULES if not module]
    entries = [f"## `{prefix}.{name}` {{#{prefix}.{name}}}\n\n::: {home}" for name, home in names.items()]
    lead = f"`import hooked_av as av`{', and in modules of their own ' + ', '.join(also) if also else ''}."
    return "\n\n".join([f"# {prefix}", lead, *entries]) + "\n"


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
