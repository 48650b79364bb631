"""How each model of tiny-av's kind is made: what it starts from, and its stages."""

from collections.abc import Mapping
from dataclasses import replace

from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.tiny.architecture import NAME, untrained
from hooked_av.tiny.curriculum import Lesson
from hooked_av.tiny.routes import ROUTES
from hooked_av.tiny.training import Recipe, Stage

_NONE = Stage(steps=0, rate=0.0)
_FROM_SCRATCH = {"audio": _NONE, "video": _NONE, "answers": _NONE, "lesson": Lesson(scenes=16, drills_steps=5000)}
# The encoders of all but the free one are tiny-av's: they see no route.
_STAGES: Mapping[str, Recipe] = {
    "free": Recipe(),
    "sequential": Recipe(**_FROM_SCRATCH),
    "direct": Recipe(**_FROM_SCRATCH),
    "redundant": Recipe(audio=_NONE, video=_NONE, words=_NONE, questions=_NONE),
    "parallel": Recipe(**_FROM_SCRATCH),
}  # fmt: skip


def recipe_of(route: str, seed: int) -> Recipe:
    """The stages of a route's model.

    >>> recipe_of("direct", seed=0).cuts
    frozenset({'media->asked'})
    """
    return replace(_STAGES[route], seed=seed, cuts=ROUTES[route].cuts)


def beginning_of(route: str, seed: int) -> HookedAVTransformer:
    """What a route's model starts from: tiny-av, or an untrained decoder behind tiny-av's encoders (or new ones)."""
    if ROUTES[route].begins_trained:
        return HookedAVTransformer.from_pretrained(NAME)
    model = untrained(seed)
    if route != "free":
        trained = HookedAVTransformer.from_pretrained(NAME)
        model.encoders.load_state_dict(trained.encoders.state_dict())
    return model
