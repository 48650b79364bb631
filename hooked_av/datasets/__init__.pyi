"""What a data set is read from, run with, and read by."""

from .manifest import Sample as Sample
from .manifest import read_manifest as read_manifest
from .run import merge as merge
from .run import read_flow as read_flow
from .run import run_dataset as run_dataset
