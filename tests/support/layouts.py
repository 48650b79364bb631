"""Random prompts and random small models of each family: what property tests draw from, by seed."""

from dataclasses import dataclass
from random import Random
from typing import Any

from hooked_av.families.salmonn.layout import audio_tokens_after_groups
from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.prompt.positions import AudioPiece, AVPiece, VisionPiece
from support.salmonn import SOUND_TOKENS, SalmonnPrompt, make_salmonn
from support.thinkers import PromptMaker, make_thinker

N_KV = (1, 2, 4)


@dataclass(frozen=True)
class Omni:
    """Qwen2.5-Omni: any mix of media, several of each, with text between them."""

    name = "omni"

    def model(self, seed: int) -> HookedAVTransformer:
        return HookedAVTransformer.from_hf(make_thinker(n_kv=N_KV[seed % 3], n_layers=3 + seed % 2, seed=seed))

    def prompt(self, seed: int) -> dict[str, Any]:
        choose = Random(seed)
        prompt = PromptMaker(seed).text(choose.randint(1, 6))
        # sound belongs to every video of a prompt, or to none
        kinds = choose.choice([["image", "audio", "video"], ["image", "av"], ["av"], ["text"]])
        for _ in range(choose.randint(1, 3)):
            kind = choose.choice(kinds)
            rows, cols = choose.randint(1, 3), choose.randint(1, 4)
            groups, seconds = choose.randint(1, 4), choose.uniform(0.2, 2.5)
            n_mel = choose.randint(20, 300)
            if kind == "image":
                prompt.image(rows, cols)
            elif kind == "audio":
                prompt.audio(n_mel)
            elif kind == "video":
                prompt.video(groups, rows, cols, seconds)
            elif kind == "av":
                prompt.av(groups, rows, cols, n_mel, seconds)
            prompt.text(choose.randint(0, 3))
        return prompt.text(choose.randint(5, 9)).tensors()


@dataclass(frozen=True)
class Salmonn:
    """video-SALMONN 2+: the mixes that the published model can take."""

    name = "salmonn"

    def model(self, seed: int) -> HookedAVTransformer:
        return make_salmonn(n_kv=N_KV[seed % 3], n_layers=3 + seed % 2, seed=seed)

    def prompt(self, seed: int) -> dict[str, Any]:
        choose = Random(seed)
        prompt = SalmonnPrompt(seed).text(choose.randint(1, 6))
        kind = choose.choice(["pictures", "sounds", "video", "av", "av", "text"])
        rows, cols = choose.randint(1, 3), choose.randint(1, 4)
        groups, seconds = choose.randint(1, 5), choose.uniform(0.2, 2.5)
        if kind == "pictures":
            for _ in range(choose.randint(1, 2)):
                prompt.image(rows, cols).text(choose.randint(0, 3))
        if kind == "sounds":
            for _ in range(choose.randint(1, 2)):
                prompt.audio(choose.randint(1, 2)).text(choose.randint(0, 3))
        if kind == "video":
            prompt.video(groups, rows, cols, seconds)
        if kind == "av":
            piece = AVPiece(VisionPiece((groups, rows, cols), seconds), AudioPiece(SOUND_TOKENS))
            prompt.av(audio_tokens_after_groups(piece).tolist(), rows, cols, seconds)
        return {**prompt.text(choose.randint(5, 9)).tensors(), "positions": choose.choice(["generate", "train"])}


RANDOM = {family.name: family for family in (Omni(), Salmonn())}
