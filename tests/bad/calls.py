"""Calls that do not fit: arguments, hooks, interventions, analyses."""

from bad import Bad

ROWS: list[Bad] = []
