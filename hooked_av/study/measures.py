"""What the study measures of one family of questions: contribution, routes, effective pathways, discards.

A family that the model cannot answer is measured no further than that.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hooked_av.analyses.cases import Case
from hooked_av.analyses.discard.discard import DiscardCurve, discard_curve
from hooked_av.analyses.flow.contribution import ModalityContribution, modality_contribution
from hooked_av.analyses.flow.controls import Controls
from hooked_av.analyses.flow.effective_pathway import EffectivePathway, effective_pathway
from hooked_av.analyses.flow.information_flow import InformationFlow, information_flow
from hooked_av.analyses.flow.pathways import Pathway
from hooked_av.analyses.results import Result
from hooked_av.study.rules import HOLDS, Verdict, answers_enough
from hooked_av.tiny.cases import held_out_cases
from hooked_av.tiny.evaluation import check_family, text_alone
from hooked_av.tiny.questions import FAMILIES

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

OPTIONS = ", options"  # the end of a form of questions with lettered options
ITEMS = "items"  # in the names of scenes with several items


def _route(name: str, *pairs: tuple[str, str]) -> Pathway:
    return Pathway(name, pairs)


# Read by: the question (with options), the end of the prompt (template tokens before the last one), the last token.
_TEXT_ROUTES = (
    _route("question → prompt end", ("asked", "prompt_end")),
    _route("question → last", ("asked", "last")),
    _route("prompt end → last", ("prompt_end", "last")),
)
_READERS = {"question": "asked", "prompt end": "prompt_end", "last": "last"}
BEHIND = "prompt end or last"  # all rows behind the question: what is cut from one of them can still come by the other
_BEHIND = ("prompt_end", "last")
CLIP_ROUTES = (
    *(_route(f"media → {reader}", ("media", span)) for reader, span in _READERS.items()),
    _route(f"media → {BEHIND}", *(("media", span) for span in _BEHIND)),
    _route(f"question → {BEHIND}", *(("asked", span) for span in _BEHIND)),
    *(_route(f"{m} → {reader}", (m, _READERS[reader])) for m in ("audio", "video") for reader in ("question", "last")),
    *_TEXT_ROUTES,
    _route("audio → video", ("audio", "video")),
    _route("video → audio", ("video", "audio")),
)
ITEM_ROUTES = (
    *(_route(f"queried item → {reader}", ("queried_item", span)) for reader, span in _READERS.items()),
    _route("queried item → text", *(("queried_item", span) for span in _READERS.values())),
    _route("other items → text", *(("other_items", span) for span in _READERS.values())),
    _route("queried item ↔ other items", ("queried_item", "other_items"), ("other_items", "queried_item")),
    *_TEXT_ROUTES,
)
# Layer by layer.
MAPPED = tuple(route for route in CLIP_ROUTES if not route.name.startswith("media") and BEHIND not in route.name)
# What stays, of all edges: the template and the media read what they always do; the text reads on as in "media → ...".
_ALWAYS = (
    "prompt_begin->prompt_begin|media|asked|prompt_end|last",
    "media->media",
    "asked->asked|prompt_end|last",
    "prompt_end|last->prompt_end|last",
)
SEQUENTIAL = (*_ALWAYS, "media->asked")
DIRECT = (*_ALWAYS, "media->prompt_end|last")

CLIP_TOKENS = ("audio", "video", "av", "system", "question")
ITEM_TOKENS = ("queried_item", "other_items", "queried_item|other_items", "system", "question")


@dataclass(frozen=True)
class StudyPlan:
    """What is asked of every family; it goes into the settings of a study."""

    samples: int = 200
    window: int | None = None
    seed: int = 20_261_125  # of the questions and of random cuts; the evaluation's own


@dataclass(frozen=True, eq=False)
class FamilyResults:
    """What was measured of one family; None of what was not, because the model does not answer it."""

    family: str
    chance: float  # share of right answers that the text of the question alone gives
    contribution: ModalityContribution
    flow: InformationFlow | None = None  # routes, layer by layer
    whole: InformationFlow | None = None  # routes, cut in all layers at once
    sequential: EffectivePathway | None = None
    direct: EffectivePathway | None = None
    discards: DiscardCurve | None = None

    def __repr__(self) -> str:
        return f"FamilyResults({self.family!r}, {', '.join(name for name in RESULTS if getattr(self, name))})"

    @property
    def needs(self) -> tuple[str, ...]:
        """The modalities that hold the answer, by the task."""
        return FAMILIES[family_of(self.family)].needs

    @property
    def has_items(self) -> bool:
        """Whether the prompts hold several items."""
        return has_items(self.family)

    @property
    def answered(self) -> Verdict:
        """Whether the model answers this family, so that anything can be asked."""
        return answers_enough(self.contribution.is_right(self.contribution.answer_ids), self.chance)

    def save(self, folder: Path) -> None:
        """Every result by its own `save`, and the rest as JSON."""
        about = {"family": self.family, "chance": self.chance}
        (folder / "family.json").write_text(json.dumps(about), encoding="utf-8")
        for name in RESULTS:
            result = getattr(self, name)
            if result is not None:
                result.save(folder / f"{name}.safetensors")

    @classmethod
    def load(cls, folder: Path) -> "FamilyResults":
        """Read what `save` wrote."""
        about = json.loads((folder / "family.json").read_text(encoding="utf-8"))
        paths = {name: folder / f"{name}.safetensors" for name in RESULTS}
        found: dict[str, Any] = {name: RESULTS[name].load(path) for name, path in paths.items() if path.exists()}
        return cls(**about, **found)


RESULTS: Mapping[str, type[Result]] = {
    "contribution": ModalityContribution,
    "flow": InformationFlow,
    "whole": InformationFlow,
    "sequential": EffectivePathway,
    "direct": EffectivePathway,
    "discards": DiscardCurve,
}


def measure(
    model: "HookedAVTransformer", family: str, plan: StudyPlan, stage: Callable[[str], None] = lambda name: None
) -> FamilyResults:
    """All that the study wants to know of one family; `stage` is told what begins."""
    name, options, controls = family_of(family), family.endswith(OPTIONS), Controls(seed=plan.seed)
    stage("prompts")
    cases = held_out_cases(model, name, plan.samples, options=options, seed=plan.seed, swaps=True)
    stage("contribution")
    contribution = modality_contribution(model, cases, follow="gold")
    found = FamilyResults(family, text_alone(name, options), contribution)
    if found.answered.says != HOLDS:
        return found
    routes = ITEM_ROUTES if found.has_items else CLIP_ROUTES
    right = _answered(cases, contribution)
    stage("routes by layer")
    mapped = ITEM_ROUTES if found.has_items else MAPPED
    flow = information_flow(model, right, pathways=mapped, window=plan.window, controls=controls)
    stage("routes")
    whole = information_flow(model, right, pathways=routes, window="all", controls=controls)
    stage("pathways alone")
    sequential, direct = (effective_pathway(model, right, edges, controls=controls) for edges in (SEQUENTIAL, DIRECT))
    stage("discards")
    tokens = ITEM_TOKENS if found.has_items else CLIP_TOKENS
    discards = discard_curve(model, cases, tokens, seed=plan.seed)
    return FamilyResults(family, found.chance, contribution, flow, whole, sequential, direct, discards)


def _answered(cases: Sequence[Case], contribution: ModalityContribution) -> list[Case]:
    """The cases that the clean model answers rightly, all with the spans that their routes need."""
    right = contribution.is_right(contribution.answer_ids) == 1
    return [case for case, is_right in zip(cases, right, strict=True) if is_right]


def family_of(form: str) -> str:
    """The family of a form of questions, which may have lettered options.

    Errors: `InputsError` for one that the task does not have.

    >>> family_of("visual, options")
    'visual'
    """
    name = form.removesuffix(OPTIONS)
    check_family(name)
    return name


def has_items(form: str) -> bool:
    """Whether a form of questions is about several items in one prompt.

    >>> has_items("visual"), has_items("spoken in item")
    (False, True)
    """
    return any(ITEMS in scene for scene in FAMILIES[family_of(form)].scenes)


def slug(form: str) -> str:
    """A form of questions as the name of a folder.

    >>> slug("binding, shown")
    'binding-shown'
    """
    return re.sub(r"\W+", "-", form)
