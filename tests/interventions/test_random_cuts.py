"""Random cuts: as many pairs as the cut they control, in the same triangle, uniform, equal in every kind of pass."""

import pytest
import torch
from support.thinkers import make_thinker, prompts

import hooked_av as av
from hooked_av.decoder.cuts import RandomCut, count_cut, pair_numbers, spread_evenly
from hooked_av.errors import InterventionError
from hooked_av.model.transformer import HookedAVTransformer

THINKER = make_thinker("eager", n_kv=2)
MODEL = HookedAVTransformer.from_hf(make_thinker(n_kv=2))
TENSORS = prompts()["audio in video"].tensors()
INPUTS = MODEL.inputs_from_tensors(**TENSORS)
N_POS, N_LAYERS = INPUTS.n_pos, MODEL.cfg.n_layers
INPUTS = INPUTS.with_span("question", range(N_POS - 6, N_POS))
EVERY = torch.arange(N_POS)[None]
CUTS = ["audio->question", "av->video", "last->last", "text->av"]
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning"),
]


def matrices(spec, inputs=INPUTS):
    """What a spec takes away, as a matrix for each layer, counted pair by pair."""
    plan = MODEL.begin(inputs, interventions=spec).plan
    every = torch.arange(inputs.n_pos).expand(inputs.batch, -1)
    readable = torch.ones(inputs.n_pos, inputs.n_pos, dtype=torch.bool).tril()
    return {
        layer: torch.stack([cut.blocked(every, every) for cut in some]).any(dim=0) & readable
        for layer, some in plan.cuts.items()
    }


def logits(*specs, inputs=INPUTS):
    with torch.no_grad():
        return MODEL(inputs, interventions=list(specs))


@pytest.mark.parametrize("route", CUTS)
@pytest.mark.parametrize("spread", ["entries", "rows"])
def test_as_many_pairs_in_the_same_layers(route, spread):
    like = av.block_attention(f"{route}@0,2")
    wanted = matrices(like)
    for seed in range(3):
        found = matrices(av.block_random(like, spread=spread, seed=seed))
        assert sorted(found) == sorted(wanted) == [0, 2]
        for layer, pairs in found.items():
            assert pairs.sum() == wanted[layer].sum() > 0
            if spread == "rows":
                assert torch.equal(pairs.sum(dim=2), wanted[layer].sum(dim=2))
        assert torch.equal(found[0], found[2]), "the same pairs in every layer"


def test_no_pair_is_of_a_later_key():
    one = MODEL.begin(INPUTS)
    for spread in ("entries", "rows"):
        (cut,) = one.plan_of(av.block_random("av->av@1", spread=spread)).cuts[1]
        assert not cut.blocked(EVERY, EVERY).triu(1).any()


def test_several_cuts_that_act_together_count_each_pair_once():
    both = ["audio->question@1", "av->question@1"]
    random = av.block_random([av.block_attention(route) for route in both])
    assert matrices(random)[1].sum() == matrices(av.block_attention("av->question@1"))[1].sum()


def test_a_control_of_keep_only_leaves_as_many_pairs_in_every_layer():
    like = av.keep_only("av->question@0-1", "question->last", "text->text")
    wanted, found = matrices(like), matrices(av.block_random(like, seed=3))
    assert [found[layer].sum() for layer in found] == [wanted[layer].sum() for layer in range(N_LAYERS)]
    assert not torch.equal(found[0], found[1]), "drawn anew in each layer"


def test_every_pair_is_equally_likely():
    n_pos, n_draws, per_draw = 12, 600, 6
    rows, counts = torch.arange(n_pos)[None], torch.zeros(1, n_pos, dtype=torch.int64)
    counts[0, [9, 10]] = per_draw // 2
    seen, by_row = torch.zeros(n_pos, n_pos), torch.zeros(n_pos, n_pos)
    for seed in range(n_draws):
        everywhere = RandomCut.drawn(spread_evenly(counts, (0,), seed), (0,), seed, None).blocked(rows, rows)[0]
        assert everywhere.sum() == per_draw
        seen += everywhere
        by_row += RandomCut.drawn(counts, (0,), seed, None).blocked(rows, rows)[0]
    expected = n_draws * per_draw / (n_pos * (n_pos + 1) / 2)
    assert (seen[torch.ones(n_pos, n_pos).tril().bool()] - expected).abs().max() < 4.5 * expected**0.5
    expected = n_draws * 3 / 11
    assert (by_row[10, :11] - expected).abs().max() < 4.5 * expected**0.5
    assert by_row.sum(dim=1).tolist() == [0] * 9 + [3 * n_draws] * 2 + [0]


def test_numbers_of_pairs_do_not_depend_on_what_is_asked_with_them():
    whole = pair_numbers(EVERY, EVERY, seed=5)
    assert torch.equal(pair_numbers(EVERY[:, 3:7], EVERY[:, 2:9], seed=5), whole[:, 3:7, 2:9])
    assert len(whole.unique()) == whole.numel()
    assert not (pair_numbers(EVERY, EVERY, seed=6) == whole).any()


