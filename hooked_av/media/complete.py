"""Whether a file is as long as it says: FFmpeg quietly reads what there is of one that was cut off.

Each format says elsewhere how much there should be, and some say nothing: of one that is a row of frames (mp3 without a
Xing header, ac3, mpg, y4m, dv) and that ends between two of them nobody can tell (docs/not_silent.md).
"""

from collections.abc import Mapping

import av
from av.codec import CodecContext
from av.container import InputContainer

from hooked_av.media.packets import Packet, Packets, codec_name, tick_seconds
from hooked_av.media.source_file import SourceFile, cut_off, opened

MISSING_SECONDS = 0.25  # a file whose packets end this long before its declared end was cut off
HEAD_BYTES = 8_192
OGG_PAGE_BYTES = 65_307  # at most
TRANSPORT_PACKET_BYTES = (188, 192, 204)  # of MPEG-TS: plain, with a time stamp (m2ts), with error correction


def check_complete(source: SourceFile, container: InputContainer, packets: Mapping[int, Packets]) -> None:
    """Refuse a file that has less than it declares, or that ends in the middle of a packet.

    Errors: `MediaError`.
    """
    name, n_bytes = container.format.name, f"{source.n_bytes:,} bytes"
    if "mov" in name:
        ends = (entry.pos + entry.size for stream in container.streams for entry in stream.index_entries)
        declared_bytes = max(ends, default=0)
    else:
        declared_bytes = _declared_bytes(source)
    if source.n_bytes < declared_bytes:
        raise cut_off(source.path, f"at least {declared_bytes:,} bytes, as it declares", n_bytes)
    # Only these declare a duration; elsewhere it is estimated from what there is, or includes hidden parts.
    end_seconds = max(packets[stream.index].end_tick * tick_seconds(stream) for stream in container.streams)
    declared_seconds = (container.duration or 0) / av.time_base
    if name in ("matroska,webm", "flv") and end_seconds < declared_seconds - MISSING_SECONDS:
        raise cut_off(source.path, f"{declared_seconds:.2f} s, as it declares", f"{end_seconds:.2f} s")
    length, n_ticks = _declared_ticks(source, name), max(packets[0].n_packets, packets[0].end_tick)
    if length > n_ticks:
        raise cut_off(source.path, f"{length:,} frames or samples, as it declares", f"{n_ticks:,}")
    if not _ends_whole(source, name, packets):
        raise cut_off(source.path, "a whole last packet", f"a part of one at byte {source.n_bytes:,}")


# ---- What a head declares --------------------------------------------------------------------------------------------


def _declared_bytes(source: SourceFile) -> int:
    """The least number of bytes by the file's own head; 0 where it says nothing."""
    with source.path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if head[:3] == b"ID3":  # a tag, with a picture perhaps, before an mp3; 7 bits a byte
            n_tag_bytes = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            file.seek(n_tag_bytes)
            return n_tag_bytes + _xing_bytes(file.read(HEAD_BYTES))
        if head[:4] == b"\x30\x26\xb2\x75":  # ASF: after its header comes the object that holds all packets
            data_at = int.from_bytes(head[16:24], "little")
            file.seek(data_at + 16)
            declared = data_at + int.from_bytes(file.read(8), "little")
        elif head[:4] == b".RMF":
            declared = _real_media_bytes(head)
        elif head[:4] == b"RIFF":  # WAV, AVI
            declared = int.from_bytes(head[4:8], "little") + 8
        elif head[:4] == b"FORM":  # AIFF
            declared = int.from_bytes(head[4:8], "big") + 8
        elif head[:4] == b".snd":  # AU
            declared = int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")
        elif head[:4] == b".SoX":  # samples of 4 bytes
            declared = 4 + int.from_bytes(head[4:8], "little") + 4 * int.from_bytes(head[8:16], "little")
        else:
            declared = _xing_bytes(head) if head[:1] == b"\xff" else 0
    # Writers that cannot seek back leave a huge placeholder.
    return declared if declared < 2**31 - 1 else 0


