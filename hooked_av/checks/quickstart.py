"""Tutorial 00: the length of a second, and the smallest cut."""

from typing import TYPE_CHECKING

from hooked_av.checks.judgement import Judgement, exercise, first_mistake
from hooked_av.interventions.routes import Route
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

MOST_LAYERS = 3


@exercise
def tokens_a_second(answer: int, inputs: AVInputs) -> Judgement:
    """How many tokens is a second of sound?"""
    spans = inputs.spans
    second, sound, film = spans.between(0, 1), spans["audio"], spans["video"]
    wanted = len(second & sound)
    return first_mistake(
        (answer == len(sound), "that is the whole sound; the clip is longer than a second"),
        (answer == len(second & film), "these are the tokens of a second of film; sound has a span of its own"),
        (answer == len(second & (sound | film)), "that is film and sound together"),
        (answer != wanted, "not that many: divide the length of the span `audio` by the seconds of the clip"),
    ) or Judgement(True, f"{wanted} tokens a second: each stands for {1000 // wanted} ms of sound")


@exercise
def smallest_cut(answer: str, model: "HookedAVTransformer", inputs: AVInputs) -> Judgement:
    """In which few neighbouring layers does the last position read the sound?"""
    route = Route.parse(answer)
    layers = route.layers or ()
    if mistake := first_mistake(
        (route.keys == "last", "keys come first: what is read, then who reads it"),
        (route.keys != "audio", f"the question is about the sound; you cut {route.keys}"),
        (route.queries == "question", "the bar of audio->question did not move: the sound goes past the question here"),
        (route.queries != "last", f"the answer begins at `last`; you cut what {route.queries} reads"),
        (not layers, "that cuts every layer: add @ and the layers"),
        (len(layers) > MOST_LAYERS, f"that works with fewer than {len(layers)} layers"),
        (max(layers, default=0) - min(layers, default=0) >= MOST_LAYERS, "these layers are no neighbours"),
    ):
        return mistake
    clean, cut = (model.generate(inputs, interventions=edits).texts[0] for edits in ((), answer))
    return first_mistake(
        (clean == cut, f"still {clean!r}: the sound is read in other layers, or in one more beside these"),
    ) or Judgement(True, f"with {answer} cut, {clean!r} becomes {cut!r}")
