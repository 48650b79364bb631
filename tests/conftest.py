"""Shapes in signatures are checked by jaxtyping and beartype under pytest only; test_shape_checks.py proves it."""

import support.typecheck  # noqa: F401 - the hook finds it by name
from jaxtyping import install_import_hook

install_import_hook("hooked_av", "support.typecheck.checked")
