"""Figures: one function per result type. The only place that imports a plotting library; no figure runs a model."""

from importlib import import_module
from typing import Any

# Type of what is drawn -> module of this package and its function; imported when a figure is asked for.
FIGURES = {
    "AVInputs": ("strip", "show_inputs"),
    "AttentionMass": ("attention_mass", "plot_attention_mass"),
    "DirectAttribution": ("attribution", "plot_direct_attribution"),
    "DiscardCurve": ("discard", "plot_discard_curve"),
    "KnockoutCurves": ("knockout", "plot_knockout_curves"),
    "LogitLens": ("lens", "plot_logit_lens"),
    "Sinks": ("attention_mass", "plot_sinks"),
}


def draw(result: Any) -> Any:
    """The matplotlib figure of a result; the token strip of inputs."""
    module, function = FIGURES[type(result).__name__]
    return getattr(import_module(f"hooked_av.plots.{module}"), function)(result)
