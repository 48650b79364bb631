"""The checkers, a file each tutorial."""

from . import attention_blocking as attention_blocking
from . import quickstart as quickstart
