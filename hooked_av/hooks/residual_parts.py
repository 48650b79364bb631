"""TransformerLens's parts of the residual stream, of a model whose norms keep their gains.

Axes: as in TransformerLens; component (what a residual stream is the sum of, or its state after each layer).
"""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities import Slice  # pyright: ignore[reportPrivateImportUsage] - TransformerLens's own way

AnswerTokens = str | int | Sequence[str | int] | Tensor


class ResidualParts(ActivationCache):
    """`decompose_resid`, `accumulated_resid`, `stack_head_results`, `logit_attrs`, ... with the norms' gains.

    TransformerLens divides by the scale only, and expects weights into which the gains were folded. Here nothing is
    folded, so `apply_ln=True` is the whole norm: what comes out is what the weights behind it read. At the end
    `@ model.W_U` gives logits; before layer 3, `@ model.W_Q[3]` gives queries (less their bias).
    """

    def apply_ln_to_stack(  # type: ignore[override] - the slices are TransformerLens's own
        self,
        residual_stack: Float[Tensor, "component *any d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Any = None,
        batch_slice: Any = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "component *out d_model"]:
        """Parts of a residual stream as the weights behind a norm read them: over the cached scale, times the gain.

        Args:
            layer: the norm before its attention (`mlp_input`: before its MLP); None, -1: the final one.
            recompute_ln: each with a scale of its own, at the final norm (the logit lens).
        """
        n_layers = self.model.cfg.n_layers
        layer = n_layers if layer in (None, -1) else layer
        norm = self.model.ln_final if layer == n_layers else self._norm(layer, mlp_input)
        if recompute_ln and layer == n_layers:
            sliced = Slice(batch_slice) if not isinstance(batch_slice, Slice) else batch_slice
            return norm.normalise(sliced.apply(residual_stack, dim=1) if has_batch_dim else residual_stack)
        over_scale = super().apply_ln_to_stack(residual_stack, layer, mlp_input, pos_slice, batch_slice, has_batch_dim)
        return over_scale * norm.weight

    def decompose_resid(self, *args: Any, incl_embeds: bool = True, **kwargs: Any) -> Any:
        """TransformerLens's parts of the residual stream; "embed" is the merged sequence, media rows included."""
        cache = self._with_merged_embeddings() if incl_embeds else self
        return super(ResidualParts, cache).decompose_resid(*args, incl_embeds=incl_embeds, **kwargs)

    def get_full_resid_decomposition(self, *args: Any, **kwargs: Any) -> Any:
        """Every head, every neuron (or MLP) and the merged sequence, "embed"; the bias is zeros."""
        return super(ResidualParts, self._with_merged_embeddings()).get_full_resid_decomposition(*args, **kwargs)

    def logit_attrs(  # type: ignore[override] - several tokens may be a list
        self,
        residual_stack: Float[Tensor, "component *any d_model"],
        tokens: AnswerTokens,
        incorrect_tokens: AnswerTokens | None = None,
        **kwargs: Any,
    ) -> Float[Tensor, "component ..."]:
        """What each part adds to the logit of a token, or to a logit difference.

        The stack is as it is in the stream (`apply_ln=False`): the norm is applied here.
        """
        answers = [self._ids(given) for given in (tokens, incorrect_tokens)]
        return super().logit_attrs(residual_stack, *answers, **kwargs)

    def _ids(self, tokens: Any) -> Any:
        """Ids as one tensor, because TransformerLens compares the shapes of right and wrong answers."""
        if tokens is None or isinstance(tokens, Tensor):
            return tokens
        several = [tokens] if isinstance(tokens, str | int) else tokens
        ids = [self.model.to_single_token(token) if isinstance(token, str) else int(token) for token in several]
        return torch.tensor(ids[0] if isinstance(tokens, str | int) else ids, device=self.model.cfg.device)

    def _norm(self, layer: Any, mlp_input: bool) -> Any:
        block = self.model.blocks[layer]
        return block.ln2 if mlp_input else block.ln1

    def _with_merged_embeddings(self) -> "ResidualParts":
        """The same cache, whose "hook_embed" is what the first block reads; the text alone does not add up."""
        twin = copy(self)
        twin.cache_dict, twin.has_embed = {**self.cache_dict, "hook_embed": self["hook_inputs_embed"]}, True
        return twin

    def _stack_neuron_results_apply_ln_projected(
        self, layer: int, pos_slice: Any, neuron_slice: Any, project_2d: Tensor, mlp_input: bool = False
    ) -> Tensor:
        # TransformerLens's short cut for many neurons knows the scale only: the gain goes to what they are read with
        n_layers = self.model.cfg.n_layers
        norm = self.model.ln_final if layer == n_layers else self._norm(layer, mlp_input)
        read = norm.weight[:, None] * project_2d
        return super()._stack_neuron_results_apply_ln_projected(layer, pos_slice, neuron_slice, read, mlp_input)
