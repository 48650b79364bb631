"""TransformerLens's names for the weights of a whole model; those of a layer are in `layer_views`.

Axes: layer head kv_head d_head d_model d_mlp d_vocab. Stacks over layers are copies, as in TransformerLens: separate
layers do not share storage.
"""

from hashlib import sha256

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import FactoredMatrix

from hooked_av.decoder.decoder import HookedDecoder

_SAMPLED = 256  # values of each tensor that a fingerprint reads


class ModelViews(nn.Module):
    """The same names on the whole model: embeddings as views, layers stacked (a copy, made at each access)."""

    decoder: HookedDecoder

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.decoder.embed.weight

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.decoder.unembed.weight.T

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        return self.decoder.unembed.b_U

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

    @property
    def QK(self) -> FactoredMatrix:
        """[layer, head, d_model, d_model]; key heads are repeated for the query heads that read them."""
        return FactoredMatrix(self.W_Q, self._for_query_heads(self.W_K).mT)

    @property
    def OV(self) -> FactoredMatrix:
        """[layer, head, d_model, d_model]; value heads are repeated for the query heads that read them."""
        return FactoredMatrix(self._for_query_heads(self.W_V), self.W_O)

    def _for_query_heads(
        self, weight: Float[Tensor, "layer kv_head d_model d_head"]
    ) -> Float[Tensor, "layer head d_model d_head"]:
        return weight.repeat_interleave(self.decoder.cfg.n_heads // weight.shape[1], dim=1)

    def accumulated_bias(self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> Tensor:
        """What biases have added to the residual stream before a layer: zeros, because no output has a bias.

        (TransformerLens's caches ask. The biases of queries, keys and values act inside a head.)
        """
        return self.decoder.embed.weight.new_zeros(self.decoder.cfg.d_model)

    def fingerprint(self) -> str:
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

    def _stacked(self, part: str, name: str) -> Tensor:
        return torch.stack([getattr(getattr(block, part), name) for block in self.decoder.blocks])
