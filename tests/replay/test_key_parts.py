"""Attention in parts: parts of the keys join to one softmax, keys are left out for the rows that lose the same ones."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_av.decoder.cut_masks import CausalBlock, CutBlock, OnePrompt
from hooked_av.decoder.cuts import Cut, Keep, RandomCut
from hooked_av.decoder.flops import count_flops
from hooked_av.replay import key_parts
from hooked_av.replay.blocked_keys import BlockedKeys
from hooked_av.replay.key_parts import joined, read_part, scores_of_part, weigh_part
from hooked_av.replay.shared_prefix import SharedPrefix

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def softmax_of(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v


# --- parts ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(1, 9), st.sampled_from([3, 8]), st.sampled_from([0.1, 30.0]))
def test_two_parts_join_to_one_softmax(n_first, n_second, d_head, size):
    """Large scores, too: nothing overflows."""
    q, k, v = size * random(2, 5, d_head), random(2, n_first + n_second, d_head, seed=1), random(2, 18, d_head, seed=2)
    v = v[:, : n_first + n_second]
    parts = [read_part(q, k[:, some], v[:, some], 7) for some in (slice(n_first), slice(n_first, None))]
    for pair in (parts, parts[::-1]):
        torch.testing.assert_close(joined(*pair), softmax_of(q, k, v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_the_kernel_and_explicit_scores_agree(monkeypatch, dtype, off):
    q, k, v = (random(2, n, 16, seed=n).to(dtype) for n in (300, 40, 41))
    fused = read_part(q, k, v[:, :40], 1)
    monkeypatch.setattr(key_parts, "kernel_for", lambda *like: None)
    sizes = []
    monkeypatch.setattr(key_parts, "scores_of_part", lambda q, k: sizes.append(q.shape[1]) or scores_of_part(q, k))
    explicit = read_part(q, k, v[:, :40], max_scores=2 * 40 * 50)
    torch.testing.assert_close(fused.z.float(), explicit.z, rtol=off, atol=off)
    torch.testing.assert_close(fused.log_total, explicit.log_total, rtol=off, atol=off)
    assert sizes == [50] * 6  # never more scores than asked for


def test_no_key_in_either_part_reads_zero():
    scores = torch.full((1, 2, 3), -torch.inf)
    empty = weigh_part(scores, random(1, 3, 4))
    nothing = read_part(random(1, 2, 4), random(1, 0, 4), random(1, 0, 4), 1)
    assert torch.equal(joined(empty, nothing), torch.zeros(1, 2, 4))
    some = read_part(random(1, 2, 4), random(1, 3, 4), random(1, 3, 4), 1)
    assert torch.equal(joined(some, empty), some.z)
    assert torch.equal(joined(nothing, some), some.z)


@pytest.mark.parametrize(
    ("device", "dtype", "d_head", "fused"),
    [("cpu", torch.float32, 5, True), ("cuda", torch.bfloat16, 128, True), ("cuda", torch.float32, 128, False),
     ("cuda", torch.float16, 12, False), ("meta", torch.float32, 64, False)],
)  # fmt: skip
def test_which_tensors_a_kernel_takes(monkeypatch, device, dtype, d_head, fused):
    monkeypatch.setattr(key_parts, "_has_flash_attention", lambda device: True)
    assert (key_parts.kernel_for(torch.device(device), dtype, d_head) is not None) is fused


@pytest.mark.parametrize(
    ("built", "capability", "hip", "has"),
    [(True, (8, 0), None, True), (True, (7, 5), None, False), (False, (9, 0), None, False), (True, None, "6.3", True)],
)
def test_which_cards_have_flash_attention(monkeypatch, built, capability, hip, has):
    """Older ones must not be asked: the kernel itself would raise."""
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    key_parts._has_flash_attention.cache_clear()
    kernel = key_parts.kernel_for(torch.device("cuda"), torch.float16, 64)
    key_parts._has_flash_attention.cache_clear()
    assert (kernel is not None) is has


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_kernel_of_a_gpu_agrees():
    q, k, v = (random(2, n, 64, seed=n).cuda().bfloat16() for n in (300, 40, 41))
    fused, explicit = read_part(q, k, v[:, :40], 1), weigh_part(scores_of_part(q, k), v[:, :40])
    torch.testing.assert_close(fused.z.float(), explicit.z, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(fused.log_total, explicit.log_total, rtol=1e-3, atol=1e-3)


# --- which keys are left out ----------------------------------------------------------------------------------------

N_PREFIX, ROWS = 30, torch.arange(30, 40)
SOUND, FILM = torch.arange(4, 12)[None], torch.arange(12, 28)[None]
SOUND_CUT, FILM_CUT = (Cut(ROWS[None, :7], keys) for keys in (SOUND, FILM))


def blocked_keys(rows=ROWS):
    return BlockedKeys(rows, ROWS, N_PREFIX, 4, 2)


def test_rows_that_lose_the_same_keys_are_read_together():
    """Seven rows of each cut run lose keys; its other three stand with the uncut run's ten."""
    alike, masked = blocked_keys().sort([(SOUND_CUT,), (), (FILM_CUT,), (SOUND_CUT,)])
    assert masked == []
    told = {len(some.places): None if some.used is None else len(some.used) for some in alike}
    assert told == {14: N_PREFIX - 8, 7: N_PREFIX - 16, 10 + 3 * 3: None}
    assert sorted(torch.cat([some.places for some in alike]).tolist()) == list(range(40))


