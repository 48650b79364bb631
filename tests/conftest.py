"""Shapes in signatures are checked by jaxtyping and beartype under pytest only; test_shape_checks.py proves it."""

from jaxtyping import install_import_hook

install_import_hook("hooked_av", "beartype.beartype")
