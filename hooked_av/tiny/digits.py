"""Real handwritten and real spoken digits, split into those that are trained on and those that are held out.

    load_digits (scikit-learn)   --read_images--> Images      1,797 pictures of 8 x 8, every fifth one held out
    Free Spoken Digit Dataset    --read_speech--> Recordings  six speakers; recordings 0 to 4 of each digit held out
    espeak-ng                    --speak-->       Recordings  synthetic voices; `HELD_OUT_VOICES` held out

Axes: image; row, column (pixels of one image); sample (mono, 16 kHz).
"""

import io
import re
import subprocess
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Bool, Float32, Int64

from hooked_av.errors import MediaError
from hooked_av.media.clip import Clip
from hooked_av.media.decode_sound import SAMPLING_RATE_HZ, resampled

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT_EVERY = 5  # images 0, 5, 10, ...
HELD_OUT_RECORDINGS = 5  # the data set's own convention: recordings 0 to 4 of each speaker and digit are its test split
MAX_SECONDS = 0.9  # a longer recording does not fit into its second, and is left out (about 1 % of them)
INK_LEVELS = 16  # of a picture
SPEECH_SOURCE = "https://github.com/Jakobovski/free-spoken-digit-dataset"

TRAINING_VOICES = tuple(
    f"{accent}+{variant}"
    for accent in ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp")
    for variant in ("m1", "m2", "m3", "m4", "m7", "f1", "f2", "f3", "f4")
)
HELD_OUT_VOICES = ("en-us+m5", "en-gb+f5", "en-029+m6", "en-us-nyc+f5")
_WORDS_A_MINUTE = (130, 165)
_QUIET = 0.02  # of the peak: what is below counts as silence before and after a word
_MARGIN_SAMPLES = 320  # 20 ms kept around a word

Wave = Float32[np.ndarray, "_"]  # words have different lengths


@dataclass(frozen=True, eq=False)
class Images:
    """Handwritten digits, ink from 0 to 1."""

    ink: Float32[np.ndarray, "image row column"]
    digits: Int64[np.ndarray, " image"]

    def of(self, digit: int) -> Float32[np.ndarray, "image row column"]:
        return self.ink[self.digits == digit]


@dataclass(frozen=True, eq=False)
class Recordings:
    """Spoken digits: one word each, without silence around it, peak 1."""

    waves: tuple[Float32[np.ndarray, "..."], ...]  # of different lengths
    digits: Int64[np.ndarray, " recording"]
    speakers: tuple[str, ...]

    def only(self, chosen: Bool[np.ndarray, " recording"]) -> "Recordings":
        """The chosen recordings."""
        kept = np.flatnonzero(chosen)
        return Recordings(tuple(self.waves[i] for i in kept), self.digits[kept], tuple(self.speakers[i] for i in kept))

    def by(self, speakers: Iterable[str]) -> "Recordings":
        """The recordings of these speakers."""
        wanted = set(speakers)
        return self.only(np.array([speaker in wanted for speaker in self.speakers], dtype=bool))

    def without(self, speaker: str) -> "Recordings":
        """The recordings of everybody else. Errors: `MediaError` for a speaker who is not among them."""
        if speaker not in self.speakers:
            raise MediaError(
                "no such speaker",
                expected=", ".join(sorted(set(self.speakers))),
                got=repr(speaker),
                next_step="name one of the speakers of the recordings",
            )
        return self.by(set(self.speakers) - {speaker})

    def __add__(self, other: "Recordings") -> "Recordings":
        digits = np.concatenate([self.digits, other.digits])
        return Recordings(self.waves + other.waves, digits, self.speakers + other.speakers)


@dataclass(frozen=True, eq=False)
class Digits:
    """What scenes are made of."""

    images: Images
    recordings: Recordings


def read_images(*, held_out: bool) -> Images:
    """scikit-learn's handwritten digits (UCI, Alpaydin and Kaynak 1998): the held-out fifth, or the rest."""
    ink, digits = _images(held_out)
    return Images((ink / INK_LEVELS).astype(np.float32), digits.astype(np.int64))


