"""Media files: what is where in them, their sound and images, and writing a film.

Axes: sample (mono, 16 kHz), native_sample (mono, at the rate of the file), height, width, 3 (red, green, blue).
The zero of a file's time is the first thing in it that can be seen or heard.
"""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.stream import Disposition, Stream
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from hooked_av.errors import MediaError
from hooked_av.media.decode_pictures import (
    EDGE_SECONDS,
    FileFrames,
    Picture,
    cut_off,
    decoded,
    media_error,
    opened,
    unreadable,
    upright_rgb,
)

SAMPLING_RATE_HZ = 16_000
MISSING_SECONDS = 0.25  # a file whose packets end this long before its declared end was cut off
SOUND_GAP_SECONDS = 0.02  # containers round times (Matroska: to 1 ms); a larger jump is a true gap
ROWS_AT_ONCE = 128  # frames held in memory while saving
VIDEO_TICKS_HZ = 90_000
AAC_BITS_PER_SECOND = 64_000
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


@dataclass(frozen=True, eq=False)
class SoundTrack:
    """Sound of a file; its first sample is `first_seconds` on the stream's own clock, `start_seconds` on the file's."""

    stream_index: int
    rate_hz: int
    first_seconds: float
    start_seconds: float
    end_seconds: float
    seeks_exactly: bool


@dataclass(frozen=True, eq=False)
class FileIndex:
    """Where everything is in a file; times count from the first thing seen or heard."""

    path: Path
    picture: Picture | None
    track: SoundTrack | None

    @property
    def duration_seconds(self) -> float:
        return max(part.end_seconds for part in (self.picture, self.track) if part)


@dataclass
class _Packets:
    """What demuxing tells of one stream, without decoding it; ticks are in its time base."""

    ticks: list[int]
    keyframe_ticks: list[int]
    end_tick: int = 0


def nothing_in(what: str, got: str) -> MediaError:
    return media_error(
        f"neither picture nor sound in {what}", "at least one of the two", got, "give frames, a waveform or both"
    )


# ---- Indexing --------------------------------------------------------------------------------------------------------


def index_of(path: Path) -> FileIndex:
    with opened(path) as container:
        # A cover picture in a sound file is no film.
        films = (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic)
        video, audio = next(films, None), next(iter(container.streams.audio), None)
        if video is None and audio is None:
            raise nothing_in(str(path), f"a {container.format.name} file with other streams only")
        packets = _demuxed(container)
        ends_seconds = [packets[stream.index].end_tick * _tick_seconds(stream) for stream in container.streams]
        _check_complete(path, container, max(ends_seconds))
        frame, sound = _first_decoded(path, video), _first_decoded(path, audio)
        zero_seconds = min((first.time or 0.0 for first in (frame, sound) if first), default=0.0)
        picture = track = None
        if video and isinstance(frame, av.VideoFrame):
            picture = _picture_in(path, video, frame, packets[video.index], zero_seconds)
        if audio and isinstance(sound, av.AudioFrame):
            track = _track_in(container, audio, sound, packets[audio.index], zero_seconds)
    if picture is None and track is None:
        raise cut_off(path, "frames or samples that decode", "none")
    return FileIndex(path, picture, track)


def _demuxed(container: InputContainer) -> dict[int, _Packets]:
    packets = {stream.index: _Packets([], []) for stream in container.streams}
    for packet in container.demux():
        tick = packet.dts if packet.pts is None else packet.pts
        if tick is None:
            continue
        seen = packets[packet.stream_index]
        seen.end_tick = max(seen.end_tick, tick + (packet.duration or 0))
        # Edit lists hide packets (`is_discard`), VP8 says so in a bit of the frame header.
        hidden = packet.is_discard or (packet.stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10)
        if not hidden:
            seen.ticks.append(tick)
            seen.keyframe_ticks += [tick] * packet.is_keyframe
    return packets


