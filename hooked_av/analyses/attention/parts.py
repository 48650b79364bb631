"""Parts: named spans that share a prompt out, so that what is read from them sums to the whole.

Axes: pos; part.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from hooked_av.errors import SpanError
from hooked_av.prompt.inputs import AVInputs

REST = "other"
# In this order; of those that a prompt has, none shares a token with another.
USUAL = ("system", "audio", "video", "image", "boundary", "question", "options", "instruction", "answer_prefix")

Parts = Mapping[str, Int64[np.ndarray, " span"]]


def parts_of(inputs: AVInputs, spans: Sequence[str] | None = None) -> dict[str, Int64[np.ndarray, " span"]]:
    """Every token of a prompt in one part: the given spans (None: the usual ones), and "other" for the rest.

    Errors: `SpanError` for spans that share tokens, or that the prompt has not.

    >>> import hooked_av as av
    >>> inputs = av.random_omni(n_layers=2).prepare(question="Which digit do you hear?")
    >>> {name: len(positions) for name, positions in parts_of(inputs, ["question", "last"]).items()}
    {'question': 6, 'last': 1, 'other': 18}
    """
    names = [name for name in USUAL if name in inputs.spans] if spans is None else list(spans)
    parts = {name: inputs.spans.resolve(name).positions for name in names}
    owned = np.concatenate([*parts.values(), np.empty(0, np.int64)])
    if len(np.unique(owned)) < len(owned):
        raise SpanError(
            "these spans share tokens",
            expected="spans that share none, so that their parts sum to the whole",
            got=names,
            next_step='take one from the other, such as "question - last"',
        )
    rest = np.setdiff1d(np.arange(inputs.n_pos), owned)
    return parts | ({REST: rest} if len(rest) else {})


def indicator(parts: Parts, n_pos: int, device: torch.device) -> Float32[Tensor, "pos part"]:
    """One where a token belongs to a part: a product with it sums over the tokens of each part."""
    table = torch.zeros(n_pos, len(parts), device=device)
    for number, positions in enumerate(parts.values()):
        table[torch.from_numpy(positions.copy()).to(device), number] = 1
    return table
