"""TransformerLens's names for the weights, as views that share the checkpoint's storage.

Axes: layer head kv_head d_head d_model d_mlp d_vocab. Stacks over layers are copies, as in TransformerLens: separate
layers do not share storage.
"""

from hashlib import sha256
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

_SAMPLED = 256  # values of each tensor that a fingerprint reads


class AttentionViews:
    """`W_Q, W_K, W_V, W_O` and biases of one attention layer."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear
    d_head: int

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return _by_head(self.q_proj.weight, self.d_head)

    @property
    def W_K(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return _by_head(self.k_proj.weight, self.d_head)

    @property
    def W_V(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return _by_head(self.v_proj.weight, self.d_head)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return rearrange(self.o_proj.weight, "d_model (head d_head) -> head d_head d_model", d_head=self.d_head)

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]:
        return self.q_proj.bias.view(-1, self.d_head)

    @property
    def b_K(self) -> Float[Tensor, "kv_head d_head"]:
        return self.k_proj.bias.view(-1, self.d_head)

    @property
    def b_V(self) -> Float[Tensor, "kv_head d_head"]:
        return self.v_proj.bias.view(-1, self.d_head)

    @property
    def b_O(self) -> Float[Tensor, " d_model"]:
        """Zeros: the output projection has no bias."""
        return self.o_proj.weight.new_zeros(self.o_proj.out_features)


class MLPViews:
    """`W_in, W_gate, W_out` of one MLP; its biases are zeros."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        return self.up_proj.weight.T

    @property
    def W_gate(self) -> Float[Tensor, "d_model d_mlp"]:
        return self.gate_proj.weight.T

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        return self.down_proj.weight.T

    @property
    def b_in(self) -> Float[Tensor, " d_mlp"]:
        return self.up_proj.weight.new_zeros(self.up_proj.out_features)

    @property
    def b_out(self) -> Float[Tensor, " d_model"]:
        return self.down_proj.weight.new_zeros(self.down_proj.out_features)


class ModelViews:
    """The same names on the whole model: embeddings as views, layers stacked (a copy, made at each access)."""

    @property
    def W_E(self: Any) -> Float[Tensor, "d_vocab d_model"]:
        return self.decoder.embed.weight

    @property
    def W_U(self: Any) -> Float[Tensor, "d_model d_vocab"]:
        return self.decoder.unembed.weight.T

    @property
    def b_U(self: Any) -> Float[Tensor, " d_vocab"]:
        return self.decoder.unembed.weight.new_zeros(self.decoder.unembed.out_features)

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        return self._stacked("attn", "W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer kv_head d_model d_head"]:
        return self._stacked("attn", "W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer kv_head d_model d_head"]:
        return self._stacked("attn", "W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        return self._stacked("attn", "W_O")

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        return self._stacked("attn", "b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layer kv_head d_head"]:
        return self._stacked("attn", "b_K")

    @property
    def b_V(self) -> Float[Tensor, "layer kv_head d_head"]:
        return self._stacked("attn", "b_V")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        return self._stacked("attn", "b_O")

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        return self._stacked("mlp", "W_in")

    @property
    def W_gate(self) -> Float[Tensor, "layer d_model d_mlp"]:
        return self._stacked("mlp", "W_gate")

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        return self._stacked("mlp", "W_out")

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        return self._stacked("mlp", "b_in")

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        return self._stacked("mlp", "b_out")

    def fingerprint(self: Any) -> str:
        """Sixteen letters that tell one set of weights from another: sampled values of every tensor, hashed.

        It costs milliseconds whatever the size, and is kept with every result.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> model.fingerprint() == av.random_omni(n_layers=2).fingerprint() != av.random_omni(2, seed=1).fingerprint()
        True
        """
        digest = sha256()
        for name, tensor in self.named_parameters():
            step = max(1, tensor.numel() // _SAMPLED)
            values = tensor.detach().flatten()[::step].float().cpu().numpy()
            digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode() + values.tobytes())
        return digest.hexdigest()[:16]

    def _stacked(self: Any, part: str, name: str) -> Tensor:
        return torch.stack([getattr(getattr(block, part), name) for block in self.decoder.blocks])


def _by_head(weight: Float[Tensor, "head_times_d_head d_model"], d_head: int) -> Float[Tensor, "head d_model d_head"]:
    return rearrange(weight, "(head d_head) d_model -> head d_model d_head", d_head=d_head)
