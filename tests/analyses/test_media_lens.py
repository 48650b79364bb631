"""Answer trace and media lens equal the slow computation; conventions are what they say; memory stays in its bound."""

import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

import hooked_av as av
from hooked_av.analyses.lenses.convention import LensConvention
from hooked_av.analyses.lenses.logit_lens import read_rows
from hooked_av.config import DecoderConfig
from hooked_av.errors import InputsError
from hooked_av.tiny.samples import read_samples

pytestmark = pytest.mark.usefixtures("one_thread")
N_LAYERS = 8
MB = 1_000_000


@pytest.fixture(scope="module")
def model():
    return av.HookedAVTransformer.from_pretrained("tiny-av")


@pytest.fixture(scope="module")
def inputs(model):
    sample = read_samples()[1]
    return model.prepare(sample.clip, question=sample.question)


@pytest.fixture(scope="module")
def slow(model, inputs):
    """All logits of all layers at all positions, by hand."""
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs, names_filter=["blocks.*.hook_resid_post", "blocks.*.hook_resid_pre"])
    return cache


def slow_logits(model, cache, layer, convention):
    resid = cache["resid_pre" if "layer_input" in convention else "resid_post", layer][0]
    with torch.no_grad():
        normed = resid if "no_norm" in convention else model.ln_final(resid[None])[0]
        return normed @ (model.embed.weight if "input_embedding" in convention else model.unembed.weight).T


@pytest.fixture(scope="module")
def media(model, inputs):
    return av.media_lens(model, inputs, tokens=["five", "one"])


@pytest.mark.parametrize(
    "convention", ["final_norm", "no_norm", "final_norm+layer_input", "no_norm+input_embedding", "input_embedding"]
)
def test_each_convention_is_what_it_says(model, inputs, slow, convention):
    trace = av.answer_trace(model, inputs, ["five", "two"], convention=convention)
    for layer in range(N_LAYERS):
        logits = slow_logits(model, slow, layer, convention)[-1]
        for number, token in enumerate(["five", "two"]):
            index = model.to_single_token(token)
            np.testing.assert_allclose(trace.probabilities[layer, number], logits.softmax(-1)[index].item(), rtol=1e-4)
            assert trace.ranks[layer, number] == (logits > logits[index]).sum().item()
        assert trace.best_ids[layer] == logits.argmax()
    assert trace.settings["convention"] == {"input_embedding": "final_norm+input_embedding"}.get(convention, convention)


@pytest.mark.parametrize("wrong", ["final_norn", "", "final_norm+no_norm", "no_norm+no_norm"])
def test_conventions_that_say_nothing_are_refused(model, inputs, wrong):
    with pytest.raises(InputsError, match="convention of the logit lens"):
        av.logit_lens(model, inputs, convention=wrong)


def test_the_trace_ends_with_the_models_own_answer(model, inputs):
    with torch.no_grad():
        best = model(inputs, logits_at="last")[0, -1].softmax(-1).topk(5)
    trace = av.answer_trace(model, inputs)
    assert [model.to_single_token(text) for text in trace.options] == best.indices.tolist()
    assert trace.ranks[-1].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(trace.probabilities[-1], best.values.numpy(), rtol=1e-4)
    assert trace.best_texts[-1] == "five"
    frame = trace.to_frame()
    row = frame[(frame.layer == N_LAYERS - 1) & (frame["rank"] == 0)].iloc[0]
    assert (row.option, row.best_token) == ("five", "five")


@pytest.mark.parametrize(
    "arguments, message",
    [({"at": "question"}, "6 tokens"), ({"tokens": ["five one"]}, "not one token")],
)
def test_traces_that_cannot_be_are_refused(model, inputs, arguments, message):
    with pytest.raises(InputsError, match=message):
        av.answer_trace(model, inputs, **arguments)


def test_the_media_lens_equals_the_slow_computation(model, inputs, slow, media):
    assert media.positions.tolist() == sorted(inputs.spans["av"])
    for layer in range(N_LAYERS):
        logits = slow_logits(model, slow, layer, "final_norm")[media.positions]
        best = logits.topk(3)
        np.testing.assert_allclose(media.top_logits[layer], best.values.numpy(), rtol=1e-4, atol=1e-4)
        index = model.to_single_token("one")
        np.testing.assert_allclose(
            media.token_probabilities[layer, :, 1], logits.softmax(-1)[:, index].numpy(), rtol=1e-3, atol=1e-9
        )


def test_media_tokens_know_their_place(inputs, media):
    for number, position in enumerate(media.positions):
        assert position in inputs.spans[media.modalities[number]]
        assert (media.cells[number, 0] >= 0) == (media.modalities[number] == "video")
    assert media.seconds.max() == 2.0
    clip = inputs.clips[0][0]
    assert media.sound_seconds == pytest.approx(2.0)
    assert media.sound_high.max() == clip.waveform.max()  # no peak is lost
    from hooked_av.plots.strip.time import thumbnail

    assert inputs.spans.places.seconds[inputs.spans.frame(1).positions, 0] == pytest.approx([1.3] * 4)
    np.testing.assert_array_equal(media.frames[1], thumbnail(clip.read_frames([13])[0], 96))  # 10 frames a second
    frame = media.to_frame()
    assert len(frame) == N_LAYERS * 58 * 3
    assert frame[frame.modality == "video"].frame_group.unique().tolist() == [0, 1]


