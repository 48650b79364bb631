"""Mechanistic interpretability of audio-visual language models, with the vocabulary of TransformerLens.

Every public name is imported when it is first used, so `import hooked_av` costs next to nothing.

>>> import hooked_av as av
>>> av.Clip.__module__
'hooked_av.media'
>>> av.Clop
Traceback (most recent call last):
AttributeError: module 'hooked_av' has no attribute 'Clop'; the nearest names: Clip
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hooked_av.analyses.answer_trace import AnswerTrace as AnswerTrace
    from hooked_av.analyses.answer_trace import answer_trace as answer_trace
    from hooked_av.analyses.attention_mass import AttentionMass as AttentionMass
    from hooked_av.analyses.attention_mass import attention_mass as attention_mass
    from hooked_av.analyses.attribution_patching import AttributionPatching as AttributionPatching
    from hooked_av.analyses.attribution_patching import attribution_patching as attribution_patching
    from hooked_av.analyses.back_patching import BackPatching as BackPatching
    from hooked_av.analyses.back_patching import back_patch as back_patch
    from hooked_av.analyses.contribution import ModalityContribution as ModalityContribution
    from hooked_av.analyses.contribution import modality_contribution as modality_contribution
    from hooked_av.analyses.controls import Controls as Controls
    from hooked_av.analyses.direct_attribution import DirectAttribution as DirectAttribution
    from hooked_av.analyses.direct_attribution import direct_logit_attribution as direct_logit_attribution
    from hooked_av.analyses.discard import DiscardCurve as DiscardCurve
    from hooked_av.analyses.discard import discard_curve as discard_curve
    from hooked_av.analyses.effective_pathway import EffectivePathway as EffectivePathway
    from hooked_av.analyses.effective_pathway import effective_pathway as effective_pathway
    from hooked_av.analyses.information_flow import InformationFlow as InformationFlow
    from hooked_av.analyses.information_flow import information_flow as information_flow
    from hooked_av.analyses.knockout import KnockoutCurves as KnockoutCurves
    from hooked_av.analyses.knockout import knockout_curves as knockout_curves
    from hooked_av.analyses.logit_lens import LogitLens as LogitLens
    from hooked_av.analyses.logit_lens import logit_lens as logit_lens
    from hooked_av.analyses.media_lens import MediaLens as MediaLens
    from hooked_av.analyses.media_lens import media_lens as media_lens
    from hooked_av.analyses.pairs import Pair as Pair
    from hooked_av.analyses.pairs import make_pair as make_pair
    from hooked_av.analyses.patch_positions import PositionPatching as PositionPatching
    from hooked_av.analyses.patch_positions import patch_positions as patch_positions
    from hooked_av.analyses.patching import HeadPatching as HeadPatching
    from hooked_av.analyses.patching import SpanPatching as SpanPatching
    from hooked_av.analyses.patching import patch_heads as patch_heads
    from hooked_av.analyses.patching import patch_spans as patch_spans
    from hooked_av.analyses.path_patching import PathPatching as PathPatching
    from hooked_av.analyses.path_patching import patch_path as patch_path
    from hooked_av.analyses.route_sweep import RouteSweep as RouteSweep
    from hooked_av.analyses.route_sweep import route_sweep as route_sweep
    from hooked_av.analyses.sinks import Sinks as Sinks
    from hooked_av.analyses.sinks import find_sinks as find_sinks
    from hooked_av.attention import KeyValues as KeyValues
    from hooked_av.cache import AVCache as AVCache
    from hooked_av.cases import Case as Case
    from hooked_av.config import DecoderConfig as DecoderConfig
    from hooked_av.datasets import merge as merge
    from hooked_av.datasets import read_flow as read_flow
    from hooked_av.datasets import run_dataset as run_dataset
    from hooked_av.errors import CheckpointError as CheckpointError
    from hooked_av.errors import DatasetError as DatasetError
    from hooked_av.errors import HookedAVError as HookedAVError
    from hooked_av.errors import HookedAVWarning as HookedAVWarning
    from hooked_av.errors import HookError as HookError
    from hooked_av.errors import HookNameError as HookNameError
    from hooked_av.errors import InputsError as InputsError
    from hooked_av.errors import InterventionError as InterventionError
    from hooked_av.errors import MediaError as MediaError
    from hooked_av.errors import MemoryBudgetError as MemoryBudgetError
    from hooked_av.errors import SpanError as SpanError
    from hooked_av.generate import Generation as Generation
    from hooked_av.hooks import HookPoint as HookPoint
    from hooked_av.inputs import AVInputs as AVInputs
    from hooked_av.interventions import BlockAttention as BlockAttention
    from hooked_av.interventions import Intervention as Intervention
    from hooked_av.interventions import ablate as ablate
    from hooked_av.interventions import add as add
    from hooked_av.interventions import block_attention as block_attention
    from hooked_av.interventions import drop_tokens as drop_tokens
    from hooked_av.interventions import keep_only as keep_only
    from hooked_av.interventions import patch as patch
    from hooked_av.manifest import Sample as Sample
    from hooked_av.manifest import read_manifest as read_manifest
    from hooked_av.media import Clip as Clip
    from hooked_av.model import HookedAVTransformer as HookedAVTransformer
    from hooked_av.pathways import Pathway as Pathway
    from hooked_av.plots.strip import TokenStrip as TokenStrip
    from hooked_av.plots.strip import token_strip as token_strip
    from hooked_av.random_cuts import BlockRandom as BlockRandom
    from hooked_av.random_cuts import block_random as block_random
    from hooked_av.random_model import random_omni as random_omni
    from hooked_av.random_model import random_salmonn as random_salmonn
    from hooked_av.replay import Baseline as Baseline
    from hooked_av.replay import Replayed as Replayed
    from hooked_av.routes import Route as Route
    from hooked_av.sampling import Sampling as Sampling
    from hooked_av.spans import Span as Span
    from hooked_av.spans import Spans as Spans
    from hooked_av.spec_json import from_json as from_json
    from hooked_av.spec_json import to_json as to_json
    from hooked_av.study.run import Study as Study
    from hooked_av.study.run import run_study as run_study
    from hooked_av.swaps import media_swaps as media_swaps

__version__ = "0.1.0"

# Where each public name lives. The imports above say the same to type checkers; a test holds the two together.
_HOME = {
    "AVCache": "cache",
    "AVInputs": "inputs",
    "AnswerTrace": "analyses.answer_trace",
    "AttentionMass": "analyses.attention_mass",
    "AttributionPatching": "analyses.attribution_patching",
    "BackPatching": "analyses.back_patching",
    "Baseline": "replay",
    "BlockAttention": "interventions",
    "BlockRandom": "random_cuts",
    "Case": "cases",
    "CheckpointError": "errors",
    "Clip": "media",
    "Controls": "analyses.controls",
    "DatasetError": "errors",
    "DecoderConfig": "config",
    "DirectAttribution": "analyses.direct_attribution",
    "DiscardCurve": "analyses.discard",
    "EffectivePathway": "analyses.effective_pathway",
    "Generation": "generate",
    "HeadPatching": "analyses.patching",
    "HookError": "errors",
    "HookNameError": "errors",
    "HookPoint": "hooks",
    "HookedAVError": "errors",
    "HookedAVTransformer": "model",
    "HookedAVWarning": "errors",
    "InformationFlow": "analyses.information_flow",
    "InputsError": "errors",
    "Intervention": "interventions",
    "InterventionError": "errors",
    "KeyValues": "attention",
    "KnockoutCurves": "analyses.knockout",
    "LogitLens": "analyses.logit_lens",
    "MediaError": "errors",
    "MediaLens": "analyses.media_lens",
    "MemoryBudgetError": "errors",
    "ModalityContribution": "analyses.contribution",
    "Pair": "analyses.pairs",
    "PathPatching": "analyses.path_patching",
    "Pathway": "pathways",
    "PositionPatching": "analyses.patch_positions",
    "Replayed": "replay",
    "Route": "routes",
    "RouteSweep": "analyses.route_sweep",
    "Sample": "manifest",
    "Sampling": "sampling",
    "Sinks": "analyses.sinks",
    "Span": "spans",
    "SpanError": "errors",
    "SpanPatching": "analyses.patching",
    "Spans": "spans",
    "Study": "study.run",
    "TokenStrip": "plots.strip",
    "ablate": "interventions",
    "add": "interventions",
    "answer_trace": "analyses.answer_trace",
    "attention_mass": "analyses.attention_mass",
    "attribution_patching": "analyses.attribution_patching",
    "back_patch": "analyses.back_patching",
    "block_attention": "interventions",
    "block_random": "random_cuts",
    "direct_logit_attribution": "analyses.direct_attribution",
    "discard_curve": "analyses.discard",
    "drop_tokens": "interventions",
    "effective_pathway": "analyses.effective_pathway",
    "find_sinks": "analyses.sinks",
    "from_json": "spec_json",
    "information_flow": "analyses.information_flow",
    "keep_only": "interventions",
    "knockout_curves": "analyses.knockout",
    "logit_lens": "analyses.logit_lens",
    "make_pair": "analyses.pairs",
    "media_lens": "analyses.media_lens",
    "media_swaps": "swaps",
    "merge": "datasets",
    "modality_contribution": "analyses.contribution",
    "patch": "interventions",
    "patch_heads": "analyses.patching",
    "patch_path": "analyses.path_patching",
    "patch_positions": "analyses.patch_positions",
    "patch_spans": "analyses.patching",
    "random_omni": "random_model",
    "random_salmonn": "random_model",
    "read_flow": "datasets",
    "read_manifest": "manifest",
    "route_sweep": "analyses.route_sweep",
    "run_dataset": "datasets",
    "run_study": "study.run",
    "to_json": "spec_json",
    "token_strip": "plots.strip",
}
__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value  # so that the next use does not come here
        return value
    from hooked_av.errors import nearest

    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; the nearest names: {nearest(name, _HOME)}",
        name=name,
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
