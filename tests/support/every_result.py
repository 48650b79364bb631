"""One result of every type, from tiny-av and its sample clips, as an analysis makes it."""

from functools import cache

import hooked_av as av
from hooked_av.tiny.samples import read_samples


@cache
def model():
    return av.HookedAVTransformer.from_pretrained("tiny-av")


@cache
def cases():
    samples = read_samples()
    return [
        av.Case(
            model().prepare(sample.clip, question=sample.question),
            sample.answer,
            "one" if sample.answer != "one" else "two",
            id=f"film {number}",
            task="seeing" if "shown" in sample.question else "hearing",
            swapped=av.media_swaps(model(), sample.clip, samples[-1].clip, question=sample.question),
        )
        for number, sample in enumerate(samples[:3])
    ]


@cache
def pair():
    clip, other = (read_samples()[number].clip for number in (1, 3))
    made = av.make_pair(model(), clip, "audio", other=other, question=read_samples()[1].question)
    return {"clean": made.clean, "corrupt": made.corrupt}


def inputs():
    return cases()[1].inputs


def rows(draws):
    return av.Controls(draws, "rows")


EDGES = ["user->user", "system->system", "system|user|assistant->assistant"]
# The name of a result type -> one of it.
MAKERS = {
    "AnswerTrace": lambda: av.answer_trace(model(), inputs()),
    "AttentionMass": lambda: av.attention_mass(model(), cases()),
    "AttributionPatching": lambda: av.attribution_patching(
        model(), **pair(), table="heads", exact=av.patch_heads(model(), **pair())
    ),
    "BackPatching": lambda: av.back_patch(model(), clean=inputs(), span="question"),
    "DirectAttribution": lambda: av.direct_logit_attribution(model(), inputs(), "five", "three"),
    "DiscardCurve": lambda: av.discard_curve(model(), cases(), ["audio", "video", "av"], repeats=1),
    "EffectivePathway": lambda: av.effective_pathway(
        model(),
        cases(),
        ["user->user", "system->system", "system|user|assistant->assistant"],
        controls=1,
        only_correct=False,
    ),
    "HeadPatching": lambda: av.patch_heads(model(), **pair()),
    "InformationFlow": lambda: av.information_flow(model(), cases(), window=3, controls=rows(1), only_correct=False),
    "LogitLens": lambda: av.logit_lens(model(), inputs(), at="question|last", tokens=["five"]),
    "MediaLens": lambda: av.media_lens(model(), inputs()),
    "ModalityContribution": lambda: av.modality_contribution(model(), cases()),
    "PathPatching": lambda: av.patch_path(model(), **pair(), receiver="blocks.6.attn.hook_q"),
    "PositionPatching": lambda: av.patch_positions(model(), **pair(), every_seconds=0.5),
    "RouteSweep": lambda: av.route_sweep(model(), cases()[1], ["audio->last@2-5", "video->last", "audio->question"]),
    "Sinks": lambda: av.find_sinks(model(), inputs()),
    "SpanPatching": lambda: av.patch_spans(model(), **pair()),
}


@cache
def made(name: str):
    """One result of a type, made once: no test changes it."""
    return MAKERS[name]()
