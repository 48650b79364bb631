"""Checkpoint folders, configs and weights that cannot be loaded exactly."""

from bad import Bad

ROWS: list[Bad] = []
