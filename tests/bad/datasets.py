"""Manifests, results folders and command lines that cannot be used as they are."""

from bad import Bad

ROWS: list[Bad] = []