def _check_complete(path: Path, container: InputContainer, end_seconds: float) -> None:
    """FFmpeg quietly reads what there is of a file that was cut off; each format says elsewhere how much there was."""
    n_bytes, declared_seconds = path.stat().st_size, (container.duration or 0) / av.time_base
    if "mov" in container.format.name:
        declared_bytes = max(
            (entry.pos + entry.size for s in container.streams for entry in s.index_entries), default=0
        )
    else:
        with path.open("rb") as file:
            head = file.read(8)
        declared_bytes = int.from_bytes(head[4:8], "little") + 8 if head[:4] == b"RIFF" else 0  # WAV, AVI
        # Writers that cannot seek back leave a huge placeholder.
        declared_bytes = declared_bytes if declared_bytes < 2**31 - 1 else 0
    if n_bytes < declared_bytes:
        raise cut_off(path, f"at least {declared_bytes:,} bytes, as it declares", f"{n_bytes:,} bytes")
    # Only Matroska's duration is declared; elsewhere it is estimated from what there is, or includes hidden parts.
    if "matroska" in container.format.name and end_seconds < declared_seconds - MISSING_SECONDS:
        raise cut_off(path, f"{declared_seconds:.2f} s, as it declares", f"{end_seconds:.2f} s")


def _first_decoded(path: Path, stream: Stream | None) -> "av.VideoFrame | av.AudioFrame | None":
    if stream is None:
        return None
    with opened(path) as container:
        return next(decoded(container, stream.index), None)


def _picture_in(
    path: Path, stream: av.VideoStream, first: av.VideoFrame, packets: _Packets, zero_seconds: float
) -> Picture:
    ticks = np.unique(np.array(packets.ticks, np.int64))
    seconds = ticks * _tick_seconds(stream) - zero_seconds
    n_gaps = len(ticks) - 1
    fps = float(n_gaps / (seconds[-1] - seconds[0])) if n_gaps else float(stream.average_rate or 1)
    end_seconds = max(packets.end_tick * _tick_seconds(stream) - zero_seconds, seconds[-1] + EDGE_SECONDS)
    height, width, _ = upright_rgb(first).shape
    source = FileFrames(
        path=path,
        stream_index=stream.index,
        presentation_ticks=ticks,
        keyframe_ticks=np.unique(np.array(packets.keyframe_ticks, np.int64)),
        fps=fps,
        height=height,
        width=width,
    )
    return Picture(source=source, indices=np.arange(len(ticks)), seconds=seconds, end_seconds=end_seconds)


def _track_in(
    container: InputContainer, stream: av.AudioStream, first: av.AudioFrame, packets: _Packets, zero_seconds: float
) -> SoundTrack:
    first_seconds, end_seconds = first.time or 0.0, packets.end_tick * _tick_seconds(stream)
    exact = "mov" in container.format.name
    start_seconds = first_seconds - zero_seconds
    return SoundTrack(
        stream_index=stream.index,
        rate_hz=first.sample_rate,
        first_seconds=first_seconds,
        start_seconds=start_seconds,
        end_seconds=end_seconds - zero_seconds,
        seeks_exactly=exact,
    )


def _tick_seconds(stream: Stream) -> float:
    return float(stream.time_base or 0)


# ---- Reading ---------------------------------------------------------------------------------------------------------


def read_image(path: Path) -> UInt8[np.ndarray, "height width 3"] | None:
    """None when it is no image, or a moving one."""
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1:
                return None
            if image.mode.startswith(("I", "F")):
                raise unreadable(path, "8 bits a channel", f"mode {image.mode}")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            return np.asarray(Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB"))
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, "a whole image", f"{type(error).__name__}: {error}") from error


