"""Writes docs/hooks.md from the code: every hook point of a model, its axes, and when it exists.

python docs/make_hooks.py
"""

import re
from pathlib import Path

import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from hooked_av.families.salmonn.family import SalmonnFamily
from hooked_av.hooks.point import HookPoint
from hooked_av.model.random import random_omni_config, random_salmonn_config
from hooked_av.model.transformer import HookedAVTransformer

PAGE = Path(__file__).parent / "hooks.md"
WHEN = {
    "hook_audio_embed": "inputs with sound",
    "hook_video_embed": "inputs with video",
    "hook_image_embed": "inputs with pictures",
    "audio.hook_windows": "video-SALMONN 2+, inputs with sound: the encoder frames of each half second",
    "audio.hook_rows": "video-SALMONN 2+, inputs with sound: the Q-Former's output, before the projection",
}
HEAD = """# Hook points

Names and shapes are TransformerLens's wherever the tensor is the same. This table is generated from the code
(`python docs/make_hooks.py`); a test holds it to the model.

*lazy* points are large: they are computed only where a hook or a cache asks for them, and only in the rows that are
asked for (`blocks.5.attn.hook_pattern@last` costs one row a head). `run_with_cache()` without names leaves them out.

Any name takes a span (`blocks.5.hook_resid_post@audio`), attention matrices take `@queries<-keys`
(`blocks.5.attn.hook_pattern@question<-video`), and shell patterns work everywhere (`blocks.*.hook_resid_post@last`).
A span is an index, too: `resid[:, inputs.spans["audio"]]`, `cache["resid_post", 3, "audio"]`; `all` is every token of
the prompt.

In a batch whose prompts have more or fewer tokens of a span, or none, a hook is called once for each prompt that has
any (`hook.prompt` says for which), with a warning; a cache holds their rows one after the other, without a batch axis,
and `cache.rows("blocks.5.hook_resid_post", "audio")` says which row is of which prompt and position.

| name | axes | exists |
|---|---|---|
"""


def hook_table() -> str:
    """The page's text."""
    with torch.device("meta"):
        model = HookedAVTransformer.from_hf(Thinker(random_omni_config(num_hidden_layers=1)))
    points = {**model.hook_dict, **_audio_branch()}
    rows = {re.sub(r"^blocks\.0\.", "blocks.i.", name): point for name, point in points.items()}
    return HEAD + "".join(
        f"| `{name}` | {' '.join(point.axes)} | {when(name, point)} |\n" for name, point in rows.items()
    )


def _audio_branch() -> dict[str, HookPoint]:
    """The points that only video-SALMONN 2+ has."""
    raw = random_salmonn_config(num_hidden_layers=1)
    family = SalmonnFamily(SalmonnFamily.read_config(raw))
    with torch.device("meta"):
        model = HookedAVTransformer(family.decoder_config(tied=True, model_name=""), family, family.make_encoders())
    return {name: model.hook_dict[name] for name in family.encoder_hooks}


def when(name: str, point: HookPoint) -> str:
    """In which runs the point fires."""
    return WHEN.get(name, "lazy" if point.lazy else "always")


if __name__ == "__main__":
    PAGE.write_text(hook_table(), encoding="utf-8")
