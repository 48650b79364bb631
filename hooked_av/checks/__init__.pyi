"""The checkers, a file each tutorial."""

from . import attention_blocking as attention_blocking
from . import attribution as attribution
from . import data_set_study as data_set_study
from . import discarding_tokens as discarding_tokens
from . import hooks as hooks
from . import interleaved_items as interleaved_items
from . import lenses as lenses
from . import own_analysis as own_analysis
from . import patching as patching
from . import probes as probes
from . import quickstart as quickstart
from . import real_checkpoints as real_checkpoints
