"""Bootstrap intervals over samples (Efron, 1979)."""

import warnings

import numpy as np
from jaxtyping import Float64

N_RESAMPLES = 2_000
COVERAGE = 0.95
GATHERED = 2**17  # values that resamples gather at once: memory does not grow with samples x resamples


def bootstrap_interval(
    values: Float64[np.ndarray, " sample *axes"], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Float64[np.ndarray, " edge=2 *axes"]:
    """The percentile interval of the mean over samples, with a coverage of 95 %; missing values (NaN) are left out.

    One sample has no spread to estimate: its interval is NaN.

    >>> low, high = bootstrap_interval(np.arange(100.0))
    >>> bool(42 < low < 46 and 53 < high < 57)
    True
    """
    if len(values) < 2:
        return np.full((2, *values.shape[1:]), np.nan)
    return percentile_interval(resampled_means(values, seed, n_resamples))


def resampled_means(
    values: Float64[np.ndarray, " sample *axes"], seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Float64[np.ndarray, " resample *axes"]:
    """Means of samples drawn with replacement; what is computed from several of them has an interval, too.

    >>> resampled_means(np.ones((5, 2)), n_resamples=3).shape
    (3, 2)
    """
    rng = np.random.default_rng(seed)
    known = ~np.isnan(values)
    means, filled = np.empty((n_resamples, *values.shape[1:])), np.where(known, values, 0.0)
    at_once = max(1, GATHERED // max(1, values.size))
    for start in range(0, n_resamples, at_once):
        block = means[start : start + at_once]
        drawn = rng.integers(0, len(values), (len(block), len(values)))
        n_known = np.full(block.shape, len(values)) if known.all() else known[drawn].sum(axis=1)
        block[:] = filled[drawn].sum(axis=1) / np.where(n_known == 0, np.nan, n_known)
    return means


def percentile_interval(resampled: Float64[np.ndarray, " resample *axes"]) -> Float64[np.ndarray, " edge=2 *axes"]:
    """The central 95 % of a resampled quantity.

    >>> percentile_interval(np.arange(1001.0)).round(6).tolist()
    [25.0, 975.0]
    """
    tail = 100 * (1 - COVERAGE) / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice")  # nothing is known there: NaN says so
        return np.nanpercentile(resampled, [tail, 100 - tail], axis=0)
