"""Muon (Jordan et al., 2024): momentum, made orthogonal, for the matrices of the decoder.

torch has it as `torch.optim.Muon`, but runs its iteration in bfloat16, which processors without bfloat16 units emulate:
on the two cores where tiny-av was trained, that took ten times as long as a step. This one iterates in the precision of
the weights, all matrices of one shape at a time.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_EPS = 1e-7


def orthogonal(matrices: Float[Tensor, "matrix row column"]) -> Float[Tensor, "matrix row column"]:
    """About the nearest matrices with orthonormal rows or columns, by a quintic Newton-Schulz iteration.

    Their singular values come out between 0.7 and 1.2, which is near enough for an update.

    >>> values = torch.linalg.svdvals(orthogonal(torch.randn(1, 8, 16)))
    >>> bool(((values > 0.6) & (values < 1.3)).all())
    True
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + _EPS)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For matrices only; gains, biases and embeddings want another optimiser."""

    def __init__(
        self, matrices: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(list(matrices), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                by_shape.setdefault(matrix.shape, []).append(matrix)
            for (rows, columns), several in by_shape.items():
                updates = orthogonal(self._momentum(several, group["momentum"]))
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                for matrix, update in zip(several, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, several: list[nn.Parameter], momentum: float) -> Float[Tensor, "matrix row column"]:
        """Nesterov's, of all matrices of one shape together; their first one holds the state."""
        grads = torch.stack([torch.zeros_like(matrix) if matrix.grad is None else matrix.grad for matrix in several])
        held = self.state[several[0]].setdefault("momentum", torch.zeros_like(grads))
        held.mul_(momentum).add_(grads)
        return grads.add(held, alpha=momentum)
