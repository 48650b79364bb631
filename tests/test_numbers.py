"""The same numbers again: from call to call, whatever stands beside a prompt, and in whatever way torch is set up."""

import subprocess
import sys

import pytest
import torch

import hooked_av as av
from hooked_av.tiny.samples import read_samples

SAMPLE = read_samples()[0]
ROUTES = ["audio->last", "video->question@1-3", "question->last@7"]


def load():
    return av.HookedAVTransformer.from_pretrained("tiny-av")


def prepared(model):
    return model.prepare(SAMPLE.clip, question=SAMPLE.question)


MODEL = load()
INPUTS = prepared(MODEL)


@torch.no_grad()
def logits(model, inputs, **how):
    return model(inputs, logits_at="last", **how)


@torch.no_grad()
def cached(model, inputs, **how):
    names = ["blocks.*.hook_resid_post@last", "blocks.3.attn.hook_pattern@last"]
    return torch.cat([tensor.flatten() for tensor in model.run_with_cache(inputs, names_filter=names)[1].values()])


def replayed(model, inputs, **how):
    return model.baseline(inputs).run(ROUTES, **how).logits


def written(model, inputs, **how):
    return model.generate(inputs, max_new_tokens=4, stop_tokens=(), keep="logits", **how).logits


def sampled(model, inputs):
    return written(model, inputs, do_sample=True, seed=3)


def mapped(model, inputs):
    return torch.tensor(av.information_flow(model, inputs, pathways=["audio->last"]).control_p_answer)


def dropped(model, inputs):
    return torch.tensor(av.discard_curve(model, inputs, "video", [2], rules="random", repeats=1).p_drop)


def lens(model, inputs):
    return torch.tensor(av.logit_lens(model, inputs).top_probabilities)


def attended(model, inputs):
    return torch.tensor(av.attention_mass(model, inputs).mass)


def swept(model, inputs):
    return torch.tensor(av.route_sweep(model, inputs, ROUTES).p_cut)


def contributed(model, inputs):
    return torch.tensor(av.modality_contribution(model, inputs).control_p_answer).nan_to_num(-1)


RUNS = {run.__name__: run for run in (logits, cached, replayed, written)}
ANALYSES = {run.__name__: run for run in (sampled, mapped, dropped, lens, attended, swept, contributed)}


@pytest.mark.parametrize("run", (RUNS | ANALYSES).values(), ids=RUNS | ANALYSES)
def test_the_same_call_twice_gives_the_same_bits(run):
    assert torch.equal(run(MODEL, INPUTS), run(MODEL, INPUTS))


def close(ours, wanted, atol=1e-5):
    torch.testing.assert_close(ours.float(), wanted.float(), rtol=0, atol=atol)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_threads_change_nothing(run):
    before = torch.get_num_threads()
    found = []
    try:
        for n_threads in (1, 2, 4):
            torch.set_num_threads(n_threads)
            found.append(run(MODEL, INPUTS))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        close(other.log_softmax(-1), found[0].log_softmax(-1), atol=3e-5)


def test_the_order_of_a_batch_changes_nothing():
    prompts = [INPUTS, MODEL.prepare(question="Which digit?"), MODEL.prepare(SAMPLE.clip, question="Which color?")]
    orders = [[0, 1, 2], [2, 0, 1], [1, 2, 0]]
    found = [
        logits(MODEL, MODEL.batch([prompts[row] for row in order]))[torch.tensor(order).argsort()] for order in orders
    ]
    for other in found[1:]:
        close(other, found[0])
    for row, prompt in enumerate(prompts):
        close(found[0][row : row + 1], logits(MODEL, prompt))


def test_the_size_of_a_replays_batches_changes_nothing():
    wanted = replayed(MODEL, INPUTS)
    for max_bytes in (2**20, 2**22, 2**26):
        close(replayed(MODEL, INPUTS, max_bytes=max_bytes), wanted, atol=3e-5)


# --- ways to set torch up --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clean():
    return {name: run(MODEL, INPUTS) for name, run in RUNS.items()}


@pytest.mark.parametrize("name", RUNS)
def test_inference_mode(clean, name):
    with torch.inference_mode():
        assert torch.equal(RUNS[name](MODEL, INPUTS), clean[name])


def test_everything_in_inference_mode(clean):
    with torch.inference_mode():
        model = load()
        close(replayed(model, prepared(model)), clean["replayed"])


def test_another_default_dtype_is_nobodys_business(clean):
    torch.set_default_dtype(torch.float64)
    try:
        model = load()
        inputs = prepared(model)
        found = {name: run(model, inputs) for name, run in RUNS.items()}
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.cfg.dtype == torch.float32
    for name, wanted in clean.items():
        assert torch.equal(found[name], wanted), name


def test_media_are_prepared_under_autocast_as_without():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inputs = prepared(MODEL)
    assert all(torch.equal(inputs.features[name], tensor) for name, tensor in INPUTS.features.items())


PRECISIONS = {
    "half": (lambda model: model.half(), torch.float16, 0.1),
    "bfloat16": (lambda model: model.to(torch.bfloat16), torch.bfloat16, 0.5),
    "double": (lambda model: model.double(), torch.float64, 1e-4),
    "to float64": (lambda model: model.to(dtype=torch.float64), torch.float64, 1e-4),
}


@pytest.mark.parametrize(("change", "dtype", "atol"), PRECISIONS.values(), ids=PRECISIONS)
def test_a_model_in_another_precision(clean, change, dtype, atol):
    model = change(load())
    assert model.cfg.dtype == dtype
    found = logits(model, INPUTS)
    assert found.dtype == dtype
    close(found, clean["logits"], atol)
    full = torch.cat([logits(model, INPUTS, interventions=route)[:, 0] for route in ROUTES])
    close(replayed(model, INPUTS), full, atol)
    assert written(model, INPUTS).isfinite().all()


COMPILED = """
import torch
import hooked_av as av
model = av.HookedAVTransformer.from_pretrained("tiny-av")
inputs = model.prepare(question="Which digit do you hear?")
with torch.no_grad():
    compiled = torch.compile(model, backend="eager")  # without a compiler: what torch traces must be what runs
    print(torch.equal(compiled(inputs, logits_at="last"), model(inputs, logits_at="last")))
"""


@pytest.mark.slow
def test_a_compiled_model_is_the_model():
    """In a process of its own: the tests' type checker cannot be traced."""
    ran = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, timeout=300)
    assert ran.stdout.strip() == "True", ran.stderr[-2000:]
