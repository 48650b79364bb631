"""How video-SALMONN 2+ lays media out in a prompt and counts positions, as pure functions; reading blocks from ids.

Every medium, sound too, stands between one vision_start and one vision_end. A token of sound is half a second, and
30 s of it are taken at a time, silence included. Facts: the published code of 2+ (github.com/bytedance/video-SALMONN-2,
`qwenvl/data`, `qwenvl/model`), after its change to time-aligned interleaving of September 2025.

Axes: axis (time, height, width), pos, token, group (frame group: two frames).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from hooked_av.errors import InputsError
from hooked_av.families.blocks import Supply, check_block
from hooked_av.families.qwen_vl.layout import VLPlaced, VLReader, VLTokens, vision_ids, vl_supply
from hooked_av.families.salmonn.audio import SoundWindows, holds_sound
from hooked_av.prompt.layout import Placed
from hooked_av.prompt.positions import AudioPiece, AVPiece, Piece, TextRun, VisionPiece

PositionMode = Literal["train", "generate"]

# Written into the published code, not read from its config (whose `tokens_per_second` it never looks at).
POSITIONS_PER_SECOND = 2
# "generate" leaves out the times of the frames, and the published model then takes 1 s for every group.
_SECONDS_PER_GROUP_WHEN_UNTOLD = 1.0


@dataclass(frozen=True)
class SalmonnTokens(VLTokens):
    """Ids of the tokens that mark media, and how sound becomes tokens."""

    windows: SoundWindows = SoundWindows()  # noqa: RUF009 - frozen

    @property
    def seconds_per_audio_token(self) -> float:
        return self.windows.seconds_per_token

    @classmethod
    def from_config(cls, hf_config: Any) -> "SalmonnTokens":
        """From transformers' Qwen2_5_VLConfig of a flat 2+ config.json; the released ids where it names none."""
        windows = SoundWindows.from_config(getattr(hf_config, "audio_config", None) or {})
        return cls(audio=getattr(hf_config, "audio_token_id", 151665), windows=windows, **vision_ids(hf_config))


# --- interleaving ------------------------------------------------------------------------------------------------


def audio_tokens_after_groups(piece: AVPiece) -> Int64[Tensor, " group"]:
    """How many audio tokens follow each frame group: those whose half second is over when the next group starts.

    The last group is followed by all that are left, silence after the end of the sound included.

    Errors: `InputsError` if the sound ends before the video, or the video has no times.

    >>> audio_tokens_after_groups(AVPiece(VisionPiece((6, 1, 1), 0.2), AudioPiece(60))).tolist()
    [0, 0, 1, 0, 1, 58]
    """
    seconds = piece.video.seconds_per_group
    if seconds is None:
        raise InputsError(
            "a video with sound needs the seconds of a frame group",
            expected="VisionPiece(grid, seconds_per_group), 2 / fps",
            got="None, which means an image",
            next_step="give second_per_grid",
        )
    steps = _group_steps(piece.video.grid[0], seconds)
    counts = torch.diff(steps, append=torch.tensor([piece.audio.n_tokens]))
    if counts[-1] < 0:
        raise InputsError(
            "the sound is shorter than the video: the published interleaving runs out of audio tokens",
            expected=f"at least {int(steps[-1])} audio tokens before the last of {len(steps)} frame groups",
            got=f"{piece.audio.n_tokens} audio tokens, 2 a second",
            next_step="cut the video to the length of its sound, or lengthen the sound with silence",
        )
    return counts


def salmonn_interleave(piece: AVPiece) -> Bool[Tensor, " token"]:
    """Which tokens of an audio-visual block are video: True for video, False for audio, in prompt order.

    >>> salmonn_interleave(AVPiece(VisionPiece((2, 1, 2), 1.0), AudioPiece(3))).int().tolist()
    [1, 1, 0, 0, 1, 1, 0]
    """
    after = audio_tokens_after_groups(piece)
    _, rows, cols = piece.video.grid
    lengths = torch.stack([torch.full_like(after, rows * cols), after], dim=1).flatten()
    return torch.tensor([True, False]).repeat(len(after)).repeat_interleave(lengths)


def _group_steps(groups: int, seconds_per_group: float) -> Int64[Tensor, " group"]:
    # float32, multiplied in this order, then truncated: the published arithmetic, which decides exact borders
    times = torch.arange(groups) * torch.tensor(seconds_per_group, dtype=torch.float32)
    return (times * POSITIONS_PER_SECOND).long()


# --- positions ---------------------------------------------------------------------------------------------------


