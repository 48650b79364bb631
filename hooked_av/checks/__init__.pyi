"""The checkers, a file each tutorial."""

from . import patching as patching
from . import quickstart as quickstart
