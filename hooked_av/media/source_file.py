"""A media file on disk: it is there, may be read, is still the file that it was, and holds its media itself.

Whoever reads a file goes through here, because pictures are read long after their clip was made.
"""

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.codec.codec import UnknownCodecError
from av.container import InputContainer
from av.error import FFmpegError

from hooked_av.errors import MediaError

# Formats that hold their media themselves. What is not here is no media (subtitles, and text that FFmpeg draws as a
# film), or names other files and addresses (concat, hls, dash, sdp, rtsp, image2, imf, vobsub), and FFmpeg opens those.
FILM_FORMATS = (
    *("mov", "matroska", "mpegts", "mpeg", "avi", "asf", "flv", "live_flv", "kux", "ogg", "mxf", "gxf", "nut", "rm"),
    *("dv", "ivf", "swf", "wtv", "nsv", "nuv", "lxf", "roq", "bink", "smk", "thp", "film_cpk", "4xm", "vmd"),
    *("yuv4mpegpipe", "mpegvideo", "m4v", "mjpeg", "mjpeg_2000", "h261", "h263", "h264", "hevc", "vvc", "evc"),
    *("av1", "obu", "avs2", "avs3", "cavsvideo", "dirac", "dnxhd", "vc1", "vc1test", "gif", "apng", "flic", "cine"),
)
SOUND_FORMATS = (
    *("wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac", "ac3", "eac3", "ac4", "dts", "dtshd", "mlp", "truehd"),
    *("amr", "ape", "wv", "tta", "tak", "voc", "aa", "aea", "oma", "gsm", "ircam", "nistsphere", "sox", "shn", "rso"),
    *("mpc", "mpc8", "dsf", "iff", "qcp", "loas", "bonk", "wsd", "xwma", "iamf", "osq", "qoa", "avr", "pvf"),
)
OPEN_OPTIONS = {"format_whitelist": ",".join(FILM_FORMATS + SOUND_FORMATS), "protocol_whitelist": "file"}


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when its clip was made."""

    path: Path  # absolute: the working folder may be another one when the file is read again
    n_bytes: int
    modified_ns: int
    inode: int

    @classmethod
    def at(cls, path: Path) -> "SourceFile":
        """Errors: `MediaError` for what is no file, cannot be found or may not be read."""
        try:
            absolute, state = path.absolute(), path.stat()
            if stat.S_ISREG(state.st_mode):
                path.open("rb").close()  # may it be read?
        except (OSError, ValueError) as error:  # ValueError: a NUL or half a surrogate pair
            raise not_found(path, error) from error
        if not stat.S_ISREG(state.st_mode):
            got = "a folder" if stat.S_ISDIR(state.st_mode) else "a device, pipe or socket"
            raise media_error(
                f"{got}, not a file: {printable(path)}", "one media file", got, "give the path of one file"
            )
        if state.st_size == 0:
            raise media_error(f"an empty file: {path}", "a media file", "0 bytes", "fetch the file again")
        return cls(absolute, state.st_size, state.st_mtime_ns, state.st_ino)

    def check_unchanged(self) -> None:
        """What is read now must belong to what was read then: the sound is in memory, the pictures are not."""
        now = SourceFile.at(self.path)
        if now != self:
            raise media_error(
                f"{self.path} is not the file any more that the clip was made of",
                f"{self.n_bytes:,} bytes, last written at {self.modified_ns} ns",
                f"{now.n_bytes:,} bytes, last written at {now.modified_ns} ns (or another file under the same name)",
                "load the clip anew: Clip.from_file(path), when nothing writes to the file any more",
            )


@contextmanager
def opened(source: SourceFile, **more: str) -> Generator[InputContainer, None, None]:
    """PyAV's own errors leave here as ours, whether they come from opening, demuxing or decoding.

    `more`: options of FFmpeg's.
    """
    source.check_unchanged()
    try:
        # An absolute path cannot be taken for a protocol, as "a:b.mp4" would be.
        with av.open(str(source.path), options=OPEN_OPTIONS | more, metadata_errors="replace") as container:
            yield container
    except (FFmpegError, UnknownCodecError) as error:
        source.check_unchanged()
        expected = "a film, sound or image that is in the file itself (no playlist, no text)"
        raise unreadable(source.path, expected, f"{type(error).__name__}: {error}") from error
    source.check_unchanged()


# ---- Errors ----------------------------------------------------------------------------------------------------------


def media_error(what: str, expected: object, got: object, next_step: str) -> MediaError:
    return MediaError(what, expected=expected, got=got, next_step=next_step)


def not_found(path: Path, error: OSError | ValueError) -> MediaError:
    """Why the system does not give us the file; `ValueError` is what Python says of names that no file can have."""
    name = printable(path)
    if isinstance(error, PermissionError):
        what, next_step = f"no permission to read {name}", "ask for read permission on the file and its folders"
    else:
        what, next_step = f"no such file: {name}", "check the path; relative paths count from os.getcwd()"
    got = "a URL" if "://" in name or ":/" in name else getattr(error, "strerror", None) or str(error)
    return media_error(what, "the path of a local file", got, next_step)


def printable(path: Path) -> str:
    """A name that cannot be printed, or that goes on and on, must not break a message."""
    name = os.fspath(path)
    name = name if name.isprintable() else name.encode("unicode_escape").decode()
    return name if len(name) <= 500 else f"{name[:250]} ... {name[-250:]}"


def unreadable(path: Path, expected: str, got: object) -> MediaError:
    next_step = "play the file elsewhere; if that works, convert it: ffmpeg -i FILE out.mp4"
    return media_error(f"cannot read {path}: corrupt, cut off, or of an unsupported format", expected, got, next_step)


def cut_off(path: Path, expected: str, got: str) -> MediaError:
    next_step = "fetch the file again, or repair it: ffmpeg -i FILE out.mp4"
    return media_error(f"{path} is damaged or ends in the middle", expected, got, next_step)
