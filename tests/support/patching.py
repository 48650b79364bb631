"""Patching on tiny-av: a model, two clips of one length, a question."""

import hooked_av as av
from hooked_av.tiny.samples import read_samples


def tiny():
    model, samples = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()
    return model, samples[1].clip, samples[3].clip, "Which digit is spoken first?"