def salmonn_positions(pieces: Sequence[Piece], mode: str) -> Int64[Tensor, "axis=3 pos"]:
    """Position ids of video-SALMONN 2+ for one prompt, in one of its two published ways.

    "train": what the published data code computes and the model was trained on; video and sound share a clock of two
    steps a second. "generate": what the published `generate` computes, because times and audio lengths get lost on the
    way: every frame group is 1 s, audio is counted as text, and in a video with sound the ids of the video go to the
    first tokens of the block, whichever they are.

    Errors: `InputsError` for an empty prompt, an unknown mode, and mixes that the published model cannot take.

    >>> pieces = [AVPiece(VisionPiece((2, 1, 2), 0.5), AudioPiece(3)), TextRun(1)]
    >>> salmonn_positions(pieces, "train")
    tensor([[0, 1, 1, 1, 2, 2, 2, 3, 4, 5],
            [0, 1, 1, 1, 1, 1, 1, 1, 4, 5],
            [0, 1, 2, 1, 1, 2, 2, 3, 4, 5]])
    >>> salmonn_positions(pieces, "generate")
    tensor([[0, 1, 1, 3, 3, 4, 5, 6, 7, 8],
            [0, 1, 1, 1, 1, 4, 5, 6, 7, 8],
            [0, 1, 2, 1, 2, 4, 5, 6, 7, 8]])
    """
    _check_mode(mode)
    check_published(pieces)
    parts: list[Tensor] = []
    following = 0
    for piece in pieces:
        if isinstance(piece, TextRun):
            parts.append(_line(piece.n_tokens) + following)
            following += piece.n_tokens
            continue
        body = _train_body(piece) if mode == "train" else _generate_body(piece)
        begin = _line(1) + following
        body = body + following + 1
        # The published training code goes on from the time axis alone after sound, from all axes after pictures.
        following = _last(body, time_only=mode == "train" and not isinstance(piece, VisionPiece)) + 1
        parts += [begin, body, _line(1) + following]
        following += 1
    if not following:
        raise InputsError("an empty prompt", expected="at least one token", got="none", next_step="give a text or clip")
    return torch.cat(parts, dim=1)


def check_published(pieces: Iterable[Piece]) -> None:
    """Refuse mixes of media that the published model cannot take, with the reason."""
    media = [piece for piece in pieces if not isinstance(piece, TextRun)]
    videos = [piece for piece in media if _is_video(piece)]
    sounds = [piece for piece in media if isinstance(piece, AudioPiece)]
    pictures = [piece for piece in media if isinstance(piece, VisionPiece) and not _is_video(piece)]
    if len(videos) > 1:
        _refuse("several videos in one prompt", "its data code fails on the positions of a second video", "one video")
    if pictures and (sounds or any(isinstance(piece, AVPiece) for piece in videos)):
        _refuse("an image and sound in one prompt", "its authors neither built nor trained that", "image or sound")
    if videos and sounds:
        _refuse("a sound beside a video", "it puts sound inside the video's block only", "one clip with both")


def _refuse(what: str, why: str, expected: str) -> None:
    raise InputsError(
        f"{what}: the published video-SALMONN 2+ cannot do this, {why}",
        expected=expected,
        got=what,
        next_step="split the prompt, or use Qwen2.5-Omni",
    )


def _check_mode(mode: str) -> None:
    if mode not in get_args(PositionMode):
        raise InputsError(
            "unknown position mode",
            expected="'train' (as the model was trained) or 'generate' (as the published code answers)",
            got=repr(mode),
            next_step="pass positions='train' or positions='generate'",
        )


def _is_video(piece: Piece) -> bool:
    return isinstance(piece, AVPiece) or (isinstance(piece, VisionPiece) and piece.seconds_per_group is not None)


def _train_body(piece: AudioPiece | VisionPiece | AVPiece) -> Int64[Tensor, "axis=3 token"]:
    if isinstance(piece, VisionPiece):
        return _raster(piece.grid, piece.seconds_per_group)
    if isinstance(piece, AudioPiece):
        return _sound(piece.n_tokens, resting_axis=2)
    is_video = salmonn_interleave(piece)
    body = torch.empty(3, piece.n_tokens, dtype=torch.int64)
    body[:, is_video] = _raster(piece.video.grid, piece.video.seconds_per_group)
    # Inside a video the height rests, alone the width does: so the published code has it.
    body[:, ~is_video] = _sound(piece.audio.n_tokens, resting_axis=1)
    return body


def _generate_body(piece: AudioPiece | VisionPiece | AVPiece) -> Int64[Tensor, "axis=3 token"]:
    if isinstance(piece, AudioPiece):
        return _line(piece.n_tokens)
    vision = piece.video if isinstance(piece, AVPiece) else piece
    seconds = _SECONDS_PER_GROUP_WHEN_UNTOLD if _is_video(piece) else None
    first = _raster(vision.grid, seconds)
    return torch.cat([first, _line(piece.n_tokens - vision.n_tokens) + _last(first) + 1], dim=1)


def _raster(grid: tuple[int, int, int], seconds_per_group: float | None) -> Int64[Tensor, "axis=3 token"]:
    groups, rows, cols = grid
    times = _group_steps(groups, seconds_per_group or 0.0)
    return torch.cartesian_prod(times, torch.arange(rows), torch.arange(cols)).reshape(-1, 3).T


