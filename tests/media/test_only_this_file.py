"""A file that names other files or addresses opens none of them, whatever it is called."""

import socket
import struct

import av
import pytest
from av.format import ContainerFormat
from PIL import Image
from support.media import moving_frames, write_file

from hooked_av.errors import MediaError
from hooked_av.media.clip import Clip
from hooked_av.media.source_file import FILM_FORMATS, OPEN_OPTIONS, SOUND_FORMATS

# Every demuxer of FFmpeg's libavformat that opens what it is told to.
NAMES_OTHERS = ["concat", "hls", "dash", "imf", "image2", "sdp", "rtsp", "rtp", "sap", "vobsub", "lavfi", "ffmetadata",
                "webm_dash_manifest", "svg_pipe", "tty"]  # fmt: skip
HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:2.4,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"'
    ' profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
IMF = '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">{}</CompositionPlaylist>'
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\na=control:{}\n"
SCRIPTS = {
    "concat": "ffconcat version 1.0\nfile {}\n",
    "concat with a protocol": "ffconcat version 1.0\nfile 'subfile,,start,0,end,0,,:{}'\n",
    "hls": HLS,
    "hls with a key": HLS.replace("#EXTINF", '#EXT-X-KEY:METHOD=AES-128,URI="{}"\n#EXTINF'),
    "dash": DASH,
    "imf": IMF,
    "sdp": SDP,
    "vobsub": "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:01:000, filepos: 000000000\n# {}\n",
    "rtsp redirect": "RTSP/1.0 301\nLocation: {}\n",
    "a list of ours": "{}\n",
    "quicktime text": "RTSPtext\n{}\n",
}
NAMES = ["x.mp4", "x.ffconcat", "x.m3u8", "x.mpd", "x.sdp", "x.idx", "x.wav", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    write_file(folder / "film.ts")
    return folder


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_list_that_names_a_good_film_is_refused(folder, script, name):
    path = folder / name
    path.write_text(SCRIPTS[script].replace("{}", "film.ts"))
    with pytest.raises(MediaError, match="cannot read"):
        Clip.from_file(path)


@pytest.mark.parametrize(("script", "name"), [("concat", "x.mp4"), ("hls", "x.m3u8")])
def test_ffmpeg_alone_would_open_the_film(folder, script, name):
    """Else the scripts above would prove nothing."""
    path = folder / name
    path.write_text(SCRIPTS[script].replace("{}", "film.ts"))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).width == 64


@pytest.mark.parametrize("name", ["x%d.jpg", "x*.jpg", "x%03d.ppm"])
def test_a_name_is_no_pattern(tmp_path, name):
    for number in ("1", "001", "y"):
        Image.fromarray(moving_frames(1)[0]).save(tmp_path / name.replace("%d", number).replace("%03d", "001"))
    (tmp_path / name).write_text("no picture")
    with pytest.raises(MediaError, match="cannot read"):
        Clip.from_file(tmp_path / name)


def alias(name: bytes) -> bytes:
    """An entry of a film's `dref` that names another file in its folder, as QuickTime wrote it."""
    record = bytes(10) + bytes([3]) + b"abc".ljust(27, b"\0") + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0")
    record += bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    record += struct.pack(">hh", 2, len(name)) + name + struct.pack(">hh", -1, 0)
    return struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record


def referring(boxes: bytes, name: bytes) -> bytes:
    """The mp4 with no media of its own: its tracks lie in the file `name`; boxes around the entry grow."""
    found, at = b"", 0
    while at < len(boxes):
        size, kind = struct.unpack(">I4s", boxes[at : at + 8])
        content = boxes[at + 8 : at + size]
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
            content = referring(content, name)
        elif kind == b"dref":
            content = content.replace(struct.pack(">I4sI", 12, b"url ", 1), alias(name))
        elif kind == b"mdat":
            content = bytes(len(content))
        found += struct.pack(">I4s", 8 + len(content), kind) + content
        at += size
    return found


def test_a_film_whose_tracks_lie_in_another_file(tmp_path):
    film = write_file(tmp_path / "film.mp4", audio=None)
    path = tmp_path / "x.mp4"
    path.write_bytes(referring(film.read_bytes(), b"film.mp4"))
    with av.open(str(path), options={"enable_drefs": "1"}) as container:
        assert next(container.decode(video=0)).width == 64
    with pytest.raises(MediaError, match="damaged"):
        Clip.from_file(path)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("protocol", ["http", "tcp", "rtsp", "rtmp", "ftp", "udp"])
def test_no_socket_is_opened(tmp_path, script, protocol):
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as server:
        server.bind(("127.0.0.1", 0))
        if protocol != "udp":
            server.listen()
        server.setblocking(False)
        path = tmp_path / "x.m3u8"
        path.write_text(SCRIPTS[script].replace("{}", f"{protocol}://127.0.0.1:{server.getsockname()[1]}/film.ts"))
        with pytest.raises(MediaError, match="cannot read"):
            Clip.from_file(path)
        with pytest.raises(BlockingIOError):
            server.recv(1) if protocol == "udp" else server.accept()


def test_the_formats_are_demuxers_and_none_of_them_names_others():
    formats = set(FILM_FORMATS + SOUND_FORMATS)
    assert len(formats) == len(FILM_FORMATS + SOUND_FORMATS)
    assert not formats & set(NAMES_OTHERS)
    assert OPEN_OPTIONS["protocol_whitelist"] == "file"
    for name in formats & av.formats_available:
        assert ContainerFormat(name, "r").is_input


@pytest.mark.filterwarnings("ignore:the sound of .*x.mxf is digital silence")  # it ends before the click
@pytest.mark.parametrize(
    ("name", "video", "audio"),
    [
        *((f"x.{end}", "libx264", "aac") for end in ("mp4", "mov", "mkv", "ts", "flv", "3gp", "nut")),
        *((f"x.{end}", "mpeg2video", "mp2") for end in ("mpg", "vob", "m2ts", "avi")),
        *((f"x.{end}", "wmv2", "ac3") for end in ("wmv", "asf")),
        *(("x.webm", "libvpx-vp9", "libopus"), ("x.rm", "rv10", "ac3")),
        *(("x.mxf", "mpeg2video", "pcm_s16le"), ("x.ivf", "libvpx", None), ("x.m4v", "mpeg4", None)),
        *((f"x.{end}", None, "pcm_s16le") for end in ("wav", "w64", "caf", "mka")),
        *((f"x.{end}", None, "pcm_s16be") for end in ("aiff", "au")),
        *((f"x.{end}", None, "flac") for end in ("flac", "oga")),
        *((f"x.{end}", None, end) for end in ("ac3", "eac3", "mp2", "aac")),
        *(("x.mp3", None, "libmp3lame"), ("x.m4a", None, "aac"), ("x.opus", None, "libopus")),
    ],
)
def test_formats_that_hold_their_media_are_read(tmp_path, name, video, audio):
    path = write_file(tmp_path / name, n_frames=12, seconds=1.5, video=video, audio=audio, rate_hz=48_000)
    clip = Clip.from_file(path)
    assert (clip.has_video, clip.has_audio) == (bool(video), bool(audio))
    assert not video or clip.frames.shape == (12, 48, 64, 3)
