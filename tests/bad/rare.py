"""What seldom happens: places where nobody may write, limits that only huge media meet, parts that are called alone."""

from dataclasses import replace
from types import MappingProxyType
from unittest.mock import patch

import numpy as np
import torch

import hooked_av as av
from bad import Bad
from hooked_av.analyses.discard.rules import dropped
from hooked_av.analyses.patching.pairs import Pair
from hooked_av.datasets.manifest import SampleCase
from hooked_av.datasets.patch_media import patch_media
from hooked_av.families.qwen_vl.positions import qwen_vl_positions
from hooked_av.families.salmonn.prepare import salmonn_indices
from hooked_av.media import decode_sound, files
from hooked_av.media.decode_pictures import FileFrames
from hooked_av.media.sampling import ResolvedSampling
from hooked_av.named_figures import draw
from hooked_av.plots.page import check_folder
from hooked_av.prompt.spans import Spans
from hooked_av.tiny.digits import read_speech

NOBODY_MAY = MappingProxyType({"target": "os.access", "return_value": False})
FILM = av.sample_clips()["bigbuckbunny"].path


def with_less(limit, owner, call):
    """What happens where a limit is lower, in place of media above the true one."""
    with patch.object(owner, limit, 1):
        return call()


def where_nobody_may_write(call):
    with patch(**NOBODY_MAY):
        return call()


def without_frames(clip):
    with patch.object(FileFrames, "_decode_until"):
        return clip.read_frames([0])


def Figured(what):
    return type("Figured", (), {"figure": what})()


def batch(at):
    return at.model.batch([at.inputs] * 2)


def npz(at):
    path = at.folder / "speech.npz"
    np.savez(path, digit=np.zeros(1))
    return path


def half(at):
    return av.random_omni(n_layers=1).to(torch.float16)


MANY = 1e6 * torch.ones(64)

ROWS = [
    Bad(
        "a study where nobody may write",
        lambda at, _: where_nobody_may_write(lambda: av.run_study(at.model, ["visual"], samples=1, out="new")),
        "no permission to write",
    ),
    Bad(
        "a run where nobody may write",
        lambda at, _: where_nobody_may_write(
            lambda: av.run_dataset(at.model, [av.Sample("a", (), "Which?")], "lens", out="new")
        ),
        "no permission to write",
    ),
    Bad(
        "a report where nobody may write",
        lambda at, _: where_nobody_may_write(lambda: check_folder("new")),
        "no permission to write",
    ),
    Bad(
        "a picture above the limit of pixels",
        lambda at, _: with_less("MAX_FRAME_PIXELS", files, lambda: av.Clip.from_file(FILM)),
        "1280x720",
    ),
    Bad(
        "a sound above the limit of seconds",
        lambda at, _: with_less("MAX_SOUND_SECONDS", decode_sound, lambda: av.Clip.from_file(FILM).waveform),
        "a sound that is too long",
    ),
    Bad("spoken digits without sound", lambda at, path: read_speech(path, held_out=True), "no spoken digits in", npz),
    Bad("a pair of batches", lambda at, two: Pair(two, two, "words"), "a pair is two prompts", batch),
    Bad(
        "a film whose frames are gone",
        lambda at, clip: without_frames(clip),
        "decode",
        lambda at: av.Clip.from_file(FILM, stop=1),
    ),
    Bad("a figure that is not there", lambda at, _: draw(Figured("nowhere:draw")), "Figured names no figure"),
    Bad("a figure that is no function", lambda at, _: draw(Figured(5)), "Figured names no figure"),
    Bad("discards by no rule", lambda at, _: av.discard_curve(at.model, at.inputs, "user", rules=[]), "no rule"),
    Bad(
        "tokens dropped by attention that nobody read",
        lambda at, _: dropped("attention", np.arange(4), 0.5, np.random.default_rng(0), None),
        "attention of an earlier layer",
    ),
    Bad("a case without a sample", lambda at, _: patch_media(at.model, SampleCase(at.inputs)), "no media to change"),
    Bad(
        "an answer that is no option",
        lambda at, _: av.Sample("a", (), "Which?", ("red", "blue"), answer="green").prepare(at.model),
        "does not name one option",
    ),
    Bad("positions of nothing", lambda at, _: qwen_vl_positions([], "transformers", 1.0), "an empty prompt"),
    Bad(
        "sampling between bounds that are crossed",
        lambda at, _: salmonn_indices(
            av.Clip.from_arrays(np.zeros((8, 28, 28, 3), np.uint8), fps=4),
            ResolvedSampling(fps=2.0, min_frames=9, max_frames=2),
        ),
        "no number of frames lies within these bounds",
    ),
    Bad(
        "a part of the model alone, under a hook of a span",
        lambda at, _: part_alone(at.model),
        "outside a forward pass",
    ),
    Bad(
        "values too large for float16",
        lambda at, model: model(at.inputs, interventions=av.add_vector("blocks.0.hook_mlp_out", "last", MANY)),
        "too large for the precision",
        half,
    ),
    Bad(
        "logits under interventions, read from a hook",
        lambda at, _: at.model.baseline(at.inputs).logits_under(["system->last"], read="blocks.1.hook_mlp_out@last"),
        "no logits are read here",
    ),
    Bad("ids in half precision", lambda at, _: replace(at.inputs, input_ids=at.inputs.input_ids.half()), "input_ids"),
    Bad("spans of fewer tokens", lambda at, _: replace(at.inputs, row_spans=(Spans(3, {}),)), "do not cover"),
    Bad(
        "padding in the midst",
        lambda at, _: replace(at.inputs, attention_mask=mask_without(at.inputs, 5)),
        "one unbroken run",
    ),
    Bad(
        "spans that reach into the padding",
        lambda at, _: replace(at.inputs, attention_mask=mask_without(at.inputs, 0)),
        "reach into the padding",
    ),
]


def mask_without(inputs, position):
    mask = inputs.attention_mask.clone()
    mask[0, position] = False
    return mask


def part_alone(model):
    rows = torch.zeros(1, 4, model.cfg.d_model)
    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out@last", lambda rows, hook: rows)]):
        return model.decoder.blocks[0].hook_mlp_out(rows)
