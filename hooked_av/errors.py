"""One exception tree: whoever catches `HookedAVError` has caught everything that we raise on purpose.

    HookedAVError
    ├── ArgumentError         a call that does not fit the signature of a public function (a TypeError, too)
    ├── MediaError            a file or array that is not the clip it was said to be
    ├── SpanError             a span that is unknown, empty, or out of range
    │   └── SpanNameError     the same of spans.name (an AttributeError, too)
    ├── InputsError           ids, features, grids, positions or texts that do not fit together
    ├── CheckpointError       a checkpoint or config that we cannot load exactly
    ├── HookError             a hook that does what no hook may do (changes a shape, can never fire)
    │   └── HookNameError     a hook name, pattern or filter that matches nothing
    ├── InterventionError     a spec that does not fit the model or the inputs
    ├── MemoryBudgetError     a run that would need more memory than there is
    └── DatasetError          a manifest, or a folder of results, that cannot be used as it is

    HookedAVWarning           a stated oddity that does not stop the run (a silent sound track, a row with no key left)

Every message says what happened, what was expected, what was got, and what to do next.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class HookedAVError(Exception):
    """What went wrong, what was expected, what was got, and the next step.

    >>> print(HookedAVError("unknown span", expected="audio or video", got="adio", next_step="see inputs.spans"))
    unknown span
      expected: audio or video
      got:      adio
      next:     see inputs.spans
    """

    def __init__(self, what: str, *, expected: object, got: object, next_step: str) -> None:
        self.what = what
        self.expected = expected
        self.got = got if str(got).strip() else repr(got)  # an empty text is shown as one
        self.next_step = next_step
        super().__init__(f"{what}\n  expected: {expected}\n  got:      {self.got}\n  next:     {next_step}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross process borders (data loaders, pytest-xdist); keyword-only arguments need help there.
        return _rebuild, (type(self), self.what, str(self.expected), str(self.got), self.next_step)


class ArgumentError(HookedAVError, TypeError):
    """A call that does not fit the signature of a public function."""


class MediaError(HookedAVError):
    """A file or array that is not the clip it was said to be."""


class SpanError(HookedAVError):
    """A span that is unknown, empty, or out of range."""


class SpanNameError(SpanError, AttributeError):
    """A span that is unknown, asked for as an attribute."""


class InputsError(HookedAVError):
    """Ids, features, grids, positions or texts that do not fit together."""


class CheckpointError(HookedAVError):
    """A checkpoint or config that we cannot load exactly."""


class HookError(HookedAVError):
    """A hook that does what no hook may do."""


class HookNameError(HookError):
    """A hook name, pattern or filter that matches nothing."""


class InterventionError(HookedAVError):
    """A spec that does not fit the model or the inputs."""


class MemoryBudgetError(HookedAVError):
    """A run that would need more memory than there is."""


class DatasetError(HookedAVError):
    """A manifest, or a folder of results, that cannot be used as it is."""


class HookedAVWarning(UserWarning):
    """A stated oddity that does not stop the run."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The names most like `name`, for an error's `expected`.

    >>> nearest("adio", ["audio", "video", "last"])
    'audio'
    """
    known = sorted(set(names))
    return ", ".join(get_close_matches(name, known, n=3, cutoff=0.5) or known[:8]) or "(none)"


def excerpt(value: object, longest: int = 200) -> str:
    """A value as text that fits into a message.

    >>> excerpt("word " * 100, longest=12)
    'word word w…'
    """
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _rebuild(kind: type[HookedAVError], what: str, expected: str, got: str, next_step: str) -> HookedAVError:
    return kind(what, expected=expected, got=got, next_step=next_step)
