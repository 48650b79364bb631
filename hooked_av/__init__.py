"""Mechanistic interpretability of audio-visual language models, with the vocabulary of TransformerLens.

Verbs and what they take are names of the package; results are in `av.analyses`, errors in `av.errors`, the kinds of
intervention in `av.interventions`. Every name is written once, in `__init__.pyi`, and imported when it is first used:
`import hooked_av` costs next to nothing.

>>> import hooked_av as av
>>> av.Clip.__module__
'hooked_av.media.clip'
>>> av.Clop
Traceback (most recent call last):
AttributeError: module 'hooked_av' has no attribute 'Clop'; the nearest names: Clip
"""

import warnings
from importlib import import_module
from typing import Any

import lazy_loader

__version__ = "0.1.0"

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Names of versions before 0.2, and where each is now. They go on working through 0.x, with a DeprecationWarning.
_MOVED = {
    "AnswerTrace": "analyses.AnswerTrace",
    "AttentionMass": "analyses.AttentionMass",
    "AttributionPatching": "analyses.AttributionPatching",
    "BackPatching": "analyses.BackPatching",
    "Baseline": "replay.baseline.Baseline",
    "BlockAttention": "interventions.BlockAttention",
    "BlockRandom": "interventions.BlockRandom",
    "CheckpointError": "errors.CheckpointError",
    "DatasetError": "errors.DatasetError",
    "DecoderConfig": "config.DecoderConfig",
    "DirectAttribution": "analyses.DirectAttribution",
    "DiscardCurve": "analyses.DiscardCurve",
    "EffectivePathway": "analyses.EffectivePathway",
    "Generation": "generation.generate.Generation",
    "HeadPatching": "analyses.HeadPatching",
    "HookError": "errors.HookError",
    "HookNameError": "errors.HookNameError",
    "HookPoint": "hooks.point.HookPoint",
    "InformationFlow": "analyses.InformationFlow",
    "InputsError": "errors.InputsError",
    "Intervention": "interventions.Intervention",
    "InterventionError": "errors.InterventionError",
    "KeyValues": "decoder.attention.KeyValues",
    "KnockoutCurves": "analyses.InformationFlow",
    "LensConvention": "analyses.LensConvention",
    "LogitLens": "analyses.LogitLens",
    "MediaError": "errors.MediaError",
    "MediaLens": "analyses.MediaLens",
    "MemoryBudgetError": "errors.MemoryBudgetError",
    "ModalityContribution": "analyses.ModalityContribution",
    "PathPatching": "analyses.PathPatching",
    "PositionPatching": "analyses.PositionPatching",
    "Replayed": "replay.baseline.Replayed",
    "Route": "interventions.Route",
    "RouteSweep": "analyses.RouteSweep",
    "Sinks": "analyses.Sinks",
    "Span": "prompt.spans.Span",
    "SpanError": "errors.SpanError",
    "SpanPatching": "analyses.SpanPatching",
    "Spans": "prompt.spans.Spans",
    "Study": "study.run.Study",
    "TokenStrip": "plots.TokenStrip",
    "add": "add_vector",
    "from_json": "interventions.from_json",
    "merge": "datasets.merge",
    "read_flow": "datasets.read_flow",
    "read_manifest": "datasets.read_manifest",
    "to_json": "interventions.to_json",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return _public(name)
    if name in _MOVED:
        home, _, leaf = f"{__name__}.{_MOVED[name]}".rpartition(".")
        warnings.warn(f"{__name__}.{name} is now {home}.{leaf}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(home), leaf)
    from hooked_av.errors import nearest

    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; the nearest names: {nearest(name, __all__)}", name=name
    )
