"""Pictures that are no result's: the token strip."""

from .strip.strip import TokenStrip as TokenStrip
from .strip.strip import token_strip as token_strip
