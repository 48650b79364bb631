"""Findings: statements about each family, computed from its results by the rules; no model runs here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hooked_av.analyses.flow.effective_pathway import EffectivePathway
from hooked_av.study.measures import BEHIND, CLIP_TOKENS, ITEM_TOKENS, FamilyResults
from hooked_av.study.rules import (
    FAILS,
    HOLDS,
    UNKNOWN,
    Says,
    Verdict,
    all_of,
    free_from,
    in_proportion,
    needed,
    negated,
    suffices,
    unless_either,
    used,
)

TITLES: Mapping[int, str] = {
    1: "In one clip, information goes from the media to the question to the last token; sound and picture contribute "
    "in proportion to the task's reliance on them",
    2: "With several items, routing shifts to parallel streams",
    3: "Tokens can be discarded once their information has been handed over",
    4: "All of it holds across model families and scales",
}
SEQUENTIAL, CONTRIBUTES = "media → question → last", "contribution fits the task"
PARALLEL, SHIFTS = "parallel streams", "routing differs from one clip's"
PROPORTION, SCALES = "contribution goes with reliance", "families and scales"
COUNTERPARTS: Mapping[str, str] = {"spoken in item": "auditory", "shown in item": "visual"}  # the same, of one clip
READERS = ("question", "prompt end", "last")
EVERY = "all families"


@dataclass(frozen=True)
class Statement:
    """One claim about one family, what can be said of it, and the numbers behind it."""

    finding: int
    family: str
    claim: str
    says: Says
    why: str
    layer: int | None = None  # of a discard: the first that can do without the tokens

    @classmethod
    def of(cls, finding: int, family: str, claim: str, verdict: Verdict, layer: int | None = None) -> "Statement":
        """A verdict on a claim."""
        return cls(finding, family, claim, verdict.says, verdict.why, layer)


@dataclass(frozen=True)
class Summary:
    """One claim over all families."""

    finding: int
    claim: str
    says: str  # or "holds in part"
    text: str


def statements(results: Sequence[FamilyResults]) -> list[Statement]:
    """Everything that is said of these families, one by one and together."""
    by_name = {family.family: family for family in results}
    found: list[Statement] = []
    for family in results:
        routes = _of_items(family, by_name) if family.has_items else _of_clip(family)
        said = [*routes, *_contribution(family), *_discards(family)]
        found += [
            Statement.of(finding, family.family, claim, verdict, layer) for finding, claim, verdict, layer in said
        ]
    found.append(Statement.of(1, EVERY, PROPORTION, _proportion(results)))
    models = sorted({str(family.contribution.settings["model"]) for family in results})
    why = f"a study of one model ({', '.join(models)}) says nothing about other families and scales: run it on each"
    return [*found, Statement(4, EVERY, SCALES, UNKNOWN, why)]


def summaries(found: Sequence[Statement]) -> list[Summary]:
    """Each main claim over the families that it was asked of."""
    claims = dict.fromkeys((one.finding, one.claim) for one in found if one.claim in _MAIN or one.finding in (3, 4))
    in_order = sorted(claims, key=lambda key: (key[0], _MAIN.index(key[1]) if key[1] in _MAIN else 0))
    return [_summary(*key, [one for one in found if (one.finding, one.claim) == key]) for key in in_order]


_MAIN = (SEQUENTIAL, CONTRIBUTES, PROPORTION, PARALLEL, SHIFTS)


def _summary(finding: int, claim: str, some: Sequence[Statement]) -> Summary:
    if len(some) == 1 and some[0].family == EVERY:
        return Summary(finding, claim, some[0].says, some[0].why)
    by_verdict = {says: [_named(one) for one in some if one.says == says] for says in (HOLDS, FAILS, UNKNOWN)}
    says = "holds in part" if by_verdict[HOLDS] and by_verdict[FAILS] else next(
        (says for says in (HOLDS, FAILS) if by_verdict[says]), UNKNOWN
    )  # fmt: skip
    said = [f"{verdict} for {len(names)}: {'; '.join(names)}" for verdict, names in by_verdict.items() if names]
    return Summary(finding, claim, says, ". ".join(f"{one[0].upper()}{one[1:]}" for one in said))


def _named(one: Statement) -> str:
    return one.family if one.layer is None else f"{one.family} ({since(one.layer)})"


def since(layer: int) -> str:
    """From where on tokens can be discarded, in words.

    >>> since(0), since(3)
    ('from the start', 'from layer 3')
    """
    return f"from layer {layer}" if layer else "from the start"


# --- one family ------------------------------------------------------------------------------------------------------

Said = tuple[int, str, Verdict, int | None]


def route(family: FamilyResults, name: str) -> Verdict:
    """Whether the answer needs a route, cut in all layers at once."""
    if family.whole is None:
        return family.answered
    place = family.whole.pathways.index(name)
    return needed(family.whole.changes[:, place, 0], family.whole.control_changes.mean(axis=1)[:, place, 0])


def alone(family: FamilyResults, kept: EffectivePathway | None) -> Verdict:
    """Whether some edges are enough."""
    if kept is None:
        return family.answered
    return suffices(kept.is_right(kept.best_ids), kept.is_right(kept.control_best_ids).mean(axis=1))


def _contribution(family: FamilyResults) -> Iterator[Said]:
    """Whether both modalities contribute as the task needs them: attention to each is cut in all layers."""
    parts = [(name, contributes(family, modality)) for name, modality in (("sound", "audio"), ("picture", "video"))]
    yield 1, CONTRIBUTES, all_of(parts), None
    yield from ((1, f"{name} contributes as the task needs", verdict, None) for name, verdict in parts)


def contributes(family: FamilyResults, modality: str) -> Verdict:
    """Whether one modality does."""
    if family.answered.says != HOLDS:
        return family.answered
    found, condition = family.contribution, f"{modality} cut"
    if condition not in found.conditions:
        return Verdict(UNKNOWN, f"no sample has any {modality}")
    return used(found.accuracy_drop[:, found.conditions.index(condition)], modality in family.needs)


def _of_clip(family: FamilyResults) -> Iterator[Said]:
    parts = [(name, route(family, name)) for name in ("media → question", f"question → {BEHIND}")]
    direct, past = f"media → {BEHIND} is not needed", negated(route(family, f"media → {BEHIND}"))
    ways = [
        ("the sequential route", alone(family, family.sequential)),
        ("the direct route", alone(family, family.direct)),
    ]
    yield 1, SEQUENTIAL, unless_either(all_of([*parts, (direct, past)]), ways), None
    yield from ((1, f"{name} is needed", verdict, None) for name, verdict in parts)
    yield 1, direct, past, None
    yield from ((1, f"{name} alone is enough", verdict, None) for name, verdict in ways)


def _of_items(family: FamilyResults, others: Mapping[str, FamilyResults]) -> Iterator[Said]:
    own = route(family, "queried item → text")
    apart = negated(route(family, "other items → text"))
    unmixed = negated(route(family, "queried item ↔ other items"))
    parts = [
        ("the queried item has a route of its own", own),
        ("other items are not needed", apart),
        ("items need not read each other", unmixed),
    ]
    yield 2, PARALLEL, all_of(parts), None
    yield from ((2, name, verdict, None) for name, verdict in parts)
    yield 2, SHIFTS, shifts(family, others.get(COUNTERPARTS.get(family.family, ""))), None


def shifts(items: FamilyResults, clip: FamilyResults | None) -> Verdict:
    """Whether another set of routes is needed than by the same question about one clip."""
    if items.whole is None:
        return items.answered
    if clip is None or clip.whole is None:
        named = COUNTERPARTS.get(items.family)
        return Verdict(UNKNOWN, f"needs the family '{named}', answered" if named else "no family asks it of one clip")
    names = {f"{{}} → {reader}": "media" for reader in READERS}
    pairs = [(route(items, name.format("queried item")), route(clip, name.format("media")), name) for name in names]
    pairs += [(route(items, name), route(clip, name), name) for name in ("question → last", "prompt end → last")]
    known = [(one.says, other.says, name.format("media")) for one, other, name in pairs]
    differ = [name for one, other, name in known if {one, other} == {HOLDS, FAILS}]
    if differ:
        return Verdict(HOLDS, f"needed of one only: {', '.join(differ)}")
    if any(UNKNOWN in pair for pair in known):
        return Verdict(UNKNOWN, f"undecided: {', '.join(name for *pair, name in known if UNKNOWN in pair)}")
    return Verdict(FAILS, f"the same routes as '{clip.family}': {', '.join(n for one, _, n in known if one == HOLDS)}")


def _discards(family: FamilyResults) -> Iterator[Said]:
    curve = family.discards
    for number, span in enumerate(ITEM_TOKENS if family.has_items else CLIP_TOKENS):
        if curve is None:
            yield 3, f"discard {words(span)}", family.answered, None
            continue
        layer, verdict = free_from(curve.correct[number] - curve.clean_correct)
        yield 3, f"discard {words(span)}", verdict, None if layer is None else int(curve.layers[layer])


def _proportion(results: Sequence[FamilyResults]) -> Verdict:
    answered = [family for family in results if family.answered.says == HOLDS]
    pairs = [(index_of(family, "blank")[0], index_of(family, "cut")[0]) for family in answered]
    return in_proportion(*zip(*pairs, strict=True)) if pairs else in_proportion([], [])


def index_of(family: FamilyResults, kind: str) -> tuple[float, float, float]:
    """(video - audio) / (video + audio) with its interval, of a kind of loss ("cut", "blank")."""
    table = family.contribution.index().set_index("kind")
    index, low, high = (float(table.loc[kind, name]) for name in ("index", "low", "high"))
    return index, low, high


def words(span: str) -> str:
    """What a span of the study is called.

    >>> words("queried_item|other_items"), words("av")
    ('all items', 'audio and video')
    """
    return {"av": "audio and video", "queried_item|other_items": "all items"}.get(span, span.replace("_", " "))
