"""What a checkpoint calls its tensors, and what we call them: tables of prefixes, read both ways."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

Renames = tuple[tuple[str, str], ...]  # prefix -> prefix; `{}` stands for a layer number

# In files -> here.
DECODER: Renames = (
    ("model.embed_tokens.", "decoder.embed."),
    ("model.norm.", "decoder.ln_final."),
    ("lm_head.", "decoder.unembed."),
    ("model.layers.{}.input_layernorm.", "decoder.blocks.{}.ln1."),
    ("model.layers.{}.post_attention_layernorm.", "decoder.blocks.{}.ln2."),
    ("model.layers.{}.self_attn.", "decoder.blocks.{}.attn."),
    ("model.layers.{}.mlp.", "decoder.blocks.{}.mlp."),
)
VISION_TOWER: Renames = (("visual.", "encoders.visual."),)


@dataclass(frozen=True)
class TensorNames:
    """The names of a family's tensors in files, in transformers' memory, and here.

    in_files: prefixes in files -> ours.
    in_memory: prefixes of a loaded transformers model -> in files, where the two differ.
    skipped: prefixes of tensors that are not ours to load.
    wrapper: what stands before every name in the folder of a larger model.

    >>> names = TensorNames(DECODER, wrapper="thinker.", skipped=("talker.",))
    >>> names.ours("thinker.model.layers.3.self_attn.q_proj.bias")
    'decoder.blocks.3.attn.q_proj.bias'
    >>> names.in_file("decoder.blocks.3.ln1.weight")
    'model.layers.3.input_layernorm.weight'
    >>> names.ours("talker.model.norm.weight") is None
    True
    """

    in_files: Renames
    in_memory: Renames = ()
    skipped: tuple[str, ...] = ()
    wrapper: str = ""

    def ours(self, checkpoint_name: str) -> str | None:
        """Our name of a tensor; None for one that is skipped, the name itself if nobody knows it."""
        if checkpoint_name.startswith(self.skipped):
            return None
        return renamed(renamed(checkpoint_name.removeprefix(self.wrapper), self.in_memory), self.in_files)

    def in_file(self, our_name: str) -> str:
        """The name under which files keep our parameter."""
        return renamed(our_name, ((ours, theirs) for theirs, ours in self.in_files))


def renamed(name: str, table: Iterable[tuple[str, str]]) -> str:
    """`name` with the first matching prefix replaced; `{}` in a prefix stands for a layer number.

    >>> renamed("model.layers.3.mlp.up_proj.weight", [("model.layers.{}.mlp.", "blocks.{}.mlp.")])
    'blocks.3.mlp.up_proj.weight'
    """
    for old, new in table:
        found = re.match(re.escape(old).replace(r"\{\}", r"(\d+)"), name)
        if found:
            return new.format(*found.groups()) + name[found.end() :]
    return name
