"""Some rows of each prompt of a batch: taken out, and put back.

Axes: batch, pos (rows that a tensor holds), query (those that are asked for); `rest` stands for what lies behind.
"""

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor


def at_rows(
    tensor: Shaped[Tensor, "batch pos *rest"], index: Int64[Tensor, "batch query"]
) -> Shaped[Tensor, "batch query *rest"]:
    """The rows at `index`, for each prompt its own.

    >>> at_rows(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[0], [2]])).tolist()
    [[1], [6]]
    """
    return tensor[_prompts(index), index]


def put_rows(
    tensor: Shaped[Tensor, "batch pos *rest"],
    index: Int64[Tensor, "batch query"],
    part: Shaped[Tensor, "batch query *rest"],
) -> Shaped[Tensor, "batch pos *rest"]:
    """A copy of the tensor with other rows at `index`.

    >>> put_rows(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[0], [2]]), torch.tensor([[0], [0]])).tolist()
    [[0, 2, 3], [4, 5, 0]]
    """
    return tensor.index_put((_prompts(index), index), part)


def _prompts(index: Int64[Tensor, "batch query"]) -> Int64[Tensor, "batch 1"]:
    return torch.arange(len(index), device=index.device)[:, None]
