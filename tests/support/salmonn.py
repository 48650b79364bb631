"""video-SALMONN 2+ for tests: the published class's tiny checkpoint and numbers, and prompts of every kind."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Qwen2_5_VLTextModel

from hooked_av.errors import HookedAVWarning
from hooked_av.families.salmonn.family import SalmonnFamily
from hooked_av.model.random import random_salmonn_config, randomise
from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.prompt.inputs import AVInputs

FOLDER = Path(__file__).parent.parent / "data" / "salmonn2plus"
VISION_BEGIN, VISION_END, IMAGE, VIDEO, AUDIO = 300, 301, 302, 303, 304
SOUND_TOKENS = 60  # of a block of 30 s
FEATURES = (
    "pixel_values_videos",
    "video_grid_thw",
    "pixel_values",
    "image_grid_thw",
    "audio_feature",
    "second_per_grid",
)


def load_folder(folder: Path = FOLDER, **options) -> HookedAVTransformer:
    """A checkpoint folder without tokenizer, and without the word about that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*has no tokenizer files", HookedAVWarning)
        return HookedAVTransformer.from_pretrained(folder, **options)


def make_salmonn(*, n_kv: int = 2, n_layers: int = 3, seed: int = 0) -> HookedAVTransformer:
    """A random model with the ids of the tiny checkpoint; as in `make_thinker`, small theta so that positions count."""
    raw = random_salmonn_config(
        num_hidden_layers=n_layers, num_key_value_heads=n_kv, intermediate_size=96, vocab_size=320, rope_theta=100.0
    )
    ids = {"image": IMAGE, "video": VIDEO, "audio": AUDIO, "vision_start": VISION_BEGIN, "vision_end": VISION_END}
    family = SalmonnFamily(SalmonnFamily.read_config(raw | {f"{name}_token_id": i for name, i in ids.items()}))
    torch.manual_seed(seed)
    cfg = family.decoder_config(tied=True, model_name=f"salmonn {seed}")
    model = HookedAVTransformer(cfg, family, family.make_encoders())
    randomise(model)
    return model.eval()


@dataclass(frozen=True)
class Case:
    """One prompt that the published class ran, in one position mode, and what it gave."""

    name: str
    tensors: dict[str, Tensor]

    @property
    def mode(self) -> str:
        """Prompts of text and pictures are counted the same way in both modes."""
        return "train" if self.name.endswith("train") else "generate"

    @property
    def prompt(self) -> dict[str, Tensor]:
        return {name: self.tensors[name] for name in ("input_ids", *FEATURES) if name in self.tensors}

    def inputs(self, model: HookedAVTransformer, **changes) -> AVInputs:
        return model.inputs_from_tensors(**{**self.prompt, "positions": self.mode, **changes})


@cache
def cases() -> dict[str, Case]:
    """Every case by name."""
    stored = load_file(FOLDER / "cases.safetensors") | load_file(FOLDER / "outputs.safetensors")
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in sorted(stored.items()):
        case, name = key.split(".")
        found.setdefault(case, {})[name] = tensor
    return {name: Case(name, tensors) for name, tensors in found.items()}


def reference_decoder(inputs: AVInputs) -> tuple[nn.Module, Callable[[], Tensor]]:
    """transformers' Qwen2.5-VL text model, eager, and what runs it on our embeddings and positions, to logits.

    The published decoder is the same, operation by operation.
    """
    model = load_folder()
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs, names_filter="hook_inputs_embed")
    text_model = Qwen2_5_VLTextModel._from_config(
        model.family.hf_config.text_config, attn_implementation="eager"
    ).eval()
    stored = load_file(FOLDER / "model.safetensors").items()
    text_model.load_state_dict({n.removeprefix("model."): t for n, t in stored if n.startswith("model.")})

    def run() -> Tensor:
        out = text_model(inputs_embeds=cache["hook_inputs_embed"], position_ids=inputs.position_ids)
        return model.unembed(out.last_hidden_state)

    return text_model, run


class SalmonnPrompt:
    """Builds one prompt's ids and features piece by piece, with random content (ids of the tiny checkpoint)."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.ids: list[int] = []
        self.features: dict[str, list[Tensor]] = {}

    def text(self, n: int) -> "SalmonnPrompt":
        self.ids += torch.randint(0, 290, (n,), generator=self.generator).tolist()
        return self

    def audio(self, blocks: int = 1) -> "SalmonnPrompt":
        return self._block([AUDIO] * self._sound(blocks))

    def image(self, rows: int, cols: int) -> "SalmonnPrompt":
        return self._block([IMAGE] * self._picture("pixel_values", "image_grid_thw", 1, rows, cols))

    def video(self, groups: int, rows: int, cols: int, seconds: float = 1.0) -> "SalmonnPrompt":
        self.features.setdefault("second_per_grid", []).append(torch.tensor([seconds]))
        return self._block([VIDEO] * self._picture("pixel_values_videos", "video_grid_thw", groups, rows, cols))

    def av(self, after: list[int], rows: int, cols: int, seconds: float) -> "SalmonnPrompt":
        """`after`: how many audio tokens follow each frame group; written out, so that the rule is tested, not used."""
        self.features.setdefault("second_per_grid", []).append(torch.tensor([seconds]))
        self._picture("pixel_values_videos", "video_grid_thw", len(after), rows, cols)
        self._sound(sum(after) // SOUND_TOKENS)
        return self._block([token for n in after for token in [VIDEO] * (rows * cols) + [AUDIO] * n])

    def _block(self, body: list[int]) -> "SalmonnPrompt":
        self.ids += [VISION_BEGIN, *body, VISION_END]
        return self

    def _sound(self, blocks: int) -> int:
        self.features.setdefault("audio_feature", []).append(torch.randn(blocks, 128, 3000, generator=self.generator))
        return blocks * SOUND_TOKENS

    def _picture(self, pixels: str, grid: str, groups: int, rows: int, cols: int) -> int:
        patches = torch.randn(groups * rows * cols * 4, 1176, generator=self.generator)
        self.features.setdefault(pixels, []).append(patches)
        self.features.setdefault(grid, []).append(torch.tensor([[groups, 2 * rows, 2 * cols]]))
        return groups * rows * cols

    def tensors(self) -> dict[str, Tensor]:
        """Named as `inputs_from_tensors` names them."""
        joined = {name: torch.cat(parts) for name, parts in self.features.items()}
        return {"input_ids": torch.tensor([self.ids]), **joined}


def salmonn_prompts() -> dict[str, SalmonnPrompt]:
    """One prompt of each kind, under the names of `thinkers.prompts` where both families have it."""
    return {
        "text": SalmonnPrompt(1).text(17),
        "audio": SalmonnPrompt(2).text(5).audio().text(6),
        "two sounds": SalmonnPrompt(8).text(5).audio(2).text(2).audio().text(6),
        "image": SalmonnPrompt(3).text(4).image(3, 5).text(7),
        "video": SalmonnPrompt(4).text(4).video(3, 2, 4).text(5),
        "audio in video": SalmonnPrompt(5).text(4).av([1, 2, 1, 2, 54], 2, 3, 0.75).text(6),
    }


def distance(ours, published):
    assert ours.shape == published.shape
    return float((ours - published).abs().max() / published.abs().max())
