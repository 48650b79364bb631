"""What demuxing tells of a file's streams, without decoding: when each packet is shown, and the last ones."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from av.container import InputContainer
from av.stream import Stream

Packet = Any  # PyAV's own takes a type argument, in its types alone


@dataclass
class Packets:
    """Of one stream; ticks are in its time base."""

    ticks: list[int] = field(default_factory=list)
    keyframe_ticks: list[int] = field(default_factory=list)
    end_tick: int = 0
    n_packets: int = 0
    last: deque[Packet] = field(default_factory=lambda: deque(maxlen=2))


def demuxed(container: InputContainer) -> dict[int, Packets]:
    """By the index of the stream."""
    packets = {stream.index: Packets() for stream in container.streams}
    for packet in container.demux():
        seen = packets[packet.stream_index]
        if packet.size:  # the last one of all is an empty one
            seen.last.append(packet)
            seen.n_packets += 1
        tick = packet.dts if packet.pts is None else packet.pts
        if tick is None:
            continue
        seen.end_tick = max(seen.end_tick, tick + (packet.duration or 0))
        if not _is_hidden(packet):
            seen.ticks.append(tick)
            seen.keyframe_ticks += [tick] * packet.is_keyframe
    return packets


def _is_hidden(packet: Packet) -> bool:
    """Edit lists hide packets (`is_discard`), VP8 says so in a bit of the frame header."""
    is_vp8 = codec_name(packet.stream) == "vp8"
    return packet.is_discard or (is_vp8 and not bytes(packet)[0] & 0x10)


def codec_name(stream: Any) -> str | None:
    """None for a track of data (the time codes of many cameras), or of no known codec; PyAV's types hide it."""
    return None if stream.codec_context is None else stream.codec_context.name


def tick_seconds(stream: Stream) -> float:
    return float(stream.time_base or 0)
