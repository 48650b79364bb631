"""Values that no run should take: cuts that can never act, nan, ranges of sampling, sizes, precisions."""

import math

import torch

import hooked_av as av
from bad import Bad
from hooked_av.interventions.values import Values

NAN, INF = math.nan, math.inf
POINT, PATTERN = "blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern"


def odd_row(at, value, where=3):
    row = torch.zeros(at.model.cfg.d_model)
    row[where] = value
    return row


# --- cuts that can never act: every key comes after every query ------------------------------------------------------

NEVER = {
    "a route the wrong way round": "last->system",
    "a route the wrong way round, in one layer": "question->system@1",
    "keys and queries swapped": av.block_attention(keys="last", queries="system"),
    "keys and queries swapped, in one head": av.block_attention(keys="last", queries="system", heads=0),
    "span algebra the wrong way round": "assistant-last->user&question",
    "a route that stays, the wrong way round": av.keep_only("last->system"),
    "one of several routes that stay": av.keep_only("system->last", "assistant->user@0"),
    "as much as a cut that takes nothing": av.block_random("last->system"),
    "as much as one that takes nothing, by rows": av.block_random("last->system", spread="rows", seed=3),
    "as much as two, of which one takes nothing": av.block_random(["system->last", "last->system"]),
    "attention to the future set to zero": av.ablate(PATTERN, "system<-last"),
}
RUNS = {
    "a pass": lambda at, spec: at.model(at.inputs, interventions=spec),
    "begin": lambda at, spec: at.model.begin(at.inputs, interventions=[spec]),
    "a cache": lambda at, spec: at.model.run_with_cache(at.inputs, interventions=spec),
    "a replay": lambda at, spec: at.model.baseline(at.inputs).run([spec]),
    "generate": lambda at, spec: at.model.generate(at.inputs, max_new_tokens=2, interventions=spec),
}


def in_a_block(at, spec):
    with at.model.intervene(spec):
        return at.model(at.inputs)


RUNS["a block"] = in_a_block

PHASES = {
    "the first token alone, of a cut of later ones": {"interventions": "last->generated", "max_new_tokens": 1},
    "the prefill, of a cut of later tokens": {"interventions": "last->generated", "during": "prefill"},
    "the prefill, where the prompt reads no such key": {"interventions": "last->system|generated", "during": "prefill"},
    "decoding, of a cut in the prompt": {"interventions": "system->last", "during": "decode"},
    "decoding, of tokens that the prompt would read": {"interventions": "generated->last"},
}
ANALYSES = {
    "information_flow": lambda at, route: av.information_flow(at.model, at.inputs, pathways=[route]),
    "knockout_curves": lambda at, route: av.knockout_curves(at.model, at.inputs, [route]),
    "route_sweep": lambda at, route: av.route_sweep(at.model, at.inputs, ["system->last", route]),
    "effective_pathway": lambda at, route: av.effective_pathway(at.model, at.inputs, ["text->text", route]),
}

# --- nan and infinite ------------------------------------------------------------------------------------------------

VALUES = {
    "ablate to": lambda at, row: av.ablate(POINT, "last", row),
    "patch": lambda at, row: av.patch(POINT, "last", row),
    "patch, by point": lambda at, row: av.patch("blocks.*.hook_resid_post", "last", {POINT: row}),
    "add_vector": lambda at, row: av.add_vector(POINT, "last", row),
    "Values": lambda at, row: Values(row),
}
HOOKS = {
    "returns nan": lambda x, hook: x * NAN,
    "divides by zero": lambda x, hook: (x - x) / (x - x),
    "writes nan in place": lambda x, hook: x.fill_(NAN),
    "takes the mean of nothing": lambda x, hook: x + x[:, :0].mean(),
}


def under(at, function, name="blocks.1.hook_mlp_out@last"):
    with torch.no_grad():
        return at.model.run_with_hooks(at.inputs, fwd_hooks=[(name, function)])


