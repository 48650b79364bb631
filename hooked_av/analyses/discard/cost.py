"""What a prefill costs, measured on real passes, and by formula.

Axes: drop, layer, measured (samples), repeat.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from hooked_av.decoder.flops import count_macs, layer_macs
from hooked_av.generation.generate import Prefill
from hooked_av.interventions.specs import DropTokens
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

ARRAYS: Mapping[str, tuple[str, ...]] = {
    "macs": ("drop", "layer", "measured"),
    "clean_macs": ("measured",),
    "kv_bytes": ("drop", "layer", "measured"),
    "clean_kv_bytes": ("measured",),
    "seconds": ("drop", "layer", "measured", "repeat"),
    "clean_seconds": ("drop", "layer", "measured", "repeat"),
}


@dataclass(frozen=True, eq=False)
class Costs:
    """Of one sample: multiplications, bytes of keys and values after the prefill, seconds."""

    macs: Int64[np.ndarray, "drop layer"]
    clean_macs: Int64[np.ndarray, ""]
    kv_bytes: Int64[np.ndarray, "drop layer"]
    clean_kv_bytes: Int64[np.ndarray, ""]
    seconds: Float64[np.ndarray, "drop layer repeat"]
    clean_seconds: Float64[np.ndarray, "drop layer repeat"]

    @staticmethod
    def stacked(costs: "Sequence[Costs]") -> dict[str, np.ndarray]:
        """Of several samples."""
        return {
            f.name: np.stack([getattr(cost, f.name) for cost in costs], axis=ARRAYS[f.name].index("measured"))
            for f in fields(Costs)
        }


def costs_of(
    model: "HookedAVTransformer", inputs: AVInputs, specs: Sequence[Sequence[DropTokens]], repeats: int
) -> Costs:
    """Every drop before every layer as a real prefill; each timed pass has a clean one next to it, in turns."""
    clean = Prefill(model, inputs)
    clean_macs, clean_bytes = _counted(clean)
    shape = (len(specs), len(specs[0]))
    macs, kv_bytes = np.zeros((2, *shape), dtype=np.int64)
    seconds, clean_seconds = np.zeros((2, *shape, repeats))
    for drop, row in enumerate(specs):
        for layer, spec in enumerate(row):
            dropping = Prefill(model, inputs, spec)
            macs[drop, layer], kv_bytes[drop, layer] = _counted(dropping)  # also the pass that warms up
            for repeat in range(repeats):
                pair = [(dropping, seconds), (clean, clean_seconds)]
                for prefill, times in pair if repeat % 2 else reversed(pair):
                    times[drop, layer, repeat] = _seconds(prefill, model.device)
    return Costs(macs, np.array(clean_macs), kv_bytes, np.array(clean_bytes), seconds, clean_seconds)


def formula_macs(
    cfg: Any, n_pos: int, n_dropped: Int64[np.ndarray, " drop"], layers: Sequence[int]
) -> tuple[Int64[np.ndarray, ""], Int64[np.ndarray, "drop layer"]]:
    """The layers of a prefill by formula: clean, and with so many rows gone before each layer."""
    whole = layer_macs(cfg, n_pos)
    rest = np.array([layer_macs(cfg, n_pos - int(n)) for n in n_dropped], dtype=np.int64)
    before = np.array(layers, dtype=np.int64)
    return np.array(cfg.n_layers * whole), whole * before + rest[:, None] * (cfg.n_layers - before)


def _counted(prefill: Prefill) -> tuple[int, int]:
    """Multiplications of a pass, and bytes of the keys and values that it leaves."""
    n_bytes = []
    macs = count_macs(lambda: n_bytes.append(prefill()[1].n_bytes))
    return macs, n_bytes[0]


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Wall time, accelerators waited for."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
