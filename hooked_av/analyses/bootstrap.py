"""Bootstrap intervals over samples (Efron, 1979)."""

import warnings

import numpy as np
from jaxtyping import Float64

N_RESAMPLES = 2_000
COVERAGE = 0.95


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
    sums, filled = np.empty((n_resamples, *values.shape[1:])), np.where(known, values, 0.0)
    for number in range(n_resamples):  # one resample at a time: memory does not grow with samples x resamples
        drawn = rng.integers(0, len(values), len(values))
        n_known = known[drawn].sum(axis=0)
        sums[number] = filled[drawn].sum(axis=0) / np.where(n_known == 0, np.nan, n_known)
    return sums


def percentile_interval(resampled: Float64[np.ndarray, " resample *axes"]) -> Float64[np.ndarray, " edge=2 *axes"]:
    """The central 95 % of a resampled quantity.

    >>> percentile_interval(np.arange(1001.0)).round(6).tolist()
    [25.0, 975.0]
    """
    tail = 100 * (1 - COVERAGE) / 2
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice")  # nothing is known there: NaN says so
        return np.nanpercentile(resampled, [tail, 100 - tail], axis=0)
