"""Token strips: a film to draw, and what a strip tells its script."""

import json
import re

import numpy as np

import hooked_av as av

SMALL = av.Sampling(max_pixels=784 * 12)
SVG = "{http://www.w3.org/2000/svg}"


def film(seconds=3.0, *, sound=True, fps=4, size=(60, 90)):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (int(seconds * fps), *size, 3), dtype=np.uint8)
    wave = rng.uniform(-0.5, 0.5, int(16_000 * seconds)) if sound else None
    return av.Clip.from_arrays(frames, fps, wave, 16_000 if sound else None)


def data_of(strip):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', strip.html, re.DOTALL)[1])
