"""Tutorial 06: exercise, wrong answer, what is said of it."""


def _rule(name: str, line: str) -> str:
    return f"def {name}:\n    return {line}"


_READ = "least_read(positions, scores, n_kept)"
_SAVED = "saved(share, layer, n_layers)"

ROWS = [
    ("06", "as_cut", "cut = 'video->all@3'", "does not come back"),
    ("06", "as_cut", "cut = 'video->all'", "before layer 3"),
    ("06", "as_cut", "cut = 'video->all@4-7'", "first that runs without"),
    ("06", "as_cut", "cut = 'all->video@3-7'", "before the arrow"),
    ("06", "as_cut", "cut = 'audio->all@3-7'", "audio stays"),
    ("06", "as_cut", "cut = 'video->last@3-7'", "hand it on"),
    ("06", "first_layer", "layer = 0", "upper left panel"),
    ("06", "first_layer", "layer = 7", "saves more"),
    ("06", "first_layer", "layer = 8", "layers are 0 to 7"),
    ("06", "first_layer", "layer = int(curve.layers[(curve.agrees[2] < 1).any(axis=1)].max())", "still change"),
    ("06", "least_read", _rule(_READ, "positions[np.argsort(scores[positions])[-n_kept:]]"), "ones that stay"),
    ("06", "least_read", _rule(_READ, "positions[np.argsort(scores[positions])[n_kept:]]"), "read least"),
    ("06", "least_read", _rule(_READ, "positions[np.argsort(scores[positions])[:n_kept]]"), "only n_kept"),
    ("06", "least_read", _rule(_READ, "np.argsort(scores[positions])[:-n_kept]"), "within the span"),
    ("06", "least_read", _rule(_READ, "positions[: len(positions) - n_kept]"), "not those that are read least"),
    ("06", "saved", _rule(_SAVED, "share"), "run with all tokens"),
    ("06", "saved", _rule(_SAVED, "share * layer / n_layers"), "still have all tokens"),
    ("06", "saved", _rule(_SAVED, "share * (n_layers - layer - 1) / n_layers"), "itself runs without"),
    ("06", "saved", _rule(_SAVED, "100 * share * (n_layers - layer) / n_layers"), "not percent"),
]
