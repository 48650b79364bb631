"""Media files: what is where in them, images, and writing a film.

Axes: sample (mono, 16 kHz), height, width, 3 (red, green, blue).
The zero of a file's time is the first thing in it that can be seen or heard.
"""

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
from hooked_av.media.complete import check_complete
from hooked_av.media.decode_pictures import EDGE_SECONDS, FileFrames, Picture, decoded, upright_rgb
from hooked_av.media.decode_sound import SAMPLING_RATE_HZ, SoundTrack, check_rate, sound_frames
from hooked_av.media.packets import Packets, codec_name, demuxed, tick_seconds
from hooked_av.media.source_file import SourceFile, cut_off, media_error, opened, unreadable
from hooked_av.whole_files import appearing

ROWS_AT_ONCE = 128  # frames held in memory while saving
VIDEO_TICKS_HZ = 90_000
AAC_BITS_PER_SECOND = 64_000
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
MOVING_FORMATS = ("PNG", "WEBP", "GIF")
JPEG_AFTER_JPEG = b"\xff\xd9\xff\xd8"
MAX_FRAME_PIXELS = 178_956_970  # of one picture or frame; Pillow's own limit


@dataclass(frozen=True, eq=False)
class FileIndex:
    """Where everything is in a file; times count from the first thing seen or heard."""

    file: SourceFile
    picture: Picture | None
    track: SoundTrack | None

    @property
    def duration_seconds(self) -> float:
        return max(part.end_seconds for part in (self.picture, self.track) if part)


def nothing_in(what: str, got: str) -> MediaError:
    return media_error(
        f"neither picture nor sound in {what}", "at least one of the two", got, "give frames, a waveform or both"
    )


# ---- Indexing --------------------------------------------------------------------------------------------------------


def index_of(file: SourceFile) -> FileIndex:
    with opened(file) as container:
        # A cover picture in a sound file is no film.
        films = (stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic)
        video, audio = next(films, None), next(iter(container.streams.audio), None)
        if video is None and audio is None:
            raise nothing_in(str(file.path), f"a {container.format.name} file with other streams only")
        if any(stream is not None and codec_name(stream) is None for stream in (video, audio)):
            raise unreadable(file.path, "media of a codec that FFmpeg knows", "media of no codec")
        _check_frame_size(file, *((video.width, video.height) if video else (0, 0)))
        packets = demuxed(container)
        check_complete(file, container, packets)
        frame, sound = _first_decoded(file, video), _first_decoded(file, audio)
        for stream, first in ((video, frame), (audio, sound)):
            if stream is not None and first is None and packets[stream.index].ticks:
                raise cut_off(file.path, f"a track of {stream.type} that decodes", "nothing that does")
        zero_seconds = min((first.time or 0.0 for first in (frame, sound) if first), default=0.0)
        picture = track = None
        if video and isinstance(frame, av.VideoFrame):
            picture = _picture_in(file, video, frame, packets[video.index], zero_seconds)
        if audio and isinstance(sound, av.AudioFrame):
            track = _track_in(container, audio, sound, packets[audio.index], zero_seconds)
    if picture is None and track is None:
        raise cut_off(file.path, "frames or samples that decode", "none")
    return FileIndex(file, picture, track)


def _first_decoded(file: SourceFile, stream: Stream | None) -> "av.VideoFrame | av.AudioFrame | None":
    if stream is None:
        return None
    with opened(file) as container:
        return next(decoded(container, stream.index), None)


def _picture_in(
    file: SourceFile, stream: av.VideoStream, first: av.VideoFrame, packets: Packets, zero_seconds: float
) -> Picture:
    if not packets.ticks:
        expected, next_step = "a film in a container (mp4, mkv, ...)", "say its rate: ffmpeg -r 25 -i FILE out.mp4"
        raise media_error(f"the frames of {file.path} have no times", expected, "a raw stream", next_step)
    ticks = np.unique(np.array(packets.ticks, np.int64))
    seconds = ticks * tick_seconds(stream) - zero_seconds
    n_gaps = len(ticks) - 1
    fps = float(n_gaps / (seconds[-1] - seconds[0])) if n_gaps else float(stream.average_rate or 1)
    end_seconds = max(packets.end_tick * tick_seconds(stream) - zero_seconds, seconds[-1] + EDGE_SECONDS)
    height, width, _ = upright_rgb(first).shape
    source = FileFrames(
        file=file,
        stream_index=stream.index,
        presentation_ticks=ticks,
        keyframe_ticks=np.unique(np.array(packets.keyframe_ticks, np.int64)),
        fps=fps,
        height=height,
        width=width,
    )
    return Picture(source=source, indices=np.arange(len(ticks)), seconds=seconds, end_seconds=end_seconds)


def _track_in(
    container: InputContainer, stream: av.AudioStream, first: av.AudioFrame, packets: Packets, zero_seconds: float
) -> SoundTrack:
    check_rate(first.sample_rate, f"{first.sample_rate} Hz in the file")
    first_seconds, end_seconds = first.time or 0.0, packets.end_tick * tick_seconds(stream)
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


# ---- Reading ---------------------------------------------------------------------------------------------------------


def read_image(file: SourceFile) -> UInt8[np.ndarray, "height width 3"] | None:
    """None when it is no image, or a moving one."""
    file.check_unchanged()
    try:
        with Image.open(file.path, formats=IMAGE_FORMATS) as image:
            n_pictures = getattr(image, "n_frames", 1)
            if n_pictures > 1 and image.format in MOVING_FORMATS:
                return None
            # A JPEG may hold more than the photograph itself: previews, depth, the brighter parts.
            if n_pictures > 1 and image.format == "TIFF":
                raise unreadable(file.path, "one picture", f"{n_pictures} pages")
            if image.format == "JPEG" and JPEG_AFTER_JPEG in file.path.read_bytes():
                raise unreadable(file.path, "one picture", "a stream of JPEG pictures without times")
            if image.mode.startswith(("I", "F")):
                raise unreadable(file.path, "8 bits a channel", f"mode {image.mode}")
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            return np.asarray(Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB"))
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError as error:
        raise _too_large(file, str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise unreadable(file.path, "a whole image", f"{type(error).__name__}: {error}") from error


def _check_frame_size(file: SourceFile, width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise _too_large(file, f"{width}x{height}")


def _too_large(file: SourceFile, got: str) -> MediaError:
    expected = f"at most {MAX_FRAME_PIXELS:,} pixels a picture"
    return media_error(f"the pictures of {file.path} are too large", expected, got, "make them smaller beforehand")


# ---- Writing ---------------------------------------------------------------------------------------------------------


def write_film(
    path: Path, picture: Picture | None, sound: Float32[np.ndarray, " sample"] | None, duration_seconds: float
) -> None:
    """An .mp4 (H.264 and AAC); it appears under its name only when it is complete."""
    with appearing(path, MediaError) as part, av.open(str(part), "w") as container:
        _write(container, picture, sound, duration_seconds)


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
        encoders.append((audio, sound_frames(sound, SAMPLING_RATE_HZ)))
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
