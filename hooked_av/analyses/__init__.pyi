"""Result types, where a user looks for them."""

from .attention.direct_attribution import DirectAttribution as DirectAttribution
from .attention.mass import AttentionMass as AttentionMass
from .attention.sinks import Sinks as Sinks
from .discard.discard import DiscardCurve as DiscardCurve
from .flow.contribution import ModalityContribution as ModalityContribution
from .flow.effective_pathway import EffectivePathway as EffectivePathway
from .flow.map import InformationFlow as InformationFlow
from .flow.route_sweep import RouteSweep as RouteSweep
from .lenses.answer_trace import AnswerTrace as AnswerTrace
from .lenses.convention import LensConvention as LensConvention
from .lenses.logit_lens import LogitLens as LogitLens
from .lenses.media_lens import MediaLens as MediaLens
from .patching.attribution import AttributionPatching as AttributionPatching
from .patching.back import BackPatching as BackPatching
from .patching.paths import PathPatching as PathPatching
from .patching.positions import PositionPatching as PositionPatching
from .patching.spans import HeadPatching as HeadPatching
from .patching.spans import SpanPatching as SpanPatching
from .per_prompt import PerPrompt as PerPrompt
from .results import Result as Result
