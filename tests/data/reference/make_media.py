"""Small films through ffmpeg, and what ffmpeg itself decodes of them: media/*, media.json, media.npz.

    python tests/data/reference/make_media.py

needs ffmpeg and ffprobe on the path, and numpy. `tests/media/test_against_ffmpeg.py` compares clips with the stored
values, and, where ffmpeg is installed, with what it decodes there and then (through `decoded` below).
"""

import json
import subprocess
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FOLDER = HERE / "media"
STEP = 5  # of rows and columns that are stored
SOUND_STEP = 7  # of samples that are stored
COLOURS = ["-vf", "scale=interl=-1"]  # each field of an interlaced film has colours of its own
# Weights of ITU-R BS.775 by which channels become one; the front ones are equal, the deep one is left out.
MIX = {
    1: [1.0],
    2: [0.5, 0.5],
    6: [0.5**0.5, 0.5**0.5, 1.0, 0.0, 0.5, 0.5],
}
# Blurred, since versions of swscale differ at hard edges of colour.
PICTURE = "testsrc2=size={size}:rate=25:duration=1.2,gblur=sigma=3"
STEREO = "aevalsrc=0.4*sin(2*PI*300*t)|0.3*sin(2*PI*1100*t):sample_rate={rate}:duration=1.2"
SURROUND = (
    "aevalsrc=0.3*sin(2*PI*300*t)|0.3*sin(2*PI*500*t)|0.3*sin(2*PI*700*t)|0.3*sin(2*PI*60*t)|0.3*sin(2*PI*1100*t)"
    "|0.3*sin(2*PI*1300*t):channel_layout=5.1:sample_rate=48000:duration=1.2"
)
SMALL = ["-pix_fmt", "yuv420p", "-g", "12", "-bf", "2", "-crf", "30"]
# name: inputs of lavfi, arguments of the output
FILMS: dict[str, tuple[list[str], list[str]]] = {
    "stereo.mp4": ([PICTURE.format(size="64x48"), STEREO.format(rate=44100)], [*SMALL, "-b:a", "48k"]),
    "surround.mkv": ([PICTURE.format(size="64x48"), SURROUND], [*SMALL, "-c:a", "ac3", "-b:a", "192k"]),
    "tracks.mkv": (
        [PICTURE.format(size="64x48"), PICTURE.format(size="32x32"), STEREO.format(rate=48000), SURROUND],
        ["-map", "0", "-map", "1", "-map", "2", "-map", "3", *SMALL, "-c:a", "ac3", "-b:a", "96k"],
    ),
    "ten_bits.mp4": ([PICTURE.format(size="64x48")], ["-pix_fmt", "yuv420p10le", "-crf", "30", "-g", "12"]),
    "grey.mkv": ([PICTURE.format(size="64x48")], ["-c:v", "ffv1", "-pix_fmt", "gray", "-t", "0.4"]),
    "alpha.mov": (
        [PICTURE.format(size="64x48")],
        ["-vf", "format=rgba,colorchannelmixer=aa=0.5", "-c:v", "qtrle", "-pix_fmt", "argb", "-t", "0.2"],
    ),
    "interlaced.ts": (
        [PICTURE.format(size="64x48")],
        ["-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-vf", "tinterlace=interleave_top", "-q:v", "6"],
    ),
    "odd.webm": ([PICTURE.format(size="63x47")], ["-c:v", "libvpx-vp9", "-crf", "40", "-b:v", "0", "-t", "0.6"]),
    "changing_rate.mkv": (
        [PICTURE.format(size="64x48")],
        [*SMALL, "-vf", "select='not(between(n,5,12))',setpts=PTS+gt(N\\,14)*0.1/TB", "-fps_mode", "vfr"],
    ),
    "late_sound.mkv": ([PICTURE.format(size="64x48"), STEREO.format(rate=22050)], [*SMALL, "-af", "adelay=200:all=1",
                       "-c:a", "flac"]),
}  # fmt: skip


def run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout


def decoded(path: Path) -> dict[str, np.ndarray]:
    """What ffmpeg and ffprobe say of a film: frames, their times, and the sound mixed and resampled to 16 kHz."""
    probe = ("ffprobe", "-v", "error", "-of", "json")
    streams = json.loads(run(*probe, "-show_streams", str(path)))["streams"]
    shown = json.loads(
        run(*probe, "-select_streams", "v:0", "-show_entries", "frame=best_effort_timestamp_time", str(path))
    )
    video = next(stream for stream in streams if stream["codec_type"] == "video")
    audio = next((stream for stream in streams if stream["codec_type"] == "audio"), None)
    first_seconds = min(float(stream.get("start_time", 0.0)) for stream in (video, audio) if stream)
    seconds = [float(frame["best_effort_timestamp_time"]) for frame in shown["frames"]]
    reading = ("ffmpeg", "-v", "error", "-i", str(path))
    raw = run(
        *reading, "-map", "0:v:0", "-fps_mode", "passthrough", *COLOURS, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"
    )
    frames = np.frombuffer(raw, np.uint8).reshape(-1, video["height"], video["width"], 3)
    found = {"frames": frames, "seconds": np.array(seconds) - first_seconds}
    if audio:
        n_channels = audio["channels"]
        weights = np.array(MIX[n_channels]) / sum(MIX[n_channels])
        mix = "pan=mono|c0=" + "+".join(f"{weight:.9f}*c{channel}" for channel, weight in enumerate(weights))
        mono = run(*reading, "-map", "0:a:0", "-af", f"{mix},aresample=16000", "-f", "f32le", "-")
        found["sound"] = np.frombuffer(mono, np.float32)
        found["sound_start"] = np.array(float(audio.get("start_time", 0.0)) - first_seconds)
    return found


def thin(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The part of it that is stored."""
    kept = dict(found, frames=found["frames"][:, ::STEP, ::STEP], shape=np.array(found["frames"].shape))
    if "sound" in found:
        kept |= {"sound": found["sound"][::SOUND_STEP].astype(np.float16), "n_samples": np.array(len(found["sound"]))}
    return kept


def make() -> None:
    FOLDER.mkdir(exist_ok=True)
    stored = {}
    for name, (inputs, arguments) in FILMS.items():
        given = [word for source in inputs for word in ("-f", "lavfi", "-i", source)]
        same = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-threads", "1"]
        arguments = [*same, *arguments] if "-flags" not in arguments else arguments
        run("ffmpeg", "-v", "error", "-y", *given, *arguments, str(FOLDER / name))
        stored |= {f"{name}/{key}": value for key, value in thin(decoded(FOLDER / name)).items()}
    np.savez_compressed(HERE / "media.npz", allow_pickle=False, **stored)


if __name__ == "__main__":
    make()
