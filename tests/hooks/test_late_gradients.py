"""Gradient hooks belong to the forward pass: they fire once for its gradients, however late `backward` comes."""

import pytest
import torch
from support.families import FAMILIES

from hooked_av.errors import HookError

pytestmark = [pytest.mark.usefixtures("each_family"), pytest.mark.usefixtures("one_thread")]
NAME, PATTERN = "blocks.1.hook_resid_mid", "blocks.1.attn.hook_pattern"
POINTS = [NAME, f"{NAME}@last", f"{NAME}@audio", "blocks.0.attn.hook_k", PATTERN, f"{PATTERN}@last<-audio"]
MODEL = INPUTS = None
assert FAMILIES


def use(family):
    global MODEL, INPUTS
    MODEL, INPUTS = family.model, family.inputs("audio in video")


def in_the_block(name, hook):
    with MODEL.hooks(bwd_hooks=[(name, hook)]):
        MODEL(INPUTS)[0, -1, 3].backward()


def run_with_hooks(name, hook):
    MODEL.run_with_hooks(INPUTS, bwd_hooks=[(name, hook)])[0, -1, 3].backward()


def after_the_block(name, hook):
    with MODEL.hooks(bwd_hooks=[(name, hook)]):
        logits = MODEL(INPUTS)
    with torch.no_grad():
        MODEL(INPUTS)
    logits[0, -1, 3].backward()


def after_a_reset(name, hook):
    MODEL.add_hook(name, hook, "bwd")
    logits = MODEL(INPUTS)
    MODEL.reset_hooks()
    logits[0, -1, 3].backward()


LATE = [run_with_hooks, after_the_block, after_a_reset]


@pytest.fixture(autouse=True)
def no_gradients():
    yield
    MODEL.zero_grad()


def received_by(way, name):
    received = []
    way(name, lambda gradient, hook: received.append(gradient.clone()))
    return received


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("way", LATE)
def test_they_fire_once_with_the_gradient_of_their_pass(way, name):
    (wanted,) = received_by(in_the_block, name)
    (found,) = received_by(way, name)
    assert torch.equal(found, wanted)
    assert found.abs().sum() > 0


@pytest.mark.parametrize("way", LATE)
def test_what_they_return_is_the_gradient(way):
    way(NAME, lambda gradient, hook: gradient * 0)
    assert MODEL.blocks[1].attn.o_proj.weight.grad.abs().sum() == 0
    assert MODEL.blocks[1].mlp.down_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", [NAME, f"{NAME}@last"])
def test_caching_hooks_with_run_with_hooks(name):
    kept, forward, backward = MODEL.get_caching_hooks(name, incl_bwd=True)
    MODEL.run_with_hooks(INPUTS, fwd_hooks=forward, bwd_hooks=backward)[0, -1, 3].backward()
    assert torch.equal(kept[f"{name}_grad"], received_by(in_the_block, name)[0])


def test_each_pass_has_its_own():
    """Two passes in one block, their gradients the other first; one more backward of a graph is one more gradient."""
    received = []
    with MODEL.hooks(bwd_hooks=[(f"{NAME}@last", lambda gradient, hook: received.append(gradient.clone()))]):
        one, other = MODEL(INPUTS)[0, -1, 3], MODEL(INPUTS)[0, -1, 4]
    other.backward()
    one.backward(retain_graph=True)
    one.backward()
    assert len(received) == 3
    assert torch.equal(received[1], received[2])
    assert not torch.allclose(received[0], received[1])


def test_hooks_that_come_after_the_pass_are_refused():
    logits = MODEL(INPUTS)
    with (
        MODEL.hooks(bwd_hooks=[(NAME, lambda gradient, hook: pytest.fail("added after the pass"))]),
        pytest.raises(HookError, match="added after the forward pass"),
    ):
        logits[0, -1, 3].backward()
