"""The checkers, a file each tutorial."""

from . import quickstart as quickstart