def read_sound(path: Path, track: SoundTrack, start: float, stop: float) -> Float32[np.ndarray, " sample"]:
    """Samples of [start, stop), with zeros where the sound begins later; shorter where it ends earlier."""
    offset = round(track.start_seconds * SAMPLING_RATE_HZ)
    n_samples = round((track.end_seconds - track.start_seconds) * SAMPLING_RATE_HZ)
    first, last = round(start * SAMPLING_RATE_HZ) - offset, round(stop * SAMPLING_RATE_HZ) - offset
    # Whole seconds are whole samples at every rate, and one more on each side feeds the filters (and AAC's overlap).
    from_second, to_second = max(0, first // SAMPLING_RATE_HZ - 1), max(0, -(-last // SAMPLING_RATE_HZ)) + 1
    native = _decoded_mono(path, track, from_second * track.rate_hz, to_second * track.rate_hz)
    sound = resampled(native, track.rate_hz)[: n_samples - from_second * SAMPLING_RATE_HZ]
    sound = sound[max(0, first) - from_second * SAMPLING_RATE_HZ : max(0, last) - from_second * SAMPLING_RATE_HZ]
    lead = np.zeros(max(0, -first) if len(sound) else 0, np.float32)
    return np.concatenate([lead, sound])


def _decoded_mono(path: Path, track: SoundTrack, first: int, last: int) -> Float32[np.ndarray, " sample"]:
    """Samples [first, last) of the track at its own rate, fewer where it ends earlier; gaps in its times are zeros."""
    sound, end, position = np.zeros(last - first, np.float32), 0, None
    # Whole numbers: for these FFmpeg's mixing weights sum to 1, for floats the channels of 5.1 add up to 1.7.
    mixer = av.AudioResampler("s32", "mono", track.rate_hz)
    with opened(path) as container:
        stream = container.streams[track.stream_index]
        if track.seeks_exactly and first:
            seconds = track.first_seconds + first / track.rate_hz
            container.seek(int(seconds / _tick_seconds(stream)), stream=stream)
        for frame in decoded(container, track.stream_index):
            stated = position if frame.time is None else round((frame.time - track.first_seconds) * track.rate_hz)
            if position is None or abs(stated - position) > SOUND_GAP_SECONDS * track.rate_hz:
                position = stated or 0
            if position >= last:
                break
            block = np.concatenate([part.to_ndarray()[0] for part in mixer.resample(frame)]) / np.float32(2**31)
            skip = max(0, first - position)
            begin = position + skip - first
            block = block[skip : skip + last - first - begin]
            sound[begin : begin + len(block)] = block
            end, position = max(end, begin + len(block)), position + frame.samples
    return sound[:end]


def resampled(mono: Float32[np.ndarray, " native_sample"], from_hz: int) -> Float32[np.ndarray, " sample"]:
    """To 16 kHz; sample i stays at i / rate seconds."""
    if from_hz != SAMPLING_RATE_HZ:
        resampler = av.AudioResampler("flt", "mono", SAMPLING_RATE_HZ)
        # FFmpeg holds the last samples back when a sound is shorter than its filter: a tail of zeros pushes them out.
        padded = np.concatenate([mono, np.zeros(from_hz // 10, np.float32)])
        parts = [part for block in _sound_frames(padded, from_hz) for part in resampler.resample(block)]
        n_samples = max(1, round(len(mono) * SAMPLING_RATE_HZ / from_hz)) if len(mono) else 0
        mono = np.concatenate([part.to_ndarray()[0] for part in parts])[:n_samples]
    return np.clip(mono, -1.0, 1.0)


# ---- Writing ---------------------------------------------------------------------------------------------------------


def write_film(
    path: Path, picture: Picture | None, sound: Float32[np.ndarray, " sample"] | None, duration_seconds: float
) -> None:
    """An .mp4 (H.264 and AAC); it appears under its name only when it is complete."""
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.mp4")
    try:
        with av.open(str(part), "w") as container:
            _write(container, picture, sound, duration_seconds)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write(
    container: OutputContainer,
    picture: Picture | None,
    sound: Float32[np.ndarray, " sample"] | None,
    duration_seconds: float,
) -> None:
    encoders = []
    if picture is not None:
        rate = Fraction(picture.fps or 1.0 / duration_seconds).limit_denominator(1001)
        video = container.add_stream("libx264", rate=rate, options={"crf": "18", "preset": "fast"})
        video.width, video.height, video.pix_fmt = picture.source.width, picture.source.height, "yuv420p"
        video.codec_context.time_base = Fraction(1, VIDEO_TICKS_HZ)
        encoders.append((video, _picture_frames(picture)))
    if sound is not None:
        audio = container.add_stream("aac", rate=SAMPLING_RATE_HZ)
        audio.layout, audio.bit_rate = "mono", AAC_BITS_PER_SECOND
        encoders.append((audio, _sound_frames(sound, SAMPLING_RATE_HZ)))
    # Streams must all be known before the first packet is written.
    for stream, frames in encoders:
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _picture_frames(picture: Picture) -> Iterator[av.VideoFrame]:
    for first in range(0, len(picture.indices), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        for seconds, pixels in zip(picture.seconds[rows], picture.source.read(picture.indices[rows]), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame.pts, frame.time_base = round(seconds * VIDEO_TICKS_HZ), Fraction(1, VIDEO_TICKS_HZ)
            yield frame


def _sound_frames(sound: Float32[np.ndarray, " sample"], rate_hz: int) -> Iterator[av.AudioFrame]:
    for first in range(0, len(sound), rate_hz):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None, first : first + rate_hz]), "flt", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, first, Fraction(1, rate_hz)
        yield frame
