"""The site has every page and every public name, and nothing in it is fetched from elsewhere."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from support.pages import PAGES, ROOT, name_of
from test_package import FOLDERS, PUBLIC

sys.path.insert(0, str(ROOT / "docs"))
import site_pages

ERRORS = import_module("hooked_av.errors")
NAMES = {
    "": PUBLIC,
    "errors": [
        name for name, kind in vars(ERRORS).items() if isinstance(kind, type) and kind.__module__ == ERRORS.__name__
    ],
    **{module: import_module(f"hooked_av.{module}").__all__ for module in FOLDERS - {"errors"}},
}
PATHS = [".".join(filter(None, ["hooked_av", module, name])) for module, names in NAMES.items() for name in names]


def test_every_public_name_has_an_entry():
    entries = re.findall(r"^::: (.*)$", "".join(site_pages.api_pages().values()), flags=re.MULTILINE)
    assert sorted(entries) == sorted(PATHS)


def test_the_top_page_leads_to_the_others():
    pages = site_pages.api_pages()
    assert {f"api/{target}" for target in re.findall(r"\((\w+\.md)\)", pages["api/hooked_av.md"])} == {*pages} - {
        "api/hooked_av.md"
    }


def test_a_new_page_is_found_by_its_folder_and_others_are_not_lost():
    uris = [
        "howto/new.md",
        "tutorials/01.ipynb",
        "tutorials/00.ipynb",
        "new.md",
        "elsewhere/new.md",
        "index.md",
        "a.png",
    ]
    assert site_pages.navigation(uris) == [
        {"Start": ["index.md", "elsewhere/new.md", "new.md"]},
        {"Tutorials": ["tutorials/00.ipynb", "tutorials/01.ipynb"]},
        {"How to": ["howto/new.md"]},
    ]


def test_all_pages_have_a_place():
    assert {name_of(page) for page in PAGES} <= {path.relative_to(ROOT).as_posix() for path in site_pages.places()}


@pytest.mark.parametrize(
    ("source", "markdown", "in_the_site"),
    [
        ("README.md", "[a](docs/hooks.md#b), ![c](docs/images/demo.png)", "[a](hooks.md#b), ![c](images/demo.png)"),
        ("docs/hooks.md", "[a](../CHANGELOG.md#b)", "[a](project/changelog.md#b)"),
        ("CONTRIBUTING.md", "[a](docs/hooks.md)", "[a](../hooks.md)"),
        ("benchmarks/README.md", "[a](../README.md)", "[a](../index.md)"),
        ("README.md", "the [Makefile](Makefile)", "the Makefile"),
        ("docs/hooks.md", "[`errors.py`](../hooked_av/errors.py), [this](../hooked_av/errors.py)",
         "`errors.py`, this (`hooked_av/errors.py`)"),
        *(("docs/hooks.md", kept, kept) for kept in ("[a](nowhere.md)", "[a](https://example.org/x)", "[a](#b)")),
    ],
)  # fmt: skip
def test_links_become_those_of_the_site(source, markdown, in_the_site):
    path = ROOT / source
    assert site_pages.linked(markdown, path, site_pages.places()[path]) == in_the_site


def test_links_of_a_notebook_become_those_of_the_site():
    html = (
        '<a href="../docs/hooks.md#x">a</a> <a href="#y">b</a> <a href="https://example.org">c</a> <a href="z.md">d</a>'
    )
    found = site_pages.linked_html(html, ROOT / "tutorials" / "00.ipynb", lambda uri: f"<{uri}>")
    assert found == html.replace("../docs/hooks.md", "<hooks.md>")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """What `make docs` makes; a warning of mkdocs is an error."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_every_public_name_is_in_the_site(site):
    pages = "".join(path.read_text(encoding="utf-8") for path in sorted((site / "api").rglob("*.html")))
    missing = [path for path in PATHS if f'id="{path}"' not in pages]
    assert missing == []


@pytest.mark.slow
def test_examples_of_docstrings_are_code(site):
    assert "<blockquote>" not in (site / "api" / "hooked_av" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_site_needs_no_network(site):
    """Links may lead out; fonts, styles, scripts and pictures come from the site."""
    for path in sorted(site.rglob("*.html")):
        tags = re.findall(r"<(?:script|img|iframe|link)\b[^>]*>", path.read_text(encoding="utf-8"))
        assert [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)] == [], path


@pytest.mark.slow
def test_the_site_has_every_page(site):
    for uri in [*site_pages.places().values(), *site_pages.api_pages()]:
        page = Path(uri).with_suffix("")
        html = site / ("index.html" if uri == "index.md" else page / "index.html")
        assert (html if uri.endswith((".md", ".ipynb")) else site / uri).exists(), uri
