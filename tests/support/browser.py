"""A headless Chromium that reaches no network."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"]  # fmt: skip


def screenshot(page: Path, folder: Path, height: int) -> np.ndarray:
    """The pixels [height, 1200, 3] of a page; the test is skipped where there is no Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH")
    shot = folder / "shot.png"
    where = [f"--user-data-dir={folder / 'profile'}", f"--screenshot={shot}", f"--window-size=1200,{height}"]
    subprocess.run([chromium, *FLAGS, *where, page.as_uri()], check=True, capture_output=True, timeout=120)
    return np.asarray(Image.open(shot).convert("RGB")).astype(int)


def n_pixels(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many pixels have a colour, give or take what smoothing does."""
    return int((np.abs(pixels - colour).max(axis=-1) < 8).sum())