@pytest.mark.parametrize("spread", ["entries", "rows"])
def test_a_random_cut_equals_transformers_with_its_mask(spread):
    # transformers makes a row without keys uniform: a draw that leaves every row one
    specs = (av.block_random("audio->question@0,1", spread=spread, seed=seed) for seed in range(100))
    spec, cut = next((s, m) for s in specs for m in [matrices(s)] if not m[0][0].diagonal()[0])
    text_model = getattr(THINKER.model, "language_model", THINKER.model)
    handles = []
    for layer, pairs in cut.items():
        allowed = torch.ones(N_POS, N_POS, dtype=torch.bool).tril() & ~pairs[0]
        mask = torch.zeros(1, 1, N_POS, N_POS).masked_fill(~allowed, torch.finfo(torch.float32).min)
        hook = lambda module, args, kwargs, mask=mask: (args, {**kwargs, "attention_mask": mask})  # noqa: E731
        handles.append(text_model.layers[layer].register_forward_pre_hook(hook, with_kwargs=True))
    THINKER.model.rope_deltas = None
    with torch.no_grad():
        theirs = THINKER(**TENSORS).logits
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(logits(spec), theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(spec)[0, -1], logits()[0, -1], atol=1e-3)


def test_a_replay_of_a_random_cut_is_the_full_pass():
    baseline = MODEL.baseline(INPUTS, touched="question")
    sweep = [
        av.block_random(f"{route}@{layer}", spread=spread, seed=layer)
        for route in ("av->question", "video->audio", "last->last")
        for spread in ("entries", "rows")
        for layer in range(N_LAYERS)
    ]
    found = baseline.run(sweep)
    assert not found.full_passes
    for spec, replayed in zip(sweep, found.logits, strict=True):
        torch.testing.assert_close(replayed, logits(spec)[0, -1], rtol=1e-4, atol=1e-4)


def test_padding_changes_no_draw():
    short, long = (
        av.AVInputs.from_tokens(torch.arange(n)[None]).with_span("keys", range(2, 8)).with_span("rows", range(9, 12))
        for n in (13, 17)
    )
    both = MODEL.batch([short, long])
    spec = av.block_random("keys->rows", seed=2)
    for row, alone in enumerate((short, long)):
        start = both.n_pos - alone.n_pos
        padded, own = matrices(spec, both)[0][row], matrices(spec, alone)[0][0]
        assert torch.equal(padded[start:, start:], own)
        assert not padded[:start].any()
        assert not padded[:, :start].any()


def test_heads_are_those_of_the_cut():
    like = av.block_attention(keys="audio", queries="question", layers=[1], heads=[2])
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(
            INPUTS, names_filter="blocks.1.attn.hook_pattern", interventions=av.block_random(like)
        )
    lost = (cache["blocks.1.attn.hook_pattern"] == 0).sum(dim=(0, 2, 3)) - N_POS * (N_POS - 1) // 2
    assert lost.tolist() == [0, 0, matrices(like)[1].sum(), 0]


def test_a_prompt_is_cut_in_the_prefill_of_a_generation_only():
    spec = av.block_random("av->question", seed=1)
    generation = MODEL.generate(INPUTS, max_new_tokens=3, interventions=spec, stop_tokens=())
    assert int(generation.tokens[0][0]) == int(logits(spec)[0, -1].argmax())
    with pytest.raises(InterventionError, match="can never act"):
        MODEL.generate(INPUTS, max_new_tokens=3, interventions=spec, stop_tokens=(), during="decode")


def test_counting_is_that_of_the_matrices():
    for spec in (*map(av.block_attention, CUTS), av.keep_only("av->question@1", "text->text")):
        for layer, some in MODEL.begin(INPUTS, interventions=spec).plan.cuts.items():
            counts = count_cut(some, N_POS, (0,), torch.device("cpu"))
            assert torch.equal(counts, matrices(spec)[layer].sum(dim=2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: av.block_random([]),
        lambda: av.block_random(av.drop_tokens("audio", 1)),
        lambda: av.block_random([av.keep_only("audio->last"), av.block_attention("audio->last")]),
        lambda: av.block_random([av.block_attention(keys="audio", queries="last", heads=1), "audio->question"]),
    ],
)
@pytest.mark.usefixtures("as_a_user")
def test_what_is_no_cut_has_no_control(make):
    with pytest.raises(InterventionError, match="cannot draw a random cut"):
        make()


def test_layers_are_checked():
    with pytest.raises(InterventionError, match="no such layers"):
        logits(av.block_random("audio->question@9"))
    with pytest.raises(InterventionError, match="runs no layer"), torch.no_grad():
        MODEL(INPUTS, interventions=av.block_random("audio->question@2"), stop_at_layer=1)
