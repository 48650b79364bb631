"""The checkers, a file each tutorial."""

from . import attribution as attribution
from . import own_analysis as own_analysis
from . import patching as patching
from . import quickstart as quickstart