def packaged_images(*, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pictures as they are in the data set, and their digits: the held-out fifth, or as many of the others."""
    ink, digits = _images(held_out)
    every = 1 if held_out else HELD_OUT_EVERY - 1
    return ink[::every], digits[::every]


def _images(held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    chosen = (np.arange(len(bunch.target)) % HELD_OUT_EVERY == 0) == held_out
    return bunch.images[chosen], bunch.target[chosen]


def packaged_rows(source: Path, *, held_out: bool) -> dict[str, np.ndarray]:
    """Of an .npz as `read_speech` takes it, the test split, or as many of the others, as arrays of another."""
    first = 0 if held_out else HELD_OUT_RECORDINGS
    with np.load(source) as data:
        kept = np.flatnonzero((data["index"] >= first) & (data["index"] < first + HELD_OUT_RECORDINGS))
        pieces = [data["samples"][data["offsets"][i] : data["offsets"][i + 1]] for i in kept]
        labels = {name: data[name][kept] for name in ("digit", "speaker", "index")}
        offsets = np.cumsum([0, *map(len, pieces)])
        return {"samples": np.concatenate(pieces), "offsets": offsets, **labels,
                "sampling_rate_hz": data["sampling_rate_hz"]}  # fmt: skip


def read_speech(source: Path, *, held_out: bool) -> Recordings:
    """The Free Spoken Digit Dataset: its test split, or the rest.

    Args:
        source: the data set's folder `recordings` (files `7_theo_31.wav`), or an .npz with its `samples`, `offsets`,
            `digit`, `speaker`, `index` and `sampling_rate_hz`.

    Errors: `MediaError` if there is nothing of that kind.
    """
    if not source.exists():
        raise MediaError(
            f"no spoken digits at {source}",
            expected="the folder `recordings` of the Free Spoken Digit Dataset, or an .npz made from it",
            got="nothing there",
            next_step=f"git clone {SPEECH_SOURCE}, then give its folder recordings",
        )
    rows = _rows_of_folder(source) if source.is_dir() else _rows_of_npz(source)
    chosen = [row for row in rows if (row[2] < HELD_OUT_RECORDINGS) == held_out]
    return _recordings((wave, digit, speaker) for digit, speaker, _, wave in chosen)


def speak(voices: Sequence[str], words: Sequence[str] = NAMES) -> Recordings:
    """Words (by default the ten digits) as espeak-ng says them, at two speeds.

    Errors: `MediaError` if espeak-ng is not installed, or does not know a voice.
    """
    spoken = (
        (_espeak(word, voice, speed), digit, voice)
        for voice in voices
        for digit, word in enumerate(words)
        for speed in _WORDS_A_MINUTE
    )
    return _recordings(spoken)


def _rows_of_npz(path: Path) -> list[tuple[int, str, int, Wave]]:
    try:
        with np.load(path) as data:
            rate, offsets, samples = int(data["sampling_rate_hz"]), data["offsets"], data["samples"]
            labels = zip(data["digit"].tolist(), data["speaker"].tolist(), data["index"].tolist(), strict=True)
            pieces = [samples[start:stop] for start, stop in pairwise(offsets)]
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, BadZipFile) as error:
        raise MediaError(
            f"no spoken digits in {path}",
            expected="an .npz with samples, offsets, digit, speaker, index and sampling_rate_hz",
            got=f"{type(error).__name__}: {error}",
            next_step="give the folder `recordings` of the Free Spoken Digit Dataset, or an .npz made from it",
        ) from error
    return [
        (digit, speaker, index, resampled((piece / 32_768).astype(np.float32), rate))
        for (digit, speaker, index), piece in zip(labels, pieces, strict=True)
    ]


def _rows_of_folder(folder: Path) -> list[tuple[int, str, int, Wave]]:
    named = [(re.fullmatch(r"(\d)_(\w+)_(\d+)", path.stem), path) for path in sorted(folder.glob("*.wav"))]
    rows = [(int(m[1]), m[2], int(m[3]), Clip.from_file(path).waveform) for m, path in named if m is not None]
    if not rows:
        raise MediaError(
            f"no spoken digits in {folder}",
            expected="files such as 7_theo_31.wav",
            got=f"{len(named)} other .wav files",
            next_step="give the folder `recordings` of the Free Spoken Digit Dataset",
        )
    return rows


def _recordings(rows: Iterable[tuple[Wave, int, str]]) -> Recordings:
    """Words without the silence around them; what is empty or too long is left out."""
    trimmed = [(_trimmed(wave), digit, speaker) for wave, digit, speaker in rows]
    kept = [row for row in trimmed if 0 < len(row[0]) <= MAX_SECONDS * SAMPLING_RATE_HZ]
    waves, digits, speakers = zip(*kept, strict=True)
    return Recordings(waves, np.array(digits, dtype=np.int64), speakers)


def _trimmed(wave: Wave) -> Wave:
    peak = float(np.abs(wave).max(initial=0))
    loud = np.flatnonzero(np.abs(wave) > _QUIET * peak)
    if not len(loud):
        return wave[:0]
    return wave[max(0, loud[0] - _MARGIN_SAMPLES) : loud[-1] + _MARGIN_SAMPLES] / np.float32(peak)


def _espeak(word: str, voice: str, words_a_minute: int) -> Wave:
    command = ["espeak-ng", "-v", voice, "-s", str(words_a_minute), "--stdout", word]
    try:
        spoken = subprocess.run(command, capture_output=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise MediaError(
            "espeak-ng did not speak",
            expected=f"espeak-ng on this machine, with the voice {voice}",
            got=getattr(error, "stderr", b"").decode(errors="replace").strip() or "not installed",
            next_step="install espeak-ng (Debian: apt-get install espeak-ng)",
        ) from error
    with wave.open(io.BytesIO(spoken)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16)
        return resampled((samples / 32_768).astype(np.float32), file.getframerate())
