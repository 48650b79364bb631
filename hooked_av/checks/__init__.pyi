"""The checkers, a file each tutorial."""

from . import data_set_study as data_set_study
from . import quickstart as quickstart
from . import real_checkpoints as real_checkpoints
