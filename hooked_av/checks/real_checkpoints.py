"""Tutorial 10: bytes of weights, tokens of a clip, and how far apart picture and sound stand."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace

from hooked_av.checks.judgement import Judgement, exercise, first_mistake
from hooked_av.families.omni.prepare import RELEASED
from hooked_av.media.patches import FRAMES_PER_PATCH, MERGE, TOKEN_PIXELS, VIDEO_BUDGET
from hooked_av.media.sampling import Sampling
from hooked_av.prompt.inputs import AVInputs

NEAR = 0.01  # of all bytes: biases and norms may be counted or not
FILM = (720, 1280)  # height and width, pixels
OTHER = {"n_layers": 3, "d_model": 96, "n_heads": 8, "n_kv": 2, "d_head": 16, "d_mlp": 400, "d_vocab": 500}


@exercise
def weight_bytes(answer: Callable[..., float], sizes: Mapping[str, SimpleNamespace]) -> Judgement:
    """A function of sizes and bytes a number, held to the sizes of the tutorial and to others."""
    for name, size in {**sizes, "another decoder": SimpleNamespace(**OTHER)}.items():
        for each in (2, 4):
            mistake = _of_bytes(float(answer(size, each)) / each, size)
            if mistake:
                return Judgement(False, f"{name}, {each} bytes a number: {mistake.says}")
    told = ", ".join(f"{name} {answer(size, 2) / 1e9:.1f} GB" for name, size in sizes.items())
    return Judgement(True, f"in bfloat16 the decoders take {told}")


def _of_bytes(answer: float, s: SimpleNamespace) -> Judgement | None:
    """What is wrong with a number of weights."""
    query, key = s.d_model * s.d_head * s.n_heads, s.d_model * s.d_head * s.n_kv
    mlp, words = s.d_model * s.d_mlp, s.d_vocab * s.d_model
    layer = 2 * query + 2 * key + 3 * mlp

    def says(n: float) -> bool:
        return abs(answer - n) <= NEAR * n

    right = s.n_layers * layer + 2 * words
    return first_mistake(
        (says(right * 8), "these are bits: a byte has eight"),
        (says(right / 2) or says(right * 2), "a factor of two is off: take bytes_each"),
        (says(s.n_layers * layer), "without the vocabulary, which stands at both ends"),
        (says(s.n_layers * layer + words), "the vocabulary stands at both ends, and these models do not share it"),
        (says(layer + 2 * words), "that is one layer"),
        (says(s.n_layers * (4 * query + 3 * mlp) + 2 * words), "keys and values have fewer heads: n_kv"),
        (says(s.n_layers * (layer - mlp) + 2 * words), "an MLP has three matrices here: gate, in, out"),
        (not says(right), "not that many: attention and MLP of each layer, and the vocabulary twice"),
    )


@exercise
def n_tokens(answer: int, sampling: Sampling, seconds: int) -> Judgement:
    """Video tokens of a film of 1280 x 720 under a budget."""
    seen = sampling.resolved(RELEASED)
    n_frames = round(seconds * seen.fps)
    height, width = seen.budget(VIDEO_BUDGET).fit(n_frames, *FILM)
    frame, pairs = (height // TOKEN_PIXELS) * (width // TOKEN_PIXELS), n_frames // FRAMES_PER_PATCH
    whole = (seen.max_pixels or FILM[0] * FILM[1]) / TOKEN_PIXELS**2
    return first_mistake(
        (answer == frame, "that is one pair of frames"),
        (answer == frame * n_frames, "a token covers two frames"),
        (answer == MERGE**2 * frame * pairs, "these are patches of 14 pixels; four of them are a token"),
        (whole * pairs - 1 <= answer <= whole * pairs + 1, "each side is cut down to whole tokens, of 28 pixels"),
        (answer != frame * pairs, f"a frame becomes {width} x {height} pixels: how many times 28 x 28?"),
    ) or Judgement(
        True, f"{width // TOKEN_PIXELS} x {height // TOKEN_PIXELS} tokens for each of {pairs} pairs of frames"
    )


@exercise
def apart(answer: Mapping[str, int], prompts: Mapping[str, AVInputs]) -> Judgement:
    """The largest distance of picture and sound of one second, in steps of the time id, in each mode."""
    wanted = {mode: max(_gaps(prompt, axis=0)) for mode, prompt in prompts.items()}
    places = {mode: max(_gaps(prompt, axis=None)) for mode, prompt in prompts.items()}
    given = {mode: int(answer.get(mode, -1)) for mode in prompts}
    return first_mistake(
        (set(answer) != set(prompts), f"say it of each mode: {', '.join(prompts)}"),
        (given == places, "these are places in the prompt; the time ids are prompt.position_ids[0, 0]"),
        (given == {mode: max(_gaps(prompt, axis=1)) for mode, prompt in prompts.items()}, "that is the height"),
        (given == dict(zip(wanted, reversed(wanted.values()), strict=True)), "the two modes are swapped"),
        (given == {mode: _gaps(prompt, axis=0)[0] for mode, prompt in prompts.items()}, "that is the first second"),
        (given != wanted, "compare, in each second, the ids of the first video and the first sound token"),
    ) or Judgement(True, f"train: {wanted['train']} steps apart at most; generate: {wanted['generate']}")


def _gaps(prompt: AVInputs, axis: int | None) -> list[int]:
    """Distance of the first video and the first sound token of each second; in places of the prompt without an axis."""
    found = []
    for second in range(round(prompt.clips[0][0].duration_seconds)):
        both = (prompt.spans.between(second, second + 1) & prompt.spans[name] for name in ("video", "audio"))
        first, other = (span.positions[0] for span in both)
        ids = range(prompt.n_pos) if axis is None else prompt.position_ids[axis, 0].tolist()
        found.append(abs(ids[first] - ids[other]))
    return found
