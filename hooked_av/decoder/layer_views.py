"""TransformerLens's names for the weights of one layer, as views that share the checkpoint's storage.

Axes: head kv_head d_head d_model d_mlp.
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import FactoredMatrix


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
    def QK(self) -> FactoredMatrix:
        """[head, d_model, d_model]: how much a query's stream reads a key's; key heads are repeated for their group."""
        return FactoredMatrix(self.W_Q, self.for_query_heads(self.W_K).mT)

    @property
    def OV(self) -> FactoredMatrix:
        """[head, d_model, d_model]: what a head writes of the stream that it reads; value heads are repeated."""
        return FactoredMatrix(self.for_query_heads(self.W_V), self.W_O)

    def for_query_heads(self, weight: Float[Tensor, "kv_head ..."]) -> Float[Tensor, "head ..."]:
        """A weight of key/value heads, one entry for each query head."""
        n_heads = self.q_proj.out_features // self.d_head
        return weight.repeat_interleave(n_heads // len(weight), dim=0)

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


class Embed(nn.Embedding):
    """Token embeddings; `W_E` is their weight."""

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.weight


class Unembed(nn.Linear):
    """The map to logits; `W_U` is its weight, transposed, and its bias is zeros."""

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        return self.weight.T

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        return self.weight.new_zeros(self.out_features)


def _by_head(weight: Float[Tensor, "head_times_d_head d_model"], d_head: int) -> Float[Tensor, "head d_model d_head"]:
    return rearrange(weight, "(head d_head) d_model -> head d_model d_head", d_head=d_head)