def _real_media_bytes(head: bytes) -> int:
    """Where the part of a RealMedia file ends that holds the packets: parts are a name, a size, and what they hold."""
    at = 0
    while at + 8 <= len(head):
        size = int.from_bytes(head[at + 4 : at + 8], "big")
        if head[at : at + 4] == b"DATA":
            return at + size - 18  # FFmpeg counts its head too often
        at += max(size, 8)
    return 0


def _declared_ticks(source: SourceFile, format_name: str) -> int:
    """The length that the head says, of formats with one stream; 0 where it says nothing."""
    with source.path.open("rb") as file:
        head = file.read(32)
    if format_name == "flac" and head[:4] == b"fLaC":  # the last 36 bits before a checksum
        return int.from_bytes(head[21:26], "big") % 2**36
    if format_name == "ivf":  # frames or ticks, by who wrote it
        length = int.from_bytes(head[24:28], "little")
        return length if length < 2**31 - 1 else 0
    return 0


def _xing_bytes(head: bytes) -> int:
    """The bytes of an mp3 by the Xing (or Info) header in its first frame."""
    at = max(head.find(b"Xing", 0, 200), head.find(b"Info", 0, 200))
    flags = int.from_bytes(head[at + 4 : at + 8], "big") if at >= 0 else 0
    field = at + 8 + 4 * (flags & 1)  # after the number of frames, if that is there
    return int.from_bytes(head[field : field + 4], "big") if flags & 2 else 0


# ---- How a file ends -------------------------------------------------------------------------------------------------


def _ends_whole(source: SourceFile, format_name: str, packets: Mapping[int, Packets]) -> bool:
    if any(seen.last and seen.last[-1].is_corrupt for seen in packets.values()):  # FFmpeg found too few bytes in it
        return False
    with source.path.open("rb") as file:
        file.seek(max(0, source.n_bytes - OGG_PAGE_BYTES))
        tail = file.read()
    match format_name:
        case "gif":
            return tail.rstrip(b"\0").endswith(b";")
        case "mpegts":
            return any(source.n_bytes % n_bytes == 0 for n_bytes in TRANSPORT_PACKET_BYTES)
        case "ogg":
            page = tail[max(0, tail.rfind(b"OggS")) :]
            lengths = page[27 : 27 + page[26]] if len(page) > 27 else b""
            return len(lengths) > 0 and len(page) >= 27 + len(lengths) + sum(lengths)
        case "yuv4mpegpipe" | "dv":  # nothing follows the last picture
            ends = [packet.pos + packet.size for seen in packets.values() for packet in seen.last if packet.pos]
            return not ends or max(ends) == source.n_bytes
        case "mpeg" | "rm":
            return _stored_packets_are_whole(source)
        case "mp3" | "ac3" | "eac3" | "aac":
            return all(_last_frame_is_whole(*seen.last) for seen in packets.values() if len(seen.last) == 2)
        case _:
            return True


def _stored_packets_are_whole(source: SourceFile) -> bool:
    """FFmpeg makes frames of the packets that are stored, and forgets that the last of these was not whole."""
    is_whole = True
    with opened(source, fflags="noparse+nofillin") as container:
        for packet in container.demux():
            is_whole = not packet.is_corrupt if packet.size else is_whole
    return is_whole


def _last_frame_is_whole(before: Packet, last: Packet) -> bool:
    """Whether FFmpeg's parser finds the frame's own length in it, or goes on into another one that is put behind it.

    What does not begin as frames do (a tag, zeros) is no frame.
    """
    codec = codec_name(last.stream)
    if codec is None or bytes(last)[:2] != bytes(before)[:2]:
        return True
    parser = CodecContext.create(codec, "r")
    found = [packet.size for packet in (*parser.parse(bytes(last) + bytes(before)), *parser.parse())]
    return not found or found[0] <= last.size
