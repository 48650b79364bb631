"""How many frames and pixels of a clip a model sees: what its release says, or less."""

from dataclasses import dataclass, replace

from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.media.patches import PixelBudget


@dataclass(frozen=True)
class ResolvedSampling:
    """Frames and pixels with nothing left open but the pixel budget (None: the released one)."""

    fps: float
    min_frames: int
    max_frames: int
    max_pixels: int | None = None

    def budget(self, released: PixelBudget) -> PixelBudget:
        """The released budget, or a smaller one where `max_pixels` says so."""
        if self.max_pixels is None:
            return released
        return replace(released, max_pixels=self.max_pixels, min_pixels=min(released.min_pixels, self.max_pixels))


@door
@dataclass(frozen=True)
class Sampling:
    """How many frames and pixels of a clip the model sees. None: as the model was released.

    fps: frames a second (Qwen2.5-Omni 2, video-SALMONN 2+ 10). min_frames, max_frames: of one clip, at least and at
    most. max_pixels: of one frame or picture. A budget below the released minimum lowers that minimum too.
    Raises `InputsError` for values with which nothing could be seen.

    >>> Sampling(max_pixels=784).resolved(ResolvedSampling(fps=2.0, min_frames=4, max_frames=768))
    ResolvedSampling(fps=2.0, min_frames=4, max_frames=768, max_pixels=784)
    """

    fps: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        counts = {"min_frames": self.min_frames, "max_frames": self.max_frames, "max_pixels": self.max_pixels}
        got: dict[str, float] = {
            name: value for name, value in counts.items() if value is not None and not 1 <= value < float("inf")
        }
        if self.fps is not None and not 0.0 < self.fps < float("inf"):
            got["fps"] = self.fps
        if self.min_frames is not None and self.max_frames is not None and not self.min_frames <= self.max_frames:
            got["min_frames"], got["max_frames"] = self.min_frames, self.max_frames
        if got:
            raise InputsError(
                f"a sampling with which nothing can be seen: {', '.join(got)}",
                expected="fps > 0, numbers of frames and pixels from 1 on, min_frames <= max_frames",
                got=", ".join(f"{name}={value}" for name, value in got.items()),
                next_step="leave out what should be as the model was released: Sampling()",
            )

    def resolved(self, released: ResolvedSampling) -> ResolvedSampling:
        """The released values where these say nothing."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(released, **given)
