"""Shapes in signatures are checked by jaxtyping and beartype under pytest only; test_shape_checks.py proves it."""

import jaxtyping
import pytest
import support.typecheck  # noqa: F401 - the hook finds it by name

jaxtyping.install_import_hook("hooked_av", "support.typecheck.checked")


@pytest.fixture
def as_a_user():
    """Without the tests' type checker, which would be first to see a wrong shape."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
