"""Shapes in signatures are checked by jaxtyping and beartype under pytest only; test_shape_checks.py proves it."""

import os
from functools import cache

import jaxtyping
import pytest
import support.typecheck
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers are the parallelism; threads on top of them only wait for each other
support.typecheck.install("hooked_av")


def share_tokenizers() -> None:
    """Random models have one tokenizer, read once: that takes longer than all their weights, and no test changes it."""
    from hooked_av.model import random  # after the hook above

    class Cached(random.AutoTokenizer):
        from_pretrained = staticmethod(cache(random.AutoTokenizer.from_pretrained))

    random.AutoTokenizer = Cached
    random.vl_tokenizer = cache(random.vl_tokenizer)


share_tokenizers()


@pytest.fixture
def as_a_user():
    """Without the tests' type checker, which would be first to see a wrong shape."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", params=["omni", "salmonn"])
def each_family(request):
    """Runs a module's tests once for every model family: its `use` sets the model and the inputs they share."""
    from support.families import FAMILIES  # imports the package, whose shape checks the hook above must see first

    family = FAMILIES[request.param]
    request.module.use(family)
    return family


@pytest.fixture(scope="module")
def one_thread():
    """Toy models run fastest on one thread; several only wait for each other when other tests run beside these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
