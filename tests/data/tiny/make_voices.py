"""Write tests/data/tiny/voices.npz: the ten digits in espeak-ng voices that tiny-av has not been trained on.

    python tests/data/tiny/make_voices.py

The file has the form of an .npz made from the Free Spoken Digit Dataset, so that the tests read it the same way.
"""

from pathlib import Path

import numpy as np

from hooked_av.media.decode_sound import SAMPLING_RATE_HZ
from hooked_av.tiny.digits import HELD_OUT_VOICES, speak

spoken = speak(HELD_OUT_VOICES)
first = list(range(0, len(spoken.waves), 2))  # one of the two speeds
samples = [(spoken.waves[i] * 32_000).astype(np.int16) for i in first]
np.savez_compressed(
    Path(__file__).parent / "voices.npz",
    samples=np.concatenate(samples),
    offsets=np.cumsum([0, *map(len, samples)]),
    digit=spoken.digits[first].astype(np.int8),
    speaker=np.array([spoken.speakers[i] for i in first]),
    index=np.arange(len(first)) // 10 * 4,  # two voices below 5: held out, by the data set's convention
    sampling_rate_hz=SAMPLING_RATE_HZ,
)