def gives_nan(at, function):
    """Answers of a model with one weight that is no number; the weight comes back."""
    weight = at.model.decoder.blocks[1].mlp.down_proj.weight
    before = weight.detach()[0, 0].clone()
    with torch.no_grad():
        weight[0, 0] = NAN
    try:
        return function()
    finally:
        with torch.no_grad():
            weight[0, 0] = before


# --- sampling --------------------------------------------------------------------------------------------------------

SAMPLING = [
    *(("top_p", value) for value in (0, 0.0, -0.1, 1.0001, 2, NAN, INF, -INF, True)),
    *(("temperature", value) for value in (0, 0.0, -1.0, NAN, INF, -INF, True, 10**309)),
    *(("top_k", value) for value in (-1, 2**63, True)),
    *(("seed", value) for value in (-1, 2**63, True)),
]
ALWAYS = [
    *(("repetition_penalty", value) for value in (0, -1.0, NAN, INF, True, 10**309)),
    *(("max_new_tokens", value) for value in (0, -1, True, 10**9, 2**62, 32_744)),
    *(("stop_tokens", value) for value in (-1, 10**9, (3, -2))),
]


class Said:
    """A checkpoint's settings, put in and taken out again."""

    def __init__(self, **said):
        self.said = said

    def __call__(self, at, _):
        before = at.model.generation_defaults
        at.model.generation_defaults = type(before).from_dict(self.said)
        try:
            return at.model.generate(at.inputs, max_new_tokens=self.said.get("max_new_tokens") and None)
        finally:
            at.model.generation_defaults = before


STATED = [
    *({"do_sample": True, "top_p": value} for value in (0, 0.0, 1.5, -1, "0.9", NAN)),
    *({"do_sample": True, "temperature": value} for value in (0, -1, "hot", NAN, INF)),
    *({"do_sample": True, "top_k": value} for value in (-1, 2.5, "50")),
    *({"repetition_penalty": value} for value in (0, -2, "1.05", NAN, 10**309)),
    *({"max_new_tokens": value} for value in (0, -5, 2.5, 10**9)),
    {"do_sample": "yes"},
    {"eos_token_id": [10**9]},
]

# Whole numbers that no float holds, where floats are taken.
ENDLESS = {
    "add_vector": lambda at, n: av.add_vector(POINT, "last", odd_row(at, 1.0), n),
    "discard_curve": lambda at, n: av.discard_curve(at.model, at.inputs, ["system"], kept_share=n),
    "find_sinks": lambda at, n: av.find_sinks(at.model, at.inputs, threshold=-n),
    "Clip.cut": lambda at, n: at.clip.cut(n),
}

# --- sizes -----------------------------------------------------------------------------------------------------------

SIZES = {
    "a cache": (lambda at: at.model.run_with_cache(at.inputs, max_bytes=1000), "this cache"),
    "a cache, of which some layers fit": (
        lambda at: at.model.run_with_cache(at.inputs, max_bytes=750_000, logits_at="last"),
        "layers 0 to 0 would fit",
    ),
    "the logits of every row": (
        lambda at: at.model.run_with_cache(at.inputs, names_filter="hook_embed", max_bytes=10_000_000),
        "with the logits",
    ),
    "a baseline": (lambda at: at.model.baseline(at.inputs, max_bytes=1000), "this baseline"),
    "a baseline, of which a part fits": (
        lambda at: at.model.baseline(at.inputs, max_bytes=27_000),
        "touched='last' needs",
    ),
    "one intervention": (
        lambda at: at.model.baseline(at.inputs).run(["system->question"], max_bytes=10),
        "give max_bytes=",
    ),
    "an answer": (
        lambda at: at.model.generate(at.inputs, max_new_tokens=1000, max_bytes=100_000),
        "max_new_tokens up to",
    ),
    "any answer": (lambda at: at.model.generate(at.inputs, max_bytes=10), "take a shorter prompt"),
    "the logits of every step": (
        lambda at: at.model.generate(at.inputs, max_new_tokens=50, keep="logits", max_bytes=10**7),
        "max_new_tokens up to",
    ),
}

# --- precisions ------------------------------------------------------------------------------------------------------


def in_autocast(function):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return function()


