"""Figures: one function per result type. The only place that imports a plotting library; no figure runs a model."""

from importlib import import_module
from typing import Any

# Type of what is drawn -> module of this package and its function; imported when a figure is asked for.
FIGURES = {
    "AVInputs": ("strip", "show_inputs"),
    "EffectivePathway": ("effective", "plot_effective_pathway"),
    "InformationFlow": ("flow", "plot_information_flow"),
    "KnockoutCurves": ("knockout", "plot_knockout_curves"),
    "LogitLens": ("lens", "plot_logit_lens"),
    "ModalityContribution": ("contribution", "plot_modality_contribution"),
}


def draw(result: Any) -> Any:
    """The matplotlib figure of a result; the token strip of inputs."""
    module, function = FIGURES[type(result).__name__]
    return getattr(import_module(f"hooked_av.plots.{module}"), function)(result)
