"""Full-size models for `large.py`: random weights of the released shapes, a film, and how a run is measured."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import forward
import numpy as np
import sweep
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoTokenizer
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from hooked_av.interventions.specs import Intervention
from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip
from hooked_av.model.random import TOKENIZER_FOLDER, mel_extractor, random_omni_config, randomise, released_omni_config
from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.prompt.inputs import AVInputs

QUESTION = (
    "Look at the whole film and listen to all of its sound. Which of the people that you can see is speaking in the "
    "second half, and what happens in the picture right before the voice is heard for the first time?"
)
WINDOW = 9


@dataclass(frozen=True)
class Size:
    """What a shape is measured with."""

    frames: tuple[int, int, int]  # of the film: number, height, width; 2 a second
    n_cut: int  # tokens of the text that is cut
    n_new: int  # tokens written
    repeats: int
    n_naive: int  # cells of the map that are also run as full passes


SIZES = {
    "3b": Size((20, 720, 1280), 2048, 32, 4, 6),
    "7b": Size((20, 720, 1280), 2048, 32, 4, 6),
    "tiny": Size((4, 56, 84), 64, 4, 1, 2),
}


@dataclass(frozen=True)
class Bench:
    """The same tensors in transformers and in hooked_av, and what they run on.

    `film` is the whole prompt. `inputs` is the same for the decoder alone: same layout, spans and positions, with
    random words where the rows of the encoders would be.
    """

    thinker: Any
    model: HookedAVTransformer
    film: AVInputs
    inputs: AVInputs
    size: Size

    @property
    def device(self) -> torch.device:
        return self.model.device

    def clean(self) -> Tensor:
        """The unit: one forward pass, read at the last position."""
        return self.model(self.inputs, logits_at="last")

    def map_specs(self) -> list[Intervention]:
        """Six pathways, cut around every layer."""
        return sweep.cuts(sweep.PATHWAYS, self.model.cfg, min(WINDOW, self.model.cfg.n_layers))

    def run_map(self) -> Tensor | None:
        """The whole map, its clean pass included."""
        return self.model.baseline(self.inputs, touched="question|last").run(self.map_specs()).logits

    def published(self, inputs: AVInputs) -> Tensor:
        """transformers' logits, with our position ids where there is no medium to compute them from."""
        given = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask.long(), "use_cache": False}
        if inputs.features:
            return self.thinker(**given, **inputs.features, use_audio_in_video=True).logits
        return self.thinker(**given, position_ids=inputs.position_ids).logits


# --- models and prompts ----------------------------------------------------------------------------------------------


def make_bench(shape: str, device: torch.device, dtype: torch.dtype) -> Bench:
    """Random weights made where they are used, and a film with sound in front of a question."""
    torch.manual_seed(0)
    config = random_omni_config(num_hidden_layers=2) if shape == "tiny" else released_omni_config(shape)
    with torch.device(device):
        thinker = Thinker._from_config(config, attn_implementation="sdpa", dtype=dtype).eval()
    _exact_rotary(thinker)
    randomise(thinker)
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER_FOLDER)
    model = HookedAVTransformer.from_hf(thinker, tokenizer, mel_extractor())
    film = model.prepare(make_clip(SIZES[shape]), question=QUESTION)
    return Bench(thinker, model, film, without_media(film), SIZES[shape])


def _exact_rotary(thinker: Any) -> None:
    """Frequencies computed on the processor, as a checkpoint's are; a GPU's powers differ in the last bit."""
    text = getattr(thinker.model, "language_model", thinker.model)  # one level down since transformers 5.21
    steps = torch.arange(0, 2 * len(text.rotary_emb.inv_freq), 2, device="cpu").float()
    exact = 1.0 / (text.config.rope_parameters["rope_theta"] ** (steps / (2 * len(steps))))
    text.rotary_emb.inv_freq.copy_(exact)


def make_clip(size: Size) -> Clip:
    """A film of noise, and a sound of noise."""
    n_frames, height, width = size.frames
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (n_frames, height, width, 3), dtype=np.uint8)
    sound = rng.standard_normal(n_frames * SAMPLING_RATE_HZ // 2).astype(np.float32) / 10
    return Clip.from_arrays(frames, 2, np.clip(sound, -1, 1), SAMPLING_RATE_HZ)


def without_media(film: AVInputs, seed: int = 1) -> AVInputs:
    """The prompt with words in the places of the media."""
    places = torch.from_numpy(film.spans["av"].positions.copy())
    ids = film.input_ids.clone().cpu()
    ids[0, places] = torch.randint(1000, 100_000, (len(places),), generator=torch.Generator().manual_seed(seed))
    return replace(film, input_ids=ids.to(film.device), features={}, clips=())


# --- measuring -------------------------------------------------------------------------------------------------------


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one run, until the device has finished it."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def compare(run: Callable[[], Any], unit: Callable[[], Any], bench: Bench, repeats: int = 0) -> dict[str, float]:
    """Time of a run in units of another one next to it, in turns of who goes first; the first pair warms up."""
    pairs = []
    for number in range(1 + (repeats or bench.size.repeats)):
        if number % 2:
            pair = seconds(run, bench.device), seconds(unit, bench.device)
        else:
            pair = (seconds(unit, bench.device), seconds(run, bench.device))[::-1]
        pairs.append(pair)
    own, units = zip(*pairs[1:], strict=True)
    ratios = [a / b for a, b in pairs[1:]]
    figures = {"seconds": statistics.median(own), "unit_seconds": statistics.median(units)}
    return {**figures, "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


class _Operations(TorchDispatchMode):
    """Counts operations that compute something; on a GPU each is a launch or more."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += not func.is_view
        return func(*args, **(kwargs or {}))


def count_operations(run: Callable[[], Any]) -> int:
    """How many tensor operations a run consists of, views not counted."""
    with _Operations() as counter:
        run()
    return counter.n


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """The most that a run held at one time, beyond what lived before it."""
    if device.type != "cuda":
        return forward.peak_bytes(run)
    gc.collect()
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def difference(found: Tensor, wanted: Tensor, clean: Tensor) -> dict[str, Any]:
    """How far two rows of logits are apart, in standard deviations of the clean ones, and whether the answer is one."""
    found, wanted, clean = (logits.float().flatten() for logits in (found, wanted, clean))
    spread, best = float(clean.std()), wanted.topk(2).values
    return {
        "differs_by": float((found - wanted).abs().max()) / spread,
        "effect": float((wanted - clean).abs().max()) / spread,
        "argmax_equal": bool(found.argmax() == wanted.argmax()),
        "gap_to_second": float(best[0] - best[1]) / spread,
    }
