"""What mkdocs calls while it builds the site: see `site_pages.py`."""

from pathlib import Path
from typing import Any

import site_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify


def on_config(config: MkDocsConfig) -> None:
    # GitHub's rule for anchors, so that one link is right in both places.
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")


@event_priority(100)  # before mkdocs-jupyter, which looks for notebooks among the files
def on_files(files: Files, config: MkDocsConfig) -> Files:
    for uri, path in site_pages.taken_from_elsewhere().items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    for uri in site_pages.notebooks():
        files.append(File(uri, str(site_pages.ROOT), config.site_dir, config.use_directory_urls))
    for uri, text in site_pages.api_pages().items():
        files.append(File.generated(config, uri, content=text))
    config.nav = site_pages.navigation(file.src_uri for file in files)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    source = page.file.abs_src_path
    return site_pages.linked(markdown, Path(source), page.file.src_uri) if source else markdown


def on_page_content(html: str, page: Page, files: Files, **_: Any) -> str:
    source = page.file.abs_src_path
    if source is None or not source.endswith(".ipynb"):
        return html
    return site_pages.linked_html(html, Path(source), lambda uri: files.src_uris[uri].url_relative_to(page.file))
