"""Swaps: the same question about other media, which say nothing, or something else.

Where a cut takes away attention to a modality, a swap takes away what it says.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hooked_av.doors import door
from hooked_av.errors import InputsError, nearest
from hooked_av.media.clip import Clip
from hooked_av.prompt.inputs import AVInputs
from hooked_av.prompt.text import media_list

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

# What a swap is called -> the modality that loses what it says, and the kind of loss.
SWAPS: Mapping[str, tuple[str, str]] = {
    "silence": ("audio", "blank"),
    "black frames": ("video", "blank"),
    "silence and black frames": ("both", "blank"),
    "other sound": ("audio", "other"),
    "other frames": ("video", "other"),
    "other clip": ("both", "other"),
}


@door
def media_swaps(
    model: "HookedAVTransformer", media: Any, other: Clip | None = None, **arguments: Any
) -> dict[str, AVInputs]:
    """The prompts of `Case.swapped`: every clip silenced, blanked, or with another clip's sound or frames.

    Args:
        media: what `model.prepare` takes.
        other: a clip with sound and frames; None leaves out the swaps that need one.
        arguments: question, options, ... as for `model.prepare`.

    Swaps that change nothing (silence where there is no sound) are left out.

    Errors: `InputsError` for media without anything to hear or to see move.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1]
    >>> list(media_swaps(model, sample.clip, question=sample.question))
    ['silence', 'black frames', 'silence and black frames']
    """
    parts = media_list(media)
    has_audio = any(isinstance(part, Clip) and part.has_audio for part in parts)
    has_video = any(isinstance(part, Clip) and part.has_video for part in parts)
    if not has_audio and not has_video:
        raise InputsError(
            "nothing to swap",
            expected="media with a clip that has sound or frames",
            got="none of them",
            next_step="swap the media of a question that has some: media_swaps(model, clip, question=...)",
        )
    fits = {"audio": has_audio, "video": has_video, "both": has_audio and has_video}
    made = {}
    for name, (modality, kind) in SWAPS.items():
        if fits[modality] and (kind == "blank" or other is not None):
            swap = _swap(modality, None if kind == "blank" else other)
            changed = [swap(part) if isinstance(part, Clip) else part for part in parts]
            made[name] = model.prepare(changed, **arguments)
    return made


def check_swaps(names: Mapping[str, Any], sample: str) -> None:
    """Refuse a swap whose modality nobody knows.

    Errors: `InputsError`.
    """
    for name in names:
        if name not in SWAPS:
            raise InputsError(
                f"sample {sample!r} has a swap of an unknown name",
                expected=nearest(name, SWAPS),
                got=repr(name),
                next_step=f"name swaps as media_swaps does: {', '.join(SWAPS)}",
            )


def _swap(modality: str, other: Clip | None) -> Callable[[Clip], Clip]:
    def swap(clip: Clip) -> Clip:
        if modality != "video" and clip.has_audio:
            clip = clip.silenced() if other is None else clip.with_audio(other)
        if modality != "audio" and clip.has_video:
            clip = clip.blanked() if other is None else clip.with_frames(other.frames, other.fps)
        return clip

    return swap
