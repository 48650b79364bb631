"""What TransformerLens's users and tools ask of a model, and what is nothing but another way to say what is here.

Axes: layer head d_model; as TransformerLens has them.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, nn
from transformer_lens.model_bridge.composition_scores import CompositionScores
from transformer_lens.utilities import composition_scores  # pyright: ignore[reportPrivateImportUsage] - its own way

from hooked_av.decoder.decoder import Blocks, HookedDecoder
from hooked_av.decoder.weights import ModelViews
from hooked_av.doors import door
from hooked_av.errors import HookedAVWarning

_PER_LAYER = {
    "ln1": ("w",),
    "attn": ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"),
    "ln2": ("w",),
    "mlp": ("W_in", "W_gate", "W_out", "b_in", "b_out"),
}
_OF_KEY_HEADS = ("W_K", "W_V", "b_K", "b_V")


class LensSurface(ModelViews):
    """`all_head_labels`, `all_composition_scores`, `tl_parameters`, `set_use_attn_result`, ... of a hooked model."""

    decoder: HookedDecoder

    @property
    def blocks(self) -> Blocks:
        return self.decoder.blocks

    @property
    def all_head_labels(self) -> list[str]:
        """L0H0, L0H1, ...: every head, in the order of `cache.stack_head_results()`."""
        cfg = self.decoder.cfg
        return [f"L{layer}H{head}" for layer in range(cfg.n_layers) for head in range(cfg.n_heads)]

    @property
    def attn_head_labels(self) -> list[str]:
        return self.all_head_labels

    @door
    def all_composition_scores(self, mode: Literal["Q", "K", "V"]) -> CompositionScores:
        """How much each head reads of what each earlier head writes [layer, head, layer, head]; 0 if it is not earlier.

        mode: in its queries, its keys or its values. Weights are as they are: the gain between two layers is in none
        of them, as in TransformerLens without folding. Key/value heads are repeated.

        >>> import hooked_av as av
        >>> list(av.random_omni(n_layers=2).all_composition_scores("V").shape)
        [2, 4, 2, 4]
        """
        right = {"Q": self.QK, "K": self.QK.T, "V": self.OV}[mode]
        scores = composition_scores(self.OV, right)
        n_layers = self.decoder.cfg.n_layers
        earlier = scores.new_ones(n_layers, n_layers).triu(diagonal=1)[:, None, :, None]
        return CompositionScores(scores * earlier, list(range(n_layers)), self.all_head_labels)

    def tl_parameters(self) -> Mapping[str, Tensor]:
        """TransformerLens's names of every weight; those of key/value heads repeated, one for each query head."""
        return _LensParameters(self.decoder)

    @door
    def set_use_attn_result(self, use_attn_result: bool = True) -> None:
        """Nothing to switch on here, said in a warning: a hook at `hook_result` makes it."""
        _nothing_to_switch(use_attn_result, "blocks.*.attn.hook_result")

    @door
    def set_use_split_qkv_input(self, use_split_qkv_input: bool = True) -> None:
        """Nothing to switch on here, said in a warning: hooks at `hook_q_input`, `k`, `v` make them."""
        _nothing_to_switch(use_split_qkv_input, "blocks.*.attn.hook_q_input")

    @door
    def set_use_attn_in(self, use_attn_in: bool = True) -> None:
        """Nothing to switch on here, said in a warning: a hook at `hook_attn_in` makes it."""
        _nothing_to_switch(use_attn_in, "blocks.*.attn.hook_attn_in")

    @door
    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool = True) -> None:
        """Nothing to switch on here, said in a warning: a hook at `hook_mlp_in` makes it."""
        _nothing_to_switch(use_hook_mlp_in, "blocks.*.hook_mlp_in")


def _nothing_to_switch(wanted: bool, name: str) -> None:
    if wanted:
        warnings.warn(
            f"nothing to switch on: {name} is always there, and is made when a hook or a cache names it",
            HookedAVWarning,
            stacklevel=4,
        )


class _LensParameters(Mapping[str, Tensor]):
    """Weights by TransformerLens's names; each is made when it is asked for."""

    def __init__(self, decoder: HookedDecoder) -> None:
        self._decoder = decoder
        self._owners: dict[str, tuple[nn.Module, str]] = {"embed.W_E": (decoder.embed, "W_E")}
        for layer, block in enumerate(decoder.blocks):
            for part, names in _PER_LAYER.items():
                owner = getattr(block, part)
                self._owners |= {f"blocks.{layer}.{part}.{name}": (owner, name) for name in names}
        self._owners |= {"ln_final.w": (decoder.ln_final, "w")}
        self._owners |= {f"unembed.{name}": (decoder.unembed, name) for name in ("W_U", "b_U")}

    def __getitem__(self, key: str) -> Tensor:
        owner: Any
        owner, name = self._owners[key]
        weight = getattr(owner, name)
        return owner.for_query_heads(weight) if name in _OF_KEY_HEADS else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def __len__(self) -> int:
        return len(self._owners)
