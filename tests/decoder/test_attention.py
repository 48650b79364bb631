"""Fused, eager and cut attention agree with a dense mask written out in the test."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_av.decoder import attention, costs
from hooked_av.decoder.attention import Attend
from hooked_av.decoder.cuts import Cut
from hooked_av.errors import HookedAVWarning, InputsError

N_HEADS, N_KV, N_POS, D_HEAD = 4, 2, 12, 8


def qkv(batch=1, seed=0, n_pos=N_POS):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, N_HEADS, n_pos, D_HEAD), (batch, N_KV, n_pos, D_HEAD), (batch, N_KV, n_pos, D_HEAD))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def dense(q, k, v, starts, cuts):
    """Attention with one [batch, head, query, key] mask: what the package never makes."""
    n_copies = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(n_copies, dim=1) for x in (k, v))
    allowed = torch.ones(len(q), q.shape[1], q.shape[2], q.shape[2], dtype=torch.bool).tril()
    for row, start in enumerate(starts):
        allowed[row, :, :, :start] = False
    for cut in cuts:
        for row in range(len(q)):
            for head in range(q.shape[1]) if cut.heads is None else cut.heads:
                allowed[row, head][cut.queries[row][:, None], cut.keys[row]] = False
    scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf)
    return scores.softmax(dim=-1).nan_to_num(0) @ v


@pytest.mark.parametrize("starts", [(0, 0), (3, 0), (5, 11)])
def test_fused_and_eager_agree_with_the_dense_mask(starts):
    q, k, v = qkv(batch=2)
    for backend in ("sdpa", "eager"):
        z = Attend(backend, starts).read(0, q, k, v)
        torch.testing.assert_close(z, dense(q, k, v, starts, []), rtol=1e-5, atol=1e-5)


def test_eager_in_blocks_is_eager_at_once(monkeypatch):
    q, k, v = qkv(n_pos=30)
    whole = Attend("eager").read(0, q, k, v)
    monkeypatch.setattr(costs, "EAGER_BLOCK", 7)
    torch.testing.assert_close(Attend("eager").read(0, q, k, v), whole, rtol=1e-6, atol=1e-6)


POSITIONS = st.sets(st.integers(0, N_POS - 1), min_size=1).map(sorted)
HEADS = st.none() | st.sets(st.integers(0, N_HEADS - 1), min_size=1).map(lambda heads: tuple(sorted(heads)))
CUTS = st.lists(st.tuples(POSITIONS, POSITIONS, HEADS), min_size=1, max_size=3)


@pytest.mark.filterwarnings("ignore::hooked_av.errors.HookedAVWarning")
@settings(max_examples=200, deadline=None)
@given(cuts=CUTS, start=st.sampled_from([0, 4]), backend=st.sampled_from(["sdpa", "eager"]))
def test_cuts_agree_with_the_dense_mask(cuts, start, backend):
    q, k, v = qkv(batch=2)
    starts = (start, 0)
    made = [Cut(torch.tensor([queries] * 2), torch.tensor([keys] * 2), heads) for queries, keys, heads in cuts]
    z = Attend(backend, starts, {3: made}).read(3, q, k, v)
    torch.testing.assert_close(z, dense(q, k, v, starts, made), rtol=1e-5, atol=1e-5)
    assert torch.equal(Attend(backend, starts, {3: made}).read(2, q, k, v), Attend(backend, starts).read(2, q, k, v))


def test_untouched_rows_keep_their_bits():
    q, k, v = qkv()
    cut = Cut(torch.tensor([[7, 9]]), torch.tensor([[1, 2]]))
    clean, z = Attend().read(0, q, k, v), Attend(cuts={0: [cut]}).read(0, q, k, v)
    same = [row for row in range(N_POS) if row not in (7, 9)]
    assert torch.equal(z[:, :, same], clean[:, :, same])
    assert (z[:, :, [7, 9]] != clean[:, :, [7, 9]]).any()


def test_a_row_without_keys_reads_zero_and_is_reported():
    q, k, v = qkv()
    cut = Cut(torch.tensor([[5]]), torch.arange(N_POS)[None])
    with pytest.warns(HookedAVWarning, match="1 query rows have no key left.*position 5"):
        z = Attend(cuts={0: [cut]}).read(0, q, k, v)
    assert torch.equal(z[:, :, 5], torch.zeros_like(z[:, :, 5]))
    assert not z.isnan().any()


def test_a_pattern_row_without_keys_is_zero():
    scores = torch.tensor([[[[-torch.inf, -torch.inf], [0.0, -torch.inf]]]])
    assert attention.pattern_of(scores).tolist() == [[[[0, 0], [1, 0]]]]


@pytest.mark.usefixtures("as_a_user")
def test_an_unknown_backend_is_refused():
    with pytest.raises(InputsError, match="unknown attention backend"):
        Attend("flash")


def test_no_gradient_is_lost_or_not_a_number_at_an_empty_row():
    q, k, v = (x.requires_grad_() for x in qkv())
    cut = Cut(torch.tensor([[5, 6]]), torch.tensor([list(range(6))]))
    with pytest.warns(HookedAVWarning):
        Attend(cuts={0: [cut]}).read(0, q, k, v).sum().backward()
    for x in (q, k, v):
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad.abs().sum() > 0


def test_nothing_of_size_heads_by_pos_by_pos_is_made():
    """The largest tensor of a cut forward is far below one score matrix per head."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    largest[0] = max(largest[0], tensor.numel())
            return out

    n_pos = 600
    q, k, v = qkv(n_pos=n_pos)
    cut = Cut(torch.arange(580, n_pos)[None], torch.arange(100, 400)[None])
    with Watch():
        Attend(cuts={0: [cut]}).read(0, q, k, v)
    assert largest[0] <= N_HEADS * n_pos * max(D_HEAD, 20)
