"""Routes: ways that a medium's information can take to the answer, and what a model is cut from so that it takes one.

    free          nothing is cut
    sequential    media -> question -> answer    rows behind the question never read media
    direct        media -> answer                the question and its options never read media
    redundant     both of these ways, each enough alone: trained free, then on as `sequential`
    parallel      items (clips, pictures, sounds of one prompt) never read each other

A model that was cut in every layer of every step, from its first step on, cannot have learned the way that was cut:
its route is known, and methods that look for routes can be held to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

# Cuts of every layer. The names are those of the spans of `held_out_cases`.
BEHIND, ASKED, ITEMS = "media->prompt_end|last", "media->asked", "items"
Cuts: TypeAlias = frozenset[str]
UNCUT: Cuts = frozenset()


@dataclass(frozen=True)
class TrainedRoute:
    """What is cut while a model learns, whether it starts from tiny-av's decoder, and what that makes of it."""

    cuts: Cuts
    begins_trained: bool
    says: str


ROUTES: Mapping[str, TrainedRoute] = {
    "free": TrainedRoute(UNCUT, False, "every row may read everything before it"),
    "sequential": TrainedRoute(frozenset({BEHIND}), False, "the question reads media, the answer reads the question"),
    "direct": TrainedRoute(frozenset({ASKED}), False, "media are read behind the question only"),
    "redundant": TrainedRoute(frozenset({BEHIND}), True, "media are read by the question and behind it"),
    "parallel": TrainedRoute(frozenset({ITEMS}), False, "items never read each other"),
}

# The models that come with the package, by route.
SHIPPED: Mapping[str, str] = {"free": "tiny-av", "redundant": "tiny-av-redundant"}
MODEL_NAMES = tuple(SHIPPED.values())
