"""Whether a file is as long as it says: FFmpeg quietly reads what there is of one that was cut off.

Each format says elsewhere how much there should be, and some say nothing: of a raw stream (mp3 without a Xing header,
ac3, mpg) that ends between two frames nobody can tell.
"""

import av
from av.container import InputContainer

from hooked_av.media.source_file import SourceFile, cut_off

MISSING_SECONDS = 0.25  # a file whose packets end this long before its declared end was cut off
HEAD_BYTES = 8_192
OGG_PAGE_BYTES = 65_307  # at most
TRANSPORT_PACKET_BYTES = (188, 192, 204)  # of MPEG-TS: plain, with a time stamp (m2ts), with error correction


def check_complete(source: SourceFile, container: InputContainer, end_seconds: float, last_is_whole: bool) -> None:
    """`end_seconds`: of the last packet; `last_is_whole`: FFmpeg found as many bytes in it as it should have."""
    if "mov" in container.format.name:
        ends = (entry.pos + entry.size for stream in container.streams for entry in stream.index_entries)
        declared_bytes = max(ends, default=0)
    else:
        declared_bytes = _declared_bytes(source)
    if source.n_bytes < declared_bytes:
        raise cut_off(source.path, f"at least {declared_bytes:,} bytes, as it declares", f"{source.n_bytes:,} bytes")
    # Only these two declare a duration; elsewhere it is estimated from what there is, or includes hidden parts.
    declared_seconds = (container.duration or 0) / av.time_base
    if container.format.name in ("matroska,webm", "flv") and end_seconds < declared_seconds - MISSING_SECONDS:
        raise cut_off(source.path, f"{declared_seconds:.2f} s, as it declares", f"{end_seconds:.2f} s")
    if not last_is_whole or not _ends_whole(source, container.format.name):
        raise cut_off(source.path, "a whole last packet", f"a part of one at byte {source.n_bytes:,}")


def _declared_bytes(source: SourceFile) -> int:
    """The least number of bytes by the file's own head; 0 where it says nothing."""
    with source.path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if head[:3] == b"ID3":  # a tag, with a picture perhaps, before an mp3; 7 bits a byte
            n_tag_bytes = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            file.seek(n_tag_bytes)
            return n_tag_bytes + _xing_bytes(file.read(HEAD_BYTES))
    if head[:4] == b"RIFF":  # WAV, AVI
        declared = int.from_bytes(head[4:8], "little") + 8
    elif head[:4] == b"FORM":  # AIFF
        declared = int.from_bytes(head[4:8], "big") + 8
    elif head[:4] == b".snd":  # AU
        declared = int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")
    else:
        declared = _xing_bytes(head) if head[:1] == b"\xff" else 0
    # Writers that cannot seek back leave a huge placeholder.
    return declared if declared < 2**31 - 1 else 0


def _xing_bytes(head: bytes) -> int:
    """The bytes of an mp3 by the Xing (or Info) header in its first frame."""
    at = max(head.find(b"Xing", 0, 200), head.find(b"Info", 0, 200))
    flags = int.from_bytes(head[at + 4 : at + 8], "big") if at >= 0 else 0
    field = at + 8 + 4 * (flags & 1)  # after the number of frames, if that is there
    return int.from_bytes(head[field : field + 4], "big") if flags & 2 else 0


def _ends_whole(source: SourceFile, format_name: str) -> bool:
    with source.path.open("rb") as file:
        file.seek(max(0, source.n_bytes - OGG_PAGE_BYTES))
        tail = file.read()
    if format_name == "gif":
        return tail.rstrip(b"\0").endswith(b";")
    if format_name == "mpegts":
        return any(source.n_bytes % n_bytes == 0 for n_bytes in TRANSPORT_PACKET_BYTES)
    if format_name == "ogg":
        page = tail[max(0, tail.rfind(b"OggS")) :]
        lengths = page[27 : 27 + page[26]] if len(page) > 27 else b""
        return len(lengths) > 0 and len(page) >= 27 + len(lengths) + sum(lengths)
    return True
