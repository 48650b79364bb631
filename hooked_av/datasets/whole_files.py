"""Files of a results folder, whole or not at all (`hooked_av/whole_files.py`), and how to go on where one was not."""

from functools import partial

from hooked_av import whole_files
from hooked_av.errors import DatasetError

_GOES_ON = "make room (or take another folder) and run the same again: it goes on from what is finished"
appearing = partial(whole_files.appearing, error=DatasetError, next_step=_GOES_ON)
writing = partial(whole_files.writing, error=DatasetError, next_step=_GOES_ON)