PRECISIONS = [
    Bad(
        "a model in float8",
        lambda at, model: model(at.inputs),
        "does not run in this precision",
        lambda at: av.random_omni(n_layers=1).to(torch.float8_e4m3fn),
    ),
    Bad("a baseline under autocast", lambda at, _: in_autocast(lambda: at.model.baseline(at.inputs)), "autocast"),
    Bad(
        "a replay under autocast",
        lambda at, clean: in_autocast(lambda: clean.run(["system->last"])),
        "autocast",
        lambda at: at.model.baseline(at.inputs),
    ),
    Bad(
        "an analysis under autocast",
        lambda at, _: in_autocast(lambda: av.knockout_curves(at.model, at.inputs, ["system->last"])),
        "autocast",
    ),
]

ROWS = [
    *(
        Bad(f"{what}: {run}", lambda at, _, spec=spec, go=go: go(at, spec), "never act")
        for what, spec in NEVER.items()
        for run, go in RUNS.items()
    ),
    *(
        Bad(f"a cut live in {what}", lambda at, _, how=how: at.model.generate(at.inputs, **how), "never act")
        for what, how in PHASES.items()
    ),
    *(
        Bad(f"{name}: a pathway the wrong way round", lambda at, _, go=go: go(at, "last->system"), "swap")
        for name, go in ANALYSES.items()
    ),
    *(
        Bad(
            f"{what}: {value}",
            lambda at, row, make=make: make(at, row),
            "are not all numbers",
            lambda at, v=value: odd_row(at, v),
        )
        for what, make in VALUES.items()
        for value in (NAN, INF, -INF)
    ),
    Bad(
        "nan in JSON",
        lambda at, text: av.interventions.from_json(text.replace("AACAPw", "AADAfw")),
        "are not all numbers",
        lambda at: av.interventions.to_json(av.add_vector(POINT, "last", torch.ones(2))),
    ),
    *(
        Bad(
            f"add_vector: scale {scale}",
            lambda at, row, scale=scale: av.add_vector(POINT, "last", row, scale),
            "scaled",
            lambda at: odd_row(at, 2.0),
        )
        for scale in (NAN, INF, -INF, 1e39)
    ),
    *(Bad(f"a hook that {what}", lambda at, _, go=go: under(at, go), "made nan") for what, go in HOOKS.items()),
    *(
        Bad(
            f"a hook at {name} that makes nan",
            lambda at, _, name=name: under(at, HOOKS["returns nan"], name),
            "made nan",
        )
        for name in (
            "hook_embed",
            PATTERN,
            "blocks.0.attn.hook_v",
            "blocks.1.attn.hook_attn_scores@last",
            "hook_logits",
        )
    ),
    Bad(
        "nan while an answer is written", lambda at, _: gives_nan(at, lambda: at.model.generate(at.inputs)), "at step 0"
    ),
    Bad(
        "nan while a baseline is made",
        lambda at, _: gives_nan(at, lambda: at.model.baseline(at.inputs)),
        "no answer can",
    ),
    Bad(
        "nan while a map is made",
        lambda at, _: gives_nan(at, lambda: av.knockout_curves(at.model, at.inputs, ["system->last"])),
        "no answer can",
    ),
    *(
        Bad(
            f"sampling with {name}={value!r}",
            lambda at, _, s={name: value}: at.model.generate(at.inputs, do_sample=True, **s),
            name,
        )
        for name, value in SAMPLING
    ),
    *(
        Bad(
            f"{name}={value!r}",
            lambda at, _, s={name: value}: at.model.generate(at.inputs, **s),
            {"stop_tokens": "stop token"}.get(name, name),
        )
        for name, value in ALWAYS
    ),
    *(
        Bad(f"a checkpoint that says {said}", Said(**said), "stop token" if "eos_token_id" in said else [*said][-1])
        for said in STATED
    ),
    *(
        Bad(f"310 digits: {what}", lambda at, _, go=go: go(at, 10**309), "no float holds")
        for what, go in ENDLESS.items()
    ),
    *(Bad(f"too large: {what}", lambda at, _, go=go: go(at), says) for what, (go, says) in SIZES.items()),
    *PRECISIONS,
]
