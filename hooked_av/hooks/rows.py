"""Some rows of each prompt of a batch: taken out, and put back.

Where prompts have more or fewer rows of a span, positions are filled up with -1, which is no position (`packed`).

Axes: batch, pos (rows that a tensor holds), query (those that are asked for); `rest` stands for what lies behind.
"""

import torch
from jaxtyping import Bool, Int64, Shaped
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


def members(positions: Int64[Tensor, "batch pos"], chosen: Int64[Tensor, "batch query"]) -> Bool[Tensor, "batch pos"]:
    """Which positions are among those chosen, prompt by prompt; -1 is none.

    >>> members(torch.tensor([[3, 4], [3, -1]]), torch.tensor([[4, -1], [-1, 3]])).tolist()
    [[False, True], [True, False]]
    """
    if not (chosen.shape[1] and positions.shape[1]):
        return torch.zeros(len(chosen), positions.shape[1], dtype=torch.bool, device=chosen.device)
    # a table of flags, with one place more, where -1 falls: torch.isin compares every pair
    size = 1 + max(int(positions.max()), int(chosen.max()), 0)
    flags = torch.zeros(len(chosen), size + 1, dtype=torch.bool, device=chosen.device)
    flags.scatter_(1, chosen.where(chosen >= 0, size), True)[:, size] = False
    return flags.gather(1, positions.where(positions >= 0, size).expand(len(chosen), -1))


def packed(positions: Int64[Tensor, "batch pos"], stays: Bool[Tensor, "batch pos"]) -> Int64[Tensor, "batch query"]:
    """The positions that stay, in their order, with -1 behind those of prompts that have fewer.

    >>> packed(torch.tensor([[3, 4, 5], [6, 7, 8]]), torch.tensor([[True, False, True], [False, True, False]])).tolist()
    [[3, 5], [7, -1]]
    """
    order = (~stays).int().argsort(dim=1, stable=True)[:, : int(stays.sum(dim=1).max())]
    return positions.gather(1, order).masked_fill(~stays.gather(1, order), -1)


def filled(asked: Int64[Tensor, "batch query"], held: Int64[Tensor, "batch pos"]) -> Int64[Tensor, "batch query"]:
    """As many positions for every prompt: those asked for, and where these are fewer, others that are held.

    >>> filled(torch.tensor([[3, 5], [7, -1]]), torch.tensor([[3, 4, 5], [6, 7, 8]])).tolist()
    [[3, 5], [6, 7]]
    """
    order = (~members(held, asked)).int().argsort(dim=1, stable=True)[:, : asked.shape[1]]
    return held.gather(1, order).sort(dim=1).values


def _prompts(index: Int64[Tensor, "batch query"]) -> Int64[Tensor, "batch 1"]:
    return torch.arange(len(index), device=index.device)[:, None]