def _sound(n_tokens: int, resting_axis: int) -> Int64[Tensor, "axis=3 token"]:
    body = _line(n_tokens).clone()
    body[resting_axis] = 0
    return body


def _line(n_tokens: int) -> Int64[Tensor, "axis=3 token"]:
    return torch.arange(n_tokens).expand(3, -1)


def _last(ids: Int64[Tensor, "axis=3 token"], time_only: bool = False) -> int:
    return int((ids[0] if time_only else ids).max())


# --- reading a prompt --------------------------------------------------------------------------------------------


def salmonn_supply(features: Mapping[str, Tensor], merge: int) -> Supply:
    """The media of a batch; sound in blocks of 30 s."""
    sounds = [None] * len(features.get("audio_feature", ()))
    return Supply({"audio": sounds, **vl_supply(features, merge).left})


@dataclass(frozen=True)
class SalmonnReader(VLReader):
    """Reads layouts from ids: Qwen2.5-VL's, and sound, alone or in a video.

    n_samples: 16 kHz samples of each sound before padding, in prompt order; they are taken away as prompts are read.
    None if unknown: then no token is known to be padding.
    """

    tokens: SalmonnTokens
    n_samples: list[int] | None = None

    def media_at(self, row: list[int], at: int) -> Placed | None:
        tokens = self.tokens
        ahead = row[at + 1] if at + 1 < len(row) else None
        if row[at] != tokens.vision_begin or ahead not in (tokens.video, tokens.audio):
            return super().media_at(row, at)
        # How many blocks of sound belong here is said by the prompt alone: audio_feature joins those of all sounds.
        stop = row.index(tokens.vision_end, at) if tokens.vision_end in row[at:] else len(row)
        n_audio = row[at:stop].count(tokens.audio)
        if not n_audio:
            return super().media_at(row, at)
        if ahead == tokens.audio:
            part = VLPlaced(self._sound(n_audio, at), at)
        else:
            piece = AVPiece(self.supply.take("video", at), self._sound(n_audio, at))
            part = VLPlaced(piece, at, salmonn_interleave(piece).numpy())
        return check_block(part, row, tokens, [tokens.vision_end])

    def _sound(self, n_tokens: int, at: int) -> AudioPiece:
        """The sound of a block of the prompt that holds `n_tokens` audio tokens."""
        n_blocks, rest = divmod(n_tokens, self.tokens.windows.n_tokens)
        if rest:
            raise InputsError(
                f"the audio tokens of the block at position {at} are no whole number of 30 s blocks",
                expected=f"a multiple of {self.tokens.windows.n_tokens}, silence included",
                got=n_tokens,
                next_step="put all tokens of every block of audio_feature into the prompt",
            )
        for _ in range(n_blocks):
            self.supply.take("audio", at)
        return AudioPiece(n_tokens)

    def labels(self, placed: Sequence[Placed]) -> dict[str, list[int]]:
        """The span `audio_padding`: tokens of sound that hold none of it."""
        if self.n_samples is None:
            return {}
        padding = audio_padding(placed, _taken(self.n_samples, placed), self.tokens.windows)
        return {"audio_padding": padding} if padding else {}

    def check_empty(self) -> None:
        super().check_empty()
        if self.n_samples:
            raise _wrong_lengths(f"{len(self.n_samples)} more")


def audio_padding(placed: Sequence[Placed], n_samples: Sequence[int | None], windows: SoundWindows) -> list[int]:
    """Positions of the audio tokens that hold no sound; `n_samples` of each sound in prompt order, None if unknown."""
    sounds = [part.streams["audio"] for part in placed if "audio" in part.streams]
    padding: list[int] = []
    for positions, n in zip(sounds, n_samples, strict=True):
        if n is None:
            continue
        heard = holds_sound(n, windows).numpy()
        if len(heard) != len(positions):
            raise InputsError(
                "a sound's length does not match its tokens",
                expected=f"{len(heard)} audio tokens for {n} samples",
                got=len(positions),
                next_step="give the number of samples before padding to 30 s",
            )
        padding += positions[~heard].tolist()
    return padding


def _taken(lengths: list[int], placed: Sequence[Placed]) -> list[int]:
    """The first of `lengths`, one a sound of this prompt; they are taken away."""
    n_sounds = sum("audio" in part.streams for part in placed)
    if len(lengths) < n_sounds:
        raise _wrong_lengths(f"{n_sounds - len(lengths)} fewer")
    taken = lengths[:n_sounds]
    del lengths[:n_sounds]
    return taken


def _wrong_lengths(got: str) -> InputsError:
    return InputsError(
        "audio_samples does not match the sounds of the prompts",
        expected="one number a sound, in prompt order: its 16 kHz samples before padding to 30 s",
        got=got,
        next_step="give one number a sound, or leave audio_samples out",
    )
