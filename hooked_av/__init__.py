"""Mechanistic interpretability of audio-visual language models, with the vocabulary of TransformerLens.

Every public name is imported when it is first used, so `import hooked_av` costs next to nothing.

>>> import hooked_av as av
>>> av.Clip.__module__
'hooked_av.media.clip'
>>> av.Clop
Traceback (most recent call last):
AttributeError: module 'hooked_av' has no attribute 'Clop'; the nearest names: Clip
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hooked_av.analyses.attention.direct_attribution import DirectAttribution as DirectAttribution
    from hooked_av.analyses.attention.direct_attribution import direct_logit_attribution as direct_logit_attribution
    from hooked_av.analyses.attention.mass import AttentionMass as AttentionMass
    from hooked_av.analyses.attention.mass import attention_mass as attention_mass
    from hooked_av.analyses.attention.sinks import Sinks as Sinks
    from hooked_av.analyses.attention.sinks import find_sinks as find_sinks
    from hooked_av.analyses.cases import Case as Case
    from hooked_av.analyses.discard.discard import DiscardCurve as DiscardCurve
    from hooked_av.analyses.discard.discard import discard_curve as discard_curve
    from hooked_av.analyses.flow.contribution import ModalityContribution as ModalityContribution
    from hooked_av.analyses.flow.contribution import modality_contribution as modality_contribution
    from hooked_av.analyses.flow.controls import Controls as Controls
    from hooked_av.analyses.flow.effective_pathway import EffectivePathway as EffectivePathway
    from hooked_av.analyses.flow.effective_pathway import effective_pathway as effective_pathway
    from hooked_av.analyses.flow.information_flow import information_flow as information_flow
    from hooked_av.analyses.flow.information_flow import knockout_curves as knockout_curves
    from hooked_av.analyses.flow.map import InformationFlow as InformationFlow
    from hooked_av.analyses.flow.pathways import Pathway as Pathway
    from hooked_av.analyses.flow.route_sweep import RouteSweep as RouteSweep
    from hooked_av.analyses.flow.route_sweep import route_sweep as route_sweep
    from hooked_av.analyses.lenses.answer_trace import AnswerTrace as AnswerTrace
    from hooked_av.analyses.lenses.answer_trace import answer_trace as answer_trace
    from hooked_av.analyses.lenses.logit_lens import LogitLens as LogitLens
    from hooked_av.analyses.lenses.logit_lens import logit_lens as logit_lens
    from hooked_av.analyses.lenses.media_lens import MediaLens as MediaLens
    from hooked_av.analyses.lenses.media_lens import media_lens as media_lens
    from hooked_av.analyses.patching.attribution import AttributionPatching as AttributionPatching
    from hooked_av.analyses.patching.attribution import attribution_patching as attribution_patching
    from hooked_av.analyses.patching.back import BackPatching as BackPatching
    from hooked_av.analyses.patching.back import back_patch as back_patch
    from hooked_av.analyses.patching.pairs import Pair as Pair
    from hooked_av.analyses.patching.pairs import make_pair as make_pair
    from hooked_av.analyses.patching.paths import PathPatching as PathPatching
    from hooked_av.analyses.patching.paths import patch_path as patch_path
    from hooked_av.analyses.patching.positions import PositionPatching as PositionPatching
    from hooked_av.analyses.patching.positions import patch_positions as patch_positions
    from hooked_av.analyses.patching.spans import HeadPatching as HeadPatching
    from hooked_av.analyses.patching.spans import SpanPatching as SpanPatching
    from hooked_av.analyses.patching.spans import patch_heads as patch_heads
    from hooked_av.analyses.patching.spans import patch_spans as patch_spans
    from hooked_av.analyses.swaps import media_swaps as media_swaps
    from hooked_av.config import DecoderConfig as DecoderConfig
    from hooked_av.datasets.manifest import Sample as Sample
    from hooked_av.datasets.manifest import read_manifest as read_manifest
    from hooked_av.datasets.run import merge as merge
    from hooked_av.datasets.run import read_flow as read_flow
    from hooked_av.datasets.run import run_dataset as run_dataset
    from hooked_av.decoder.attention import KeyValues as KeyValues
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
    from hooked_av.generation.generate import Generation as Generation
    from hooked_av.hooks.cache import AVCache as AVCache
    from hooked_av.hooks.point import HookPoint as HookPoint
    from hooked_av.interventions.json import from_json as from_json
    from hooked_av.interventions.json import to_json as to_json
    from hooked_av.interventions.random_cuts import BlockRandom as BlockRandom
    from hooked_av.interventions.random_cuts import block_random as block_random
    from hooked_av.interventions.routes import Route as Route
    from hooked_av.interventions.specs import BlockAttention as BlockAttention
    from hooked_av.interventions.specs import Intervention as Intervention
    from hooked_av.interventions.specs import ablate as ablate
    from hooked_av.interventions.specs import add as add
    from hooked_av.interventions.specs import block_attention as block_attention
    from hooked_av.interventions.specs import drop_tokens as drop_tokens
    from hooked_av.interventions.specs import keep_only as keep_only
    from hooked_av.interventions.specs import patch as patch
    from hooked_av.media.clip import Clip as Clip
    from hooked_av.media.sampling import Sampling as Sampling
    from hooked_av.model.random import random_omni as random_omni
    from hooked_av.model.random import random_salmonn as random_salmonn
    from hooked_av.model.transformer import HookedAVTransformer as HookedAVTransformer
    from hooked_av.plots.strip.strip import TokenStrip as TokenStrip
    from hooked_av.plots.strip.strip import token_strip as token_strip
    from hooked_av.prompt.inputs import AVInputs as AVInputs
    from hooked_av.prompt.spans import Span as Span
    from hooked_av.prompt.spans import Spans as Spans
    from hooked_av.replay.baseline import Baseline as Baseline
    from hooked_av.replay.baseline import Replayed as Replayed
    from hooked_av.study.run import Study as Study
    from hooked_av.study.run import run_study as run_study

__version__ = "0.1.0"

# Where each public name lives. The imports above say the same to type checkers; a test holds the two together.
_HOME = {
    "AVCache": "hooks.cache",
    "AVInputs": "prompt.inputs",
    "AnswerTrace": "analyses.lenses.answer_trace",
    "AttentionMass": "analyses.attention.mass",
    "AttributionPatching": "analyses.patching.attribution",
    "BackPatching": "analyses.patching.back",
    "Baseline": "replay.baseline",
    "BlockAttention": "interventions.specs",
    "BlockRandom": "interventions.random_cuts",
    "Case": "analyses.cases",
    "CheckpointError": "errors",
    "Clip": "media.clip",
    "Controls": "analyses.flow.controls",
    "DatasetError": "errors",
    "DecoderConfig": "config",
    "DirectAttribution": "analyses.attention.direct_attribution",
    "DiscardCurve": "analyses.discard.discard",
    "EffectivePathway": "analyses.flow.effective_pathway",
    "Generation": "generation.generate",
    "HeadPatching": "analyses.patching.spans",
    "HookError": "errors",
    "HookNameError": "errors",
    "HookPoint": "hooks.point",
    "HookedAVError": "errors",
    "HookedAVTransformer": "model.transformer",
    "HookedAVWarning": "errors",
    "InformationFlow": "analyses.flow.map",
    "InputsError": "errors",
    "Intervention": "interventions.specs",
    "InterventionError": "errors",
    "KeyValues": "decoder.attention",
    "LogitLens": "analyses.lenses.logit_lens",
    "MediaError": "errors",
    "MediaLens": "analyses.lenses.media_lens",
    "MemoryBudgetError": "errors",
    "ModalityContribution": "analyses.flow.contribution",
    "Pair": "analyses.patching.pairs",
    "PathPatching": "analyses.patching.paths",
    "Pathway": "analyses.flow.pathways",
    "PositionPatching": "analyses.patching.positions",
    "Replayed": "replay.baseline",
    "Route": "interventions.routes",
    "RouteSweep": "analyses.flow.route_sweep",
    "Sample": "datasets.manifest",
    "Sampling": "media.sampling",
    "Sinks": "analyses.attention.sinks",
    "Span": "prompt.spans",
    "SpanError": "errors",
    "SpanPatching": "analyses.patching.spans",
    "Spans": "prompt.spans",
    "Study": "study.run",
    "TokenStrip": "plots.strip.strip",
    "ablate": "interventions.specs",
    "add": "interventions.specs",
    "answer_trace": "analyses.lenses.answer_trace",
    "attention_mass": "analyses.attention.mass",
    "attribution_patching": "analyses.patching.attribution",
    "back_patch": "analyses.patching.back",
    "block_attention": "interventions.specs",
    "block_random": "interventions.random_cuts",
    "direct_logit_attribution": "analyses.attention.direct_attribution",
    "discard_curve": "analyses.discard.discard",
    "drop_tokens": "interventions.specs",
    "effective_pathway": "analyses.flow.effective_pathway",
    "find_sinks": "analyses.attention.sinks",
    "from_json": "interventions.json",
    "information_flow": "analyses.flow.information_flow",
    "keep_only": "interventions.specs",
    "knockout_curves": "analyses.flow.information_flow",
    "logit_lens": "analyses.lenses.logit_lens",
    "make_pair": "analyses.patching.pairs",
    "media_lens": "analyses.lenses.media_lens",
    "media_swaps": "analyses.swaps",
    "merge": "datasets.run",
    "modality_contribution": "analyses.flow.contribution",
    "patch": "interventions.specs",
    "patch_heads": "analyses.patching.spans",
    "patch_path": "analyses.patching.paths",
    "patch_positions": "analyses.patching.positions",
    "patch_spans": "analyses.patching.spans",
    "random_omni": "model.random",
    "random_salmonn": "model.random",
    "read_flow": "datasets.run",
    "read_manifest": "datasets.manifest",
    "route_sweep": "analyses.flow.route_sweep",
    "run_dataset": "datasets.run",
    "run_study": "study.run",
    "to_json": "interventions.json",
    "token_strip": "plots.strip.strip",
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