def test_what_no_row_loses_is_no_reason_to_leave_keys_out():
    own = Cut(ROWS[None], ROWS[None, :3])
    (alike,), masked = blocked_keys().sort([(own,), ()])
    assert alike.used is None
    assert masked == []
    assert blocked_keys().sort([(), ()])[0][0].places is None


@pytest.mark.parametrize(
    "cut",
    [
        Cut(ROWS[None, :7], SOUND, heads=(1,)),
        RandomCut.drawn(torch.full((1, 40), 5), (0,), 1, None),
    ],
    ids=["some heads", "other keys for each row"],
)
def test_what_must_be_masked(cut):
    alike, masked = blocked_keys().sort([(cut,), (SOUND_CUT,)])
    assert masked == [0]
    assert blocked_keys(ROWS[:1]).sort([(cut,)])[1] == [0]  # and few rows, too
    assert len(alike) == 2


CUTS = st.sampled_from(
    [
        (),
        (SOUND_CUT,),
        (FILM_CUT,),
        (SOUND_CUT, Cut(ROWS[None, 3:], FILM)),
        (Cut(ROWS[None], torch.arange(30)[None]),),
        (Cut(ROWS[None], torch.arange(40)[None], heads=(0, 3)),),
        (Keep((Cut(ROWS[None], ROWS[None]), Cut(ROWS[None, 5:], FILM))),),
        (RandomCut.drawn(torch.full((1, 40), 9), (0,), 3, None),),
        (Cut(ROWS[None, 2:4], ROWS[None, 1:5]), SOUND_CUT),
    ]
)


@settings(deadline=None)
@given(st.lists(CUTS, min_size=1, max_size=5), st.sampled_from([1, 300, 1 << 20]), st.none() | st.just([2, 3, 9]))
@pytest.mark.filterwarnings("ignore:.*query rows have no key left")
def test_runs_over_a_shared_prefix_equal_dense_attention(cuts, max_scores, reading):
    n_heads, n_kv, d_head = 4, 2, 8
    prefix_k, prefix_v = random(1, n_kv, N_PREFIX, d_head, seed=1), random(1, n_kv, N_PREFIX, d_head, seed=2)
    q, k, v = (random(len(cuts), n, 10, d_head, seed=n) for n in (n_heads, n_kv, n_kv + 1))
    v, index = v[:, :n_kv], None if reading is None else torch.tensor(reading)
    rows = ROWS if index is None else ROWS[index]
    q = q if index is None else q[:, :, index]
    attend = SharedPrefix(
        prefix_k=prefix_k, prefix_v=prefix_v, own=ROWS, run_cuts=cuts, max_scores=max_scores, reading=index
    )
    found = attend.read(0, q, k, v)
    for run, some in enumerate(cuts):
        k_all, v_all = (
            torch.cat([old[0], new[run]], dim=1).repeat_interleave(2, 0) for old, new in ((prefix_k, k), (prefix_v, v))
        )
        scores = q[run] @ k_all.transpose(1, 2) * d_head**-0.5
        keys = torch.arange(40)
        scores = scores.masked_fill(keys > rows[:, None], -torch.inf)
        for cut in some:
            heads = list(range(n_heads)) if cut.heads is None else list(cut.heads)
            scores[heads] = scores[heads].masked_fill(cut.blocked(rows[None], keys[None])[0], -torch.inf)
        wanted = torch.softmax(scores, dim=-1).nan_to_num(0) @ v_all
        torch.testing.assert_close(found[run], wanted, rtol=1e-4, atol=1e-5)


def test_blocked_keys_cost_nothing():
    def cost(cuts):
        attend = SharedPrefix(
            prefix_k=random(1, 2, N_PREFIX, 8), prefix_v=random(1, 2, N_PREFIX, 8), own=ROWS, run_cuts=[cuts] * 3,
            max_scores=1 << 22,
        )  # fmt: skip
        return count_flops(lambda: attend.read(0, random(3, 4, 10, 8), random(3, 2, 10, 8), random(3, 2, 10, 8)))

    per_pair = 2 * 2 * 4 * 8  # scores and values, two operations for each MAC, all heads
    assert cost(()) == 3 * 10 * (N_PREFIX + 10) * per_pair
    assert cost(()) - cost((FILM_CUT,)) == 3 * 7 * 16 * per_pair


# --- many touched rows ----------------------------------------------------------------------------------------------


def test_many_rows_that_lose_the_same_keys_are_plain_causal_attention(monkeypatch):
    monkeypatch.setattr("hooked_av.decoder.costs.CUT_BLOCK", 4)
    positions = torch.arange(40)[None]
    index, cut = FILM[0], Cut(FILM, SOUND)
    prompt = OnePrompt(positions, positions, [cut])
    causal, masked = CausalBlock.of(prompt, index), CutBlock.of(prompt, index, 4)
    given = random(1, 4, 40, 8), random(1, 2, 40, 8, seed=1), random(1, 2, 40, 8, seed=2)
    torch.testing.assert_close(causal.read(*given), masked.read(*given), rtol=1e-4, atol=1e-5)
    heads = Cut(FILM, SOUND, heads=(1,))
    itself, nothing_left = Cut(FILM, FILM), Cut(FILM, positions)
    for cuts in ([heads], [itself], [nothing_left], [cut, cut], []):
        assert CausalBlock.of(prompt._replace(cuts=cuts), index) is None
    assert CausalBlock.of(prompt, index[:4]) is None  # few: a mask costs less
