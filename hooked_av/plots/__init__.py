"""Figures: one function per result type. The only place that imports a plotting library; no figure runs a model."""

from importlib import import_module
from typing import Any

# Type of what is drawn -> module of this package and its function; imported when a figure is asked for.
FIGURES = {
    "AVInputs": ("strip", "show_inputs"),
    "AnswerTrace": ("answer_trace", "plot_answer_trace"),
    "AttentionMass": ("attention_mass", "plot_attention_mass"),
    "AttributionPatching": ("attribution", "plot_attribution_patching"),
    "BackPatching": ("patching", "plot_back_patching"),
    "DirectAttribution": ("direct_attribution", "plot_direct_attribution"),
    "DiscardCurve": ("discard", "plot_discard_curve"),
    "EffectivePathway": ("effective", "plot_effective_pathway"),
    "HeadPatching": ("patching", "plot_head_patching"),
    "InformationFlow": ("flow", "plot_information_flow"),
    "KnockoutCurves": ("knockout", "plot_knockout_curves"),
    "LogitLens": ("lens", "plot_logit_lens"),
    "MediaLens": ("media_lens", "plot_media_lens"),
    "ModalityContribution": ("contribution", "plot_modality_contribution"),
    "PathPatching": ("patching", "plot_path_patching"),
    "PositionPatching": ("patching", "plot_position_patching"),
    "RouteSweep": ("routes", "plot_route_sweep"),
    "Sinks": ("attention_mass", "plot_sinks"),
    "SpanPatching": ("patching", "plot_span_patching"),
}


def draw(result: Any) -> Any:
    """The matplotlib figure of a result; the token strip of inputs."""
    module, function = FIGURES[type(result).__name__]
    return getattr(import_module(f"hooked_av.plots.{module}"), function)(result)
