"""Every way of docs/cut_rows.md is taken, and gives what plain scores under a mask give."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from support.replays import film

import hooked_av
from hooked_av.decoder import attention, costs
from hooked_av.decoder.attention import Attend, KeyValues, Known, pattern_of, scores_of, weigh
from hooked_av.decoder.cut_masks import CausalBlock, CutBlock, Touched, allowed_keys
from hooked_av.decoder.cuts import Cut, RandomCut
from hooked_av.decoder.decoder import Attention
from hooked_av.replay import key_parts
from hooked_av.replay.shared_prefix import SharedPrefix
from hooked_av.replay.sweep import Batch

pytestmark = pytest.mark.usefixtures("one_thread")
N_HEADS, N_KV, D_HEAD, N_POS = 4, 2, 8, 40
PAGE = Path(hooked_av.__file__).parent.parent / "docs" / "cut_rows.md"


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def qkv(batch, n_pos):
    heads = ((N_HEADS, 0), (N_KV, 1), (N_KV, 2))
    return [random(batch, n, n_pos, D_HEAD, seed=seed) for n, seed in heads]


def plain(q, k, v, rows, keys, starts, cuts):
    """Scores of every pair, and a mask."""
    return weigh(pattern_of(scores_of(q, k, allowed_keys(rows, keys, starts, cuts, q.shape[1]))), v)


def cut(queries, keys, heads=None, batch=1):
    return Cut(*(torch.tensor([[*positions]] * batch) for positions in (queries, keys)), heads)


# --- what is computed, and the plain way beside it -------------------------------------------------------------------


def one_pass(*cuts, backend="sdpa", starts=(0,), n_past=0, n_pos=N_POS):
    """The rows after `n_past`, over keys and values of those before."""

    def run(monkeypatch):
        batch, past = len(starts), KeyValues() if n_past else None
        q, k, v = qkv(batch, n_pos)
        positions = torch.arange(n_pos).expand(batch, -1)
        if past is not None:
            past.extend(0, Known(k[:, :, :n_past], v[:, :, :n_past], positions[:, :n_past]))
        rows = positions[:, n_past:]
        attend = Attend(backend, starts, {0: cuts}, rows=rows if n_past else None, past=past)
        found = attend.read(0, q[:, :, n_past:], *attend.known(0, k[:, :, n_past:], v[:, :, n_past:]))
        return found, plain(q[:, :, n_past:], k, v, rows, positions, starts, cuts)

    return run


def runs(*run_cuts, n_prefix=N_POS - 10, reading=None):
    """Runs of one prompt, each with its cuts, over a shared prefix."""

    def run(monkeypatch):
        q, k, v = qkv(len(run_cuts), N_POS)
        positions = torch.arange(N_POS)[None]
        k, v = (torch.cat([x[:1, :, :n_prefix].expand(len(x), -1, -1, -1), x[:, :, n_prefix:]], dim=2) for x in (k, v))
        own = positions[0, n_prefix:]
        rows = own if reading is None else own[reading]
        attend = SharedPrefix(
            prefix_k=k[:1, :, :n_prefix], prefix_v=v[:1, :, :n_prefix], own=own, run_cuts=run_cuts,
            max_scores=1 << 20, reading=reading,
        )  # fmt: skip
        found = attend.read(0, q[:, :, rows], k[:, :, n_prefix:], v[:, :, n_prefix:])
        one = [slice(i, i + 1) for i in range(len(run_cuts))]
        wanted = [
            plain(q[i][:, :, rows], k[i], v[i], rows[None], positions, (0,), some)
            for i, some in zip(one, run_cuts, strict=True)
        ]
        return found, torch.cat(wanted)

    return run


def without_kernel(run):
    def wrong_card(monkeypatch):
        monkeypatch.setattr(key_parts, "kernel_for", lambda *like: None)
        return run(monkeypatch)

    return wrong_card


def read_plainly(self, layer, q, k, v):
    """For `Attend.read`."""
    return plain(q, k, v, *self.places(layer, q, k), self.starts, self.cuts.get(layer, ()))


def replayed(route):
    """A replay, beside a whole pass with plain attention."""

    def run(monkeypatch):
        model, inputs, baseline = film("omni")
        found = baseline.run([route]).logits[0]
        monkeypatch.setattr(Attend, "read", read_plainly)
        with torch.no_grad():
            return found, model(inputs, interventions=route, logits_at="last")[0, 0]

    return run


def hooked(monkeypatch):
    """A pass whose patterns a hook gives back as they are, beside one with plain attention."""
    model, inputs, _ = film("omni")
    copy = [("blocks.*.attn.hook_pattern@question", lambda pattern, hook: pattern.clone())]
    with torch.no_grad():
        found = model.run_with_hooks(inputs, fwd_hooks=copy)
        monkeypatch.setattr(Attend, "read", read_plainly)
        return found, model(inputs)


# --- the ways ---------------------------------------------------------------------------------------------------------


@dataclass
class Way:
    """What computes rows this way, when a call of it is one, and what to run, under which limits."""

    function: tuple[object, str]
    run: Callable
    is_taken: Callable = lambda found, *given, **named: True
    limits: dict[str, int] = field(default_factory=dict)


def with_keys_left_out(found, attend, q, k, v):
    return k.shape[1] < attend.prefix_k.shape[2]


HALF, FEW, SOUND, FILM = range(20, N_POS), range(32, 36), range(4, 12), range(12, 20)
EVERY = range(N_POS)
DRAWN = RandomCut.drawn(torch.full((1, N_POS), 3), (0,), 1, None)
OWN = range(30, 37)
WAYS = {
    "causal kernel": Way((attention, "_fused"), one_pass(), lambda found, *given, is_causal: is_causal),
    "one row": Way(
        (attention, "_fused"), one_pass(n_past=N_POS - 1), lambda found, *given, is_causal: not is_causal
    ),
    "empty queries": Way((attention, "_after_empty_queries"), one_pass(n_past=8)),
    "masked blocks": Way((attention, "_in_masked_blocks"), one_pass(n_past=20), limits={"CUT_BLOCK": 8}),
    "eager": Way((attention, "_eager_block"), one_pass(backend="eager"), limits={"EAGER_BLOCK": 16}),
    "prompt by prompt": Way((Attend, "_per_prompt"), one_pass(starts=(3, 0))),
    "masked rows": Way(
        (CutBlock, "read"), one_pass(cut(FEW, SOUND)), lambda found, block, *given: block.used is None
    ),
    "rows without lost keys": Way(
        (CutBlock, "read"),
        one_pass(cut(HALF, SOUND)),
        lambda found, block, q, k, v: block.used is not None and len(block.used) < k.shape[2],
    ),
    "rows in some heads": Way(
        (CutBlock, "read"), one_pass(cut(HALF, SOUND, (1, 2))), lambda found, block, *given: block.heads == [1, 2]
    ),
    "masks made anew": Way(
        (Touched, "_kept"),
        one_pass(cut(HALF, HALF)),
        lambda found, *given: found is None,
        limits={"CUT_BLOCK": 8, "KEPT_MASKS": 0},
    ),
    "causal without lost keys": Way((CausalBlock, "read"), one_pass(cut(HALF, SOUND)), limits={"CUT_BLOCK": 8}),
    "every row touched": Way((attention, "read_everything"), one_pass(cut(EVERY, EVERY[:1]))),
    "edited by a hook": Way((Attention, "_observe"), hooked),
    "all runs at once": Way(
        (SharedPrefix, "_read_prefix"), runs((), (), ()), lambda *given: not with_keys_left_out(*given)
    ),
    "classes of rows": Way(
        (SharedPrefix, "_read_prefix"), runs((cut(OWN, SOUND),), (), (cut(OWN, FILM),)), with_keys_left_out,
        limits={"FEW_PLACES": 7},
    ),
    "masked runs": Way((SharedPrefix, "_read_masked"), runs((DRAWN,), (), (cut(OWN, SOUND, (1,)),))),
    "without a kernel": Way((key_parts, "scores_of_part"), without_kernel(runs((), (cut(OWN, FILM),)))),
    "run by run": Way(
        (SharedPrefix, "_run_by_run"),
        runs((), (cut(OWN, SOUND),), (cut(range(30, N_POS), FILM),)),
        lambda found, *given: found is not None,
        limits={"MANY_ROWS": 10},
    ),
    "first cut alone": Way((Batch, "_first_cut"), replayed("audio->question - last@0"), limits={"CALL_ROWS_ON_CPU": 1}),
}  # fmt: skip


def recorded(monkeypatch, way):
    """Calls of a way's function, told by whether they are this way."""
    owner, name = way.function
    real, calls = getattr(owner, name), []

    def spy(*given, **named):
        found = real(*given, **named)
        calls.append(bool(way.is_taken(found, *given, **named)))
        return found

    monkeypatch.setattr(owner, name, spy)
    return calls


@pytest.mark.filterwarnings("ignore:.*query rows have no key left")
@pytest.mark.parametrize("name", WAYS)
def test_a_way_is_taken_and_gives_what_plain_scores_give(monkeypatch, name):
    way = WAYS[name]
    for limit, value in way.limits.items():
        monkeypatch.setattr(costs, limit, value)
    calls = recorded(monkeypatch, way)
    found, wanted = way.run(monkeypatch)
    assert any(calls)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_page_names_these_ways_and_no_others():
    firsts = re.findall(r"^\| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [name for name in firsts if name != "Way"] == list(WAYS)


def test_the_page_names_every_limit():
    said = set(re.findall(r"`([A-Z_]+)`", PAGE.read_text(encoding="utf-8"))) - {"LIKE_THIS"}
    assert said == {name for name in vars(costs) if name.isupper()}
