"""Pictures and sound that every machine makes alike: whole-number arithmetic only, no generator, numpy alone.

A picture is a slanted wave that moves a little from frame to frame (smooth, so that rounding shows) plus noise (so
that bicubic weights overshoot). A waveform is a sum of triangle waves plus noise. `seed` tells items apart.
"""

from hashlib import sha256

import numpy as np

SAMPLING_HZ = 16_000


def noise(n_values: int, seed: int, n_levels: int) -> np.ndarray:
    """`n_values` int64 in [0, n_levels), from a 32-bit hash of their places."""
    value = np.arange(n_values, dtype=np.uint32) + np.uint32(seed * 1_000_003 % 2**32)
    for factor in (0x7FEB352D, 0x846CA68B):
        value ^= value >> np.uint32(16)
        value *= np.uint32(factor)
    value ^= value >> np.uint32(15)
    return value.astype(np.int64) % n_levels


def frames(n_frames: int, height: int, width: int, *, seed: int, noise_levels: int = 40) -> np.ndarray:
    """uint8 [frame, 3, height, width]"""
    frame, channel, row, column = np.ogrid[:n_frames, :3, :height, :width]
    phase = (3 + channel) * row + (5 - channel) * column + 29 * frame + 71 * channel + 13 * seed
    wave = _triangle(phase, period=510)
    grain = noise(n_frames * 3 * height * width, seed, noise_levels).reshape(wave.shape)
    return np.clip(wave + grain - noise_levels // 2, 0, 255).astype(np.uint8)


def waveform(seconds: float, *, seed: int) -> np.ndarray:
    """float32 [sample] in (-1, 1), 16 kHz, mono"""
    n_samples = round(seconds * SAMPLING_HZ)
    sample = np.arange(n_samples, dtype=np.int64)
    voices = sum(_triangle(sample * (7 + seed + 4 * voice), period=510) - 127 for voice in range(3))
    loudness = _triangle(sample // 16, period=400) + 50  # swells and fades every 0.4 seconds
    hiss = noise(n_samples, seed, 1024) - 512
    return ((voices * loudness // 8 + hiss) / 32_768).astype(np.float32)


def _triangle(phase: np.ndarray, *, period: int) -> np.ndarray:
    """Up from 0 to period / 2 and down again."""
    return period // 2 - np.abs(phase % period - period // 2)


def thin(values: np.ndarray) -> np.ndarray:
    """A few of the values of a matrix: every row of a small one, else 16 to 31 rows and every seventh column."""
    if len(values) <= 24:
        return np.ascontiguousarray(values)
    return np.ascontiguousarray(values[:: len(values) // 16, ::7])


def digest(values: np.ndarray) -> str:
    """sha256 of the little-endian bytes of an array, row by row."""
    return sha256(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()).hexdigest()
