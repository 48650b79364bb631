"""The sound of a clip: read from a file or given as an array, checked by one rule, brought to mono at 16 kHz.

Axes: sample (mono, 16 kHz), native_sample (mono, at the rate of the file), channel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from jaxtyping import Float32, Float64

from hooked_av.media.decode_pictures import decoded
from hooked_av.media.source_file import SourceFile, cut_off, media_error, opened

SAMPLING_RATE_HZ = 16_000
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 768_000
MAX_CHANNELS = 8
MAX_PEAK = 2.0  # decoders overshoot 1.0 a little; what is louder than this was not scaled to [-1, 1]
MAX_SOUND_SECONDS = 24 * 3600.0  # 5.5 GB; longer ones are most often times that are wrong
SOUND_GAP_SECONDS = 0.02  # containers round times (Matroska: to 1 ms); a larger jump is a true gap


@dataclass(frozen=True, eq=False)
class SoundTrack:
    """Sound of a file; its first sample is `first_seconds` on the stream's own clock, `start_seconds` on the file's."""

    stream_index: int
    rate_hz: int
    first_seconds: float
    start_seconds: float
    end_seconds: float
    seeks_exactly: bool


# ---- Checks, of files and of arrays ----------------------------------------------------------------------------------


def check_rate(rate_hz: float, got: object) -> None:
    if not (LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ and rate_hz == int(rate_hz)):
        expected = f"{LOWEST_RATE_HZ:,} to {HIGHEST_RATE_HZ:,} Hz, a whole number"
        raise media_error("no sampling rate of a sound", expected, got, "give sampling_rate_hz=16_000, or convert it")


def check_peak(samples: np.ndarray, where: str) -> None:
    """`samples`: as they came, before anything was made of them that could hide NaN and infinity."""
    peak = float(np.abs(samples).max(initial=0.0))
    if not peak <= MAX_PEAK:  # so that NaN is caught too
        got = f"a peak of {peak:g} in {where}"
        raise media_error(
            "samples out of range", "finite values in [-1, 1]", got, "scale it, or repair NaN and infinity"
        )


# ---- Reading ---------------------------------------------------------------------------------------------------------


def read_sound(source: SourceFile, track: SoundTrack, start: float, stop: float) -> Float32[np.ndarray, " sample"]:
    """Samples of [start, stop), with zeros where the sound begins later; shorter where it ends earlier."""
    if stop - start > MAX_SOUND_SECONDS:
        got, next_step = f"{stop - start:,.0f} s", "load a part: Clip.from_file(path, start, stop)"
        raise media_error("a sound that is too long", f"at most {MAX_SOUND_SECONDS:,.0f} s", got, next_step)
    offset = round(track.start_seconds * SAMPLING_RATE_HZ)
    n_samples = round((track.end_seconds - track.start_seconds) * SAMPLING_RATE_HZ)
    first, last = round(start * SAMPLING_RATE_HZ) - offset, round(stop * SAMPLING_RATE_HZ) - offset
    # Whole seconds are whole samples at every rate, and one more on each side feeds the filters (and AAC's overlap).
    from_second, to_second = max(0, first // SAMPLING_RATE_HZ - 1), max(0, -(-last // SAMPLING_RATE_HZ)) + 1
    native = _decoded_mono(source, track, from_second * track.rate_hz, to_second * track.rate_hz)
    sound = resampled(native, track.rate_hz)[: n_samples - from_second * SAMPLING_RATE_HZ]
    sound = sound[max(0, first) - from_second * SAMPLING_RATE_HZ : max(0, last) - from_second * SAMPLING_RATE_HZ]
    lead = np.zeros(max(0, -first) if len(sound) else 0, np.float32)
    return np.concatenate([lead, sound])


def _decoded_mono(source: SourceFile, track: SoundTrack, first: int, last: int) -> Float32[np.ndarray, " sample"]:
    """Samples [first, last) of the track at its own rate, fewer where it ends earlier; gaps in its times are zeros."""
    sound, end, position = np.zeros(last - first, np.float32), 0, None
    # Whole numbers: for these FFmpeg's mixing weights sum to 1, for floats the channels of 5.1 add up to 1.7.
    mixer = av.AudioResampler("s32", "mono", track.rate_hz)
    with opened(source) as container:
        stream = container.streams[track.stream_index]
        if track.seeks_exactly and first:
            seconds = track.first_seconds + first / track.rate_hz
            container.seek(int(seconds / float(stream.time_base or 1)), stream=stream)
        for frame in decoded(container, track.stream_index):
            stated = position if frame.time is None else round((frame.time - track.first_seconds) * track.rate_hz)
            if position is None or abs(stated - position) > SOUND_GAP_SECONDS * track.rate_hz:
                position = stated or 0
            if position >= last:
                break
            if position + frame.samples > first:
                check_peak(_native_samples(frame), f"{source.path} at {frame.time or 0.0:.3f} s of its sound")
            block = _mixed(mixer, frame, source)
            skip = max(0, first - position)
            begin = position + skip - first
            block = block[skip : skip + last - first - begin]
            sound[begin : begin + len(block)] = block
            end, position = max(end, begin + len(block)), position + frame.samples
    return sound[:end]


def _native_samples(frame: av.AudioFrame) -> np.ndarray:
    """What the decoder gave, where it may be out of range: whole numbers never are."""
    return frame.to_ndarray() if frame.format.name.startswith(("flt", "dbl")) else np.zeros(0)


def _mixed(mixer: av.AudioResampler, frame: av.AudioFrame, source: SourceFile) -> Float64[np.ndarray, " native_sample"]:
    try:
        return np.concatenate([part.to_ndarray()[0] for part in mixer.resample(frame)]) / np.float32(2**31)
    except ValueError as error:  # PyAV's word for it: the frame does not match the resampler's setup
        got = f"{frame.sample_rate} Hz, {frame.layout.name}, {frame.format.name} at {frame.time or 0.0:.3f} s"
        raise cut_off(source.path, "one sampling rate and channel layout throughout", got) from error


def resampled(mono: Float32[np.ndarray, " native_sample"], from_hz: int) -> Float32[np.ndarray, " sample"]:
    """To 16 kHz; sample i stays at i / rate seconds."""
    if from_hz != SAMPLING_RATE_HZ:
        resampler = av.AudioResampler("flt", "mono", SAMPLING_RATE_HZ)
        # FFmpeg holds the last samples back when a sound is shorter than its filter: a tail of zeros pushes them out.
        padded = np.concatenate([mono, np.zeros(from_hz // 10, np.float32)])
        parts = [part for block in sound_frames(padded, from_hz) for part in resampler.resample(block)]
        n_samples = max(1, round(len(mono) * SAMPLING_RATE_HZ / from_hz)) if len(mono) else 0
        mono = np.concatenate([part.to_ndarray()[0] for part in parts])[:n_samples]
    return np.clip(mono, -1.0, 1.0)


def sound_frames(sound: Float32[np.ndarray, " sample"], rate_hz: int) -> Iterator[av.AudioFrame]:
    """The sound in frames of a second, for FFmpeg's resamplers and encoders."""
    for first in range(0, len(sound), rate_hz):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None, first : first + rate_hz]), "flt", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, first, Fraction(1, rate_hz)
        yield frame
