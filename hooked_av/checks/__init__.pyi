"""The checkers, a file each tutorial."""

from . import hooks as hooks
from . import lenses as lenses
from . import probes as probes
from . import quickstart as quickstart
