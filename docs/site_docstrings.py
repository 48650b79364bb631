"""What griffe is told while it reads the package: examples in docstrings are sessions, not quotations."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^( *)(>>> .*(?:\n(?! *$).*)*)", flags=re.MULTILINE)


def fenced(docstring: str) -> str:
    """Every example, up to the next empty line, as a fenced block."""
    return EXAMPLE.sub(r"\1```pycon\n\1\2\n\1```", docstring)


class Examples(griffe.Extension):
    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
