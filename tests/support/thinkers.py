"""Small random Qwen2.5-Omni thinkers of transformers, and prompts as the tensors that its processor would return."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Qwen2_5OmniThinkerConfig
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from hooked_av.families.omni.layout import audio_tokens
from hooked_av.model.random import randomise
from hooked_av.prompt.positions import AudioPiece, AVPiece, OmniClock, VisionPiece, omni_interleave

AUDIO, IMAGE, VIDEO = 300, 301, 302
AUDIO_BEGIN, AUDIO_END, VISION_BEGIN, VISION_END = 303, 304, 305, 306
D_VOCAB = 320


def thinker_config(*, n_kv: int = 2, theta: float = 100.0, eps: float = 1e-6, n_layers: int = 3, **text):
    """Small theta and three distinct axes, so that a fault in the positions shows."""
    text_config = {
        "hidden_size": 64,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": n_kv,
        "head_dim": 16,
        "intermediate_size": 96,
        "vocab_size": D_VOCAB,
        "rms_norm_eps": eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": [2, 3, 3]},
        **text,
    }
    return Qwen2_5OmniThinkerConfig(
        text_config=text_config,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        audio_config={
            "encoder_layers": 2,
            "d_model": 32,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "output_dim": 64,
        },
        audio_token_index=AUDIO,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        audio_start_token_id=AUDIO_BEGIN,
        audio_end_token_id=AUDIO_END,
        vision_start_token_id=VISION_BEGIN,
        vision_end_token_id=VISION_END,
    )


def make_thinker(attn: str = "sdpa", dtype: torch.dtype = torch.float32, seed: int = 0, **config) -> Thinker:
    """A random thinker in which every parameter is random, gains and biases too."""
    cfg = thinker_config(**config)
    cfg._attn_implementation = attn
    torch.manual_seed(seed)
    thinker = Thinker._from_config(cfg, attn_implementation=attn, dtype=dtype).eval()
    randomise(thinker)
    return thinker


@dataclass
class PromptMaker:
    """Builds one prompt's ids and features piece by piece, with random content."""

    seed: int = 0
    ids: list[int] = field(default_factory=list)
    sounds: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    videos: list[Tensor] = field(default_factory=list)
    grids: dict[str, list[tuple[int, int, int]]] = field(default_factory=lambda: {"image": [], "video": []})
    seconds: list[float] = field(default_factory=list)
    sound_in_video: bool = False

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def text(self, n: int) -> "PromptMaker":
        self.ids += torch.randint(0, 290, (n,), generator=self.generator).tolist()
        return self

    def audio(self, n_mel: int) -> "PromptMaker":
        self.ids += [AUDIO_BEGIN, *[AUDIO] * self._sound(n_mel), AUDIO_END]
        return self

    def image(self, rows: int, cols: int) -> "PromptMaker":
        self.ids += [VISION_BEGIN, *[IMAGE] * self._picture("image", 1, rows, cols), VISION_END]
        return self

    def video(self, groups: int, rows: int, cols: int, seconds: float = 1.0) -> "PromptMaker":
        self.ids += [VISION_BEGIN, *[VIDEO] * self._picture("video", groups, rows, cols), VISION_END]
        self.seconds.append(seconds)
        return self

    def av(self, groups: int, rows: int, cols: int, n_mel: int, seconds: float = 1.0) -> "PromptMaker":
        self._picture("video", groups, rows, cols)
        self.seconds.append(seconds)
        piece = AVPiece(VisionPiece((groups, rows, cols), seconds), AudioPiece(self._sound(n_mel)))
        body = [VIDEO if is_video else AUDIO for is_video in omni_interleave(piece, OmniClock()).tolist()]
        self.ids += [VISION_BEGIN, AUDIO_BEGIN, *body, AUDIO_END, VISION_END]
        self.sound_in_video = True
        return self

    def _sound(self, n_mel: int) -> int:
        self.sounds.append(torch.randn(128, n_mel, generator=self.generator))
        return audio_tokens(n_mel)

    def _picture(self, kind: str, groups: int, rows: int, cols: int) -> int:
        patches = torch.randn(groups * rows * cols * 4, 1176, generator=self.generator)
        (self.images if kind == "image" else self.videos).append(patches)
        self.grids[kind].append((groups, rows * 2, cols * 2))
        return groups * rows * cols

    def tensors(self) -> dict:
        """Named as transformers' processor names them."""
        out: dict = {"input_ids": torch.tensor([self.ids]), "attention_mask": torch.ones(1, len(self.ids)).long()}
        if self.sounds:
            width = max(sound.shape[1] for sound in self.sounds)
            pad = torch.nn.functional.pad
            out["input_features"] = torch.stack([pad(s, (0, width - s.shape[1])) for s in self.sounds])
            masks = [pad(torch.ones(s.shape[1]), (0, width - s.shape[1])) for s in self.sounds]
            out["feature_attention_mask"] = torch.stack(masks).long()
        if self.images:
            out["pixel_values"], out["image_grid_thw"] = torch.cat(self.images), torch.tensor(self.grids["image"])
        if self.videos:
            out["pixel_values_videos"] = torch.cat(self.videos)
            out["video_grid_thw"] = torch.tensor(self.grids["video"])
            out["video_second_per_grid"] = torch.tensor(self.seconds)
        return {**out, "use_audio_in_video": self.sound_in_video}


def prompts() -> dict[str, PromptMaker]:
    """One prompt of each kind."""
    return {
        "text": PromptMaker(1).text(17),
        "audio": PromptMaker(2).text(5).audio(230).text(6),
        "two sounds": PromptMaker(8).text(5).audio(230).text(2).audio(150).text(6),
        "image": PromptMaker(3).text(4).image(3, 5).text(7),
        "video": PromptMaker(4).text(4).video(3, 2, 4).text(5),
        "audio in video": PromptMaker(5).text(4).av(5, 2, 3, 470).text(6),
        "interleaved": PromptMaker(6).text(3).image(2, 3).text(2).audio(150).audio(90).video(2, 3, 2, 0.4).text(5),
        "two clips": PromptMaker(7).text(3).av(3, 2, 2, 260).text(2).av(2, 3, 1, 333, 2.4).image(2, 2).text(5),
    }


def published_logits(thinker: Thinker, tensors: dict) -> Tensor:
    """What transformers computes, positions included."""
    thinker.model.rope_deltas = None
    with torch.no_grad():
        return thinker(**tensors).logits
