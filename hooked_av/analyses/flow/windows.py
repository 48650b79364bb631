"""Windows: the layers around one layer, in which a pathway is cut at once."""

from typing import Any

from hooked_av.errors import InterventionError

WIDEST_DEFAULT = 9  # layers, what studies of models with 28 to 36 layers use


def layer_window(layer: int, n_layers: int, window: int) -> range:
    """The layers cut around `layer`: `window` of them, fewer at both ends of the model.

    Errors: `InterventionError` for a layer or a window that the model does not have.

    >>> layer_window(10, n_layers=28, window=9)
    range(6, 15)
    >>> layer_window(0, n_layers=28, window=9)
    range(0, 5)
    """
    if not (0 <= layer < n_layers and 1 <= window <= n_layers):
        raise InterventionError(
            "no such window of layers",
            expected=f"layer 0 to {n_layers - 1}, window 1 to {n_layers}",
            got=f"layer {layer}, window {window}",
            next_step="see default_window(n_layers) for a usual one",
        )
    return range(max(0, layer - window // 2), min(n_layers, layer + -(-window // 2)))


def default_window(n_layers: int) -> int:
    """9 layers from 28 layers on; in smaller models the largest odd number that is at most a third of the layers.

    >>> [default_window(n_layers) for n_layers in (4, 12, 28, 36)]
    [1, 3, 9, 9]
    """
    third = min(WIDEST_DEFAULT, n_layers // 3)
    return max(1, third if third % 2 else third - 1)


def window_size(window: Any, n_layers: int) -> int:
    """How many layers a `window=` means: a number, "all" of them, or None for the default.

    >>> window_size(None, 8), window_size("all", 8), window_size(3, 8)
    (1, 8, 3)
    """
    if window is None:
        return default_window(n_layers)
    return n_layers if window == "all" else window
