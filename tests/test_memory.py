"""What a run will keep is known before it runs, within a tenth, and what would fit is said where it does not."""

import subprocess
import sys

import pytest
import torch
from support.families import FAMILIES

from hooked_av.errors import MemoryBudgetError
from hooked_av.forward import passes
from hooked_av.generation import generate as generating
from hooked_av.generation.limits import generation_bytes
from hooked_av.replay import clean_pass

pytestmark = pytest.mark.usefixtures("one_thread")
FILTERS = {
    "all that grows with tokens": None,
    "one stream": "blocks.*.hook_resid_post",
    "a span of it": "blocks.*.hook_resid_post@last",
    "patterns": ["blocks.1.attn.hook_pattern", "blocks.*.attn.hook_attn_scores@last"],
    "results and logits": ["blocks.0.attn.hook_result", "hook_logits"],
    "encoder rows": ["hook_audio_embed", "hook_video_embed"],
}
READS = {"every row": None, "the last row": "last"}
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def held(tensors):
    """Bytes of the storages behind some tensors, each once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@pytest.fixture
def foretold(monkeypatch):
    """Every size that is held against the budget."""
    sizes = []
    for module in (passes, clean_pass):
        monkeypatch.setattr(module, "check_budget", lambda what, needed, *rest: sizes.append(needed))
    return sizes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("at", READS.values(), ids=READS)
@pytest.mark.parametrize("names", FILTERS.values(), ids=FILTERS)
def test_a_cache_and_its_logits(family, foretold, names, at, dtype):
    model = family.model.to(dtype)
    try:
        with torch.no_grad():
            logits, cache = model.run_with_cache(family.inputs("audio in video"), names_filter=names, logits_at=at)
    finally:
        model.to(torch.float32)
    assert foretold == [pytest.approx(held([logits, *cache.values()]), rel=0.1)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("touched", [None, "audio", "last"])
def test_a_baseline(family, foretold, touched, dtype):
    model = family.model.to(dtype)
    try:
        clean = model.baseline(family.inputs("audio in video"), touched=touched).clean
    finally:
        model.to(torch.float32)
    known = [tensor for some in clean.keys_values.layers.values() for tensor in (some.k, some.v)]
    kept = held([clean.embeds, *clean.resid.values(), *known])
    assert foretold == [pytest.approx(kept, rel=0.1)]
    assert clean.n_bytes == pytest.approx(kept, rel=0.1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("keeps", [False, True])
def test_a_generation(family, monkeypatch, keeps, dtype):
    """Keys and values at the end, with the copy of the layer that grows; kept logits, and their stack."""
    decoders, made = [], generating._Decoder.__init__
    monkeypatch.setattr(generating._Decoder, "__init__", lambda self, *a: decoders.append(self) or made(self, *a))
    model, inputs = family.model.to(dtype), family.inputs("audio in video")
    try:
        answer = model.generate(inputs, max_new_tokens=40, stop_tokens=(), keep="logits" if keeps else ())
        fixed, each = generation_bytes(model, inputs, keeps)
    finally:
        model.to(torch.float32)
    layers = decoders[0].past.layers
    known = held([tensor for some in layers.values() for tensor in (some.k, some.v)])
    grown = known * (len(layers) + 1) / len(layers)
    logits = 0 if answer.logits is None else 2 * held([answer.logits])
    assert fixed + 40 * each == pytest.approx(grown + logits, rel=0.1)


# --- what would fit --------------------------------------------------------------------------------------------------


def offered(call, words):
    """The number that an error offers behind some words."""
    with pytest.raises(MemoryBudgetError) as refused:
        call()
    text = refused.value.next_step
    assert words in text, text
    return int(text.partition(words)[2].split()[0])


def test_as_many_tokens_as_are_offered_fit_and_no_more(family):
    model, inputs = family.model, family.inputs("audio in video")
    go = lambda n: model.generate(inputs, max_new_tokens=n, stop_tokens=(), max_bytes=200_000)  # noqa: E731
    n = offered(lambda: go(10_000), "max_new_tokens up to")
    assert len(go(n).tokens[0]) == n
    with pytest.raises(MemoryBudgetError):
        go(n + 1)


def test_as_many_layers_as_are_offered_fit_and_no_more(family):
    model, inputs, names = family.model, family.inputs("audio in video"), "blocks.*.hook_resid_post"
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs, names_filter=names, logits_at="last")
        sizes = [tensor.numel() * 4 for tensor in cache.values()]
        budget = sum(sizes[:2]) + model.cfg.d_vocab * 4
        go = lambda names: model.run_with_cache(inputs, names_filter=names, logits_at="last", max_bytes=budget)  # noqa: E731
        assert offered(lambda: go(names), "layers 0 to") == 1
        go("blocks.[0-1].hook_resid_post")


def test_a_baseline_of_the_rows_that_are_offered_fits(family):
    model, inputs = family.model, family.inputs("audio in video")
    with pytest.raises(MemoryBudgetError, match="touched='last' needs"):
        model.baseline(inputs, max_bytes=model.baseline(inputs).n_bytes - 1)
    model.baseline(inputs, touched="last", max_bytes=model.baseline(inputs, touched="last").n_bytes + 1)


# --- a hard limit ----------------------------------------------------------------------------------------------------

LONG = """
import resource, torch
import hooked_av as av
torch.set_num_threads(1)
model = av.random_omni(n_layers=2).to(torch.float32)
tokens = torch.randint(0, 1000, (1, {n_tokens}))
with torch.no_grad():
    model(tokens[:, :64], logits_at="last")
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + {room},) * 2)
    inputs = model.as_inputs(tokens).with_span("late", range({n_tokens} - 50, {n_tokens}))
    model(inputs, logits_at="last")
    model.run_with_cache(inputs, names_filter="blocks.*.hook_resid_post", logits_at="last")
    baseline = model.baseline(inputs)
    baseline.run(["text->last", "text->late@0", av.ablate("blocks.0.hook_mlp_out", "late")])
    model.generate(inputs, max_new_tokens=3, stop_tokens=(), interventions="text->last|generated")
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit of the address space is Linux's")
def test_eight_thousand_tokens_run_under_a_hard_limit():
    """A square of 8,000 rows in float32 would be 256 MB a head; the limit leaves 200 MB for everything."""
    script = LONG.format(n_tokens=8000, room=200_000_000)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert ran.stdout.strip() == "done", ran.stderr[-2000:]
