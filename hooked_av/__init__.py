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
    from hooked_av.analyses.knockout import KnockoutCurves as KnockoutCurves
    from hooked_av.analyses.knockout import knockout_curves as knockout_curves
    from hooked_av.analyses.logit_lens import LogitLens as LogitLens
    from hooked_av.analyses.logit_lens import logit_lens as logit_lens
    from hooked_av.analyses.route_sweep import RouteSweep as RouteSweep
    from hooked_av.analyses.route_sweep import route_sweep as route_sweep
    from hooked_av.attention import KeyValues as KeyValues
    from hooked_av.cache import AVCache as AVCache
    from hooked_av.cases import Case as Case
    from hooked_av.config import DecoderConfig as DecoderConfig
    from hooked_av.datasets import merge as merge
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
    from hooked_av.interventions import from_json as from_json
    from hooked_av.interventions import keep_only as keep_only
    from hooked_av.interventions import patch as patch
    from hooked_av.interventions import to_json as to_json
    from hooked_av.manifest import Sample as Sample
    from hooked_av.manifest import read_manifest as read_manifest
    from hooked_av.media import Clip as Clip
    from hooked_av.model import HookedAVTransformer as HookedAVTransformer
    from hooked_av.plots.strip import TokenStrip as TokenStrip
    from hooked_av.plots.strip import token_strip as token_strip
    from hooked_av.random_model import random_omni as random_omni
    from hooked_av.random_model import random_salmonn as random_salmonn
    from hooked_av.replay import Baseline as Baseline
    from hooked_av.replay import Replayed as Replayed
    from hooked_av.routes import Route as Route
    from hooked_av.sampling import Sampling as Sampling
    from hooked_av.spans import Span as Span
    from hooked_av.spans import Spans as Spans

__version__ = "0.1.0"

# Where each public name lives. The imports above say the same to type checkers; a test holds the two together.
_HOME = {
    "AVCache": "cache",
    "AVInputs": "inputs",
    "Baseline": "replay",
    "BlockAttention": "interventions",
    "Case": "cases",
    "CheckpointError": "errors",
    "Clip": "media",
    "DatasetError": "errors",
    "DecoderConfig": "config",
    "Generation": "generate",
    "HookError": "errors",
    "HookNameError": "errors",
    "HookPoint": "hooks",
    "HookedAVError": "errors",
    "HookedAVTransformer": "model",
    "HookedAVWarning": "errors",
    "InputsError": "errors",
    "Intervention": "interventions",
    "InterventionError": "errors",
    "KeyValues": "attention",
    "KnockoutCurves": "analyses.knockout",
    "LogitLens": "analyses.logit_lens",
    "MediaError": "errors",
    "MemoryBudgetError": "errors",
    "Replayed": "replay",
    "Route": "routes",
    "RouteSweep": "analyses.route_sweep",
    "Sample": "manifest",
    "Sampling": "sampling",
    "Span": "spans",
    "SpanError": "errors",
    "Spans": "spans",
    "TokenStrip": "plots.strip",
    "ablate": "interventions",
    "add": "interventions",
    "block_attention": "interventions",
    "drop_tokens": "interventions",
    "from_json": "interventions",
    "keep_only": "interventions",
    "knockout_curves": "analyses.knockout",
    "logit_lens": "analyses.logit_lens",
    "merge": "datasets",
    "patch": "interventions",
    "random_omni": "random_model",
    "random_salmonn": "random_model",
    "read_manifest": "manifest",
    "route_sweep": "analyses.route_sweep",
    "run_dataset": "datasets",
    "to_json": "interventions",
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