def test_the_media_lens_saves_and_loads(media, tmp_path):
    again = av.analyses.MediaLens.load(media.save(tmp_path / "lens.safetensors"))
    for name in media.axes:
        np.testing.assert_array_equal(getattr(again, name), getattr(media, name))
    assert (again.modalities, again.sound_seconds) == (media.modalities, media.sound_seconds)


def test_items_are_read_one_at_a_time(model):
    clip = read_samples()[0].clip
    inputs = model.prepare([clip, clip.without_video()], question="Which digit is spoken first?")
    second = av.media_lens(model, inputs, item=1)
    assert set(second.modalities) == {"audio"}
    assert second.positions.tolist() == list(inputs.spans["item1.audio"])
    assert second.frames.shape[0] == 0
    with pytest.raises(InputsError, match="no media tokens of item 2"):
        av.media_lens(model, inputs, item=2)
    with pytest.raises(InputsError, match="no media tokens"):
        av.media_lens(model, model.prepare(question="Which digit?"))


def test_any_positions_can_be_read(model, inputs):
    lens = av.logit_lens(model, inputs, at=[3, 50])
    assert lens.positions.tolist() == [3, 50]
    whole = av.logit_lens(model, inputs, at="text|boundary|av")
    assert whole.top_ids[:, [3, 50]].tolist() == lens.top_ids.tolist()


# --- memory ----------------------------------------------------------------------------------------------------------


class PeakBytes(TorchDispatchMode):
    """Bytes of all storages that operations inside make, at the moment when they are most."""

    def __init__(self):
        super().__init__()
        self.known, self.now, self.peak = WeakIdKeyDictionary(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, torch.Tensor):
                self.known.setdefault(tensor.untyped_storage(), 0)  # a view of it is no new memory
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.known:
                self._made(tensor.untyped_storage())
        return out

    def _made(self, storage):
        self.known[storage] = size = storage.nbytes()
        weakref.finalize(storage, self._freed, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _freed(self, size):
        self.now -= size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_of_a_large_model_is_read_in_bounded_memory(dtype):
    """1,000 tokens, 3,584 wide, over a vocabulary of 152,064 (Qwen2.5-Omni-7B), on tensors without data."""
    config = DecoderConfig(
        n_layers=1, d_model=3584, n_heads=28, n_key_value_heads=4, d_head=128, d_mlp=64, d_vocab=152_064,
        mrope_section=(16, 24, 24), rotary_base=1e6, eps=1e-6, n_ctx=32_768, tied=False,
    )  # fmt: skip
    from hooked_av.decoder.decoder import HookedDecoder

    with torch.device("meta"):
        decoder = HookedDecoder(config).to(dtype)
        resid, ids = torch.empty(1000, 3584, dtype=dtype), torch.zeros(1000, 26, dtype=torch.int64)
    decoder.cfg = config
    with torch.no_grad(), PeakBytes() as memory:
        parts = read_rows(decoder, resid, ids, 5, LensConvention())
    assert [tuple(part.shape) for part in parts] == [(1000, 5)] * 3 + [(1000, 26)] * 2
    inside = 110 * 152_064 * 4  # what one operation may take for itself, and we cannot see
    assert inside < memory.peak  # the logits of a chunk were seen
    assert memory.peak + inside < 300 * MB
    print(f"{dtype}: {memory.peak / MB:.0f} MB seen, at most {(memory.peak + inside) / MB:.0f} MB")


def test_no_layer_is_kept(model, inputs, monkeypatch):
    """Rows of one layer are gone when the next layer is read: memory does not grow with the number of layers."""
    from hooked_av.analyses.lenses import logit_lens as module

    alive, most, real = [], [], module.read_rows

    def spy(model, resid, *rest):
        alive.append(weakref.ref(resid))
        most.append(sum(ref() is not None for ref in alive))
        return real(model, resid, *rest)

    monkeypatch.setattr(module, "read_rows", spy)
    av.logit_lens(model, inputs, at="av")
    assert len(most) == N_LAYERS
    assert max(most) == 1


_LARGE = """
import resource, torch
import hooked_av as av
torch.set_num_threads(1)
model = av.random_omni(n_layers=36)
inputs = av.AVInputs.from_tokens(torch.arange(1000)[None] % 1000)
with torch.no_grad():
    model(inputs, logits_at="last")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
lens = av.logit_lens(model, inputs, at="all", tokens=[" three", " eight"])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(lens.top_ids.shape, model.cfg.d_vocab, (after - before) * 1024)
"""


@pytest.mark.slow
def test_36_layers_of_1000_tokens_over_a_whole_vocabulary_take_less_than_500_mb():
    # what is freed goes back at once: else the allocator's leftovers, by chance 200 to 600 MB, would be measured
    how = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run([sys.executable, "-c", _LARGE], capture_output=True, text=True, check=True, env=how)
    *shape, d_vocab, extra = done.stdout.replace("(", "").replace(")", "").replace(",", "").split()
    assert [int(size) for size in shape] == [36, 1000, 5]
    assert int(d_vocab) == 151_936
    assert int(extra) < 500 * MB


def test_a_film_without_sound_is_read_without_a_wave(model):
    clip = read_samples()[0].clip.without_audio()
    found = av.media_lens(model, model.prepare(clip, question="Which digit is shown first?"))
    assert (found.sound_low.size, found.sound_high.size, found.sound_seconds) == (0, 0, 0.0)
    assert len(found.frames) > 0
    assert found.plot().axes
