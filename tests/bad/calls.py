"""Calls that do not fit: prompts, runs, hooks, caches, interventions, replays, generation, analyses, results."""

import copy
import math
import pickle
import re

import torch

import hooked_av as av
from bad import Bad

MLP = "blocks.0.hook_mlp_out"
IDS = torch.tensor([0, 2])


class Unknown:
    """Something that nobody takes."""


def _cache(at):
    return at.model.run_with_cache(at.inputs, names_filter="blocks.1.hook_resid_post")[1]


def _rows(name, says, call, *values):
    """One row for each value; its place tells those apart that look alike."""
    return [
        Bad(f"{name} {place}: {_shown(value)}", lambda at, _, value=value: call(at, value), says)
        for place, value in enumerate(values)
    ]


def _shown(value):
    """The start of its repr, the same in every process."""
    return re.sub(r" at 0x\w+", "", repr(value))[:50]


def _strange(*values):
    """Kinds of things that are no prompt."""
    return (None, 5, b"bytes", {"a": 1}, Unknown(), object, *values)


PROMPTS = [
    Bad("a clip without a question", lambda at, _: at.model.prepare(at.clip), "question"),
    Bad("a clip alone, in a list", lambda at, _: at.model.prepare([at.clip]), "question"),
    Bad("an argument misspelt", lambda at, _: at.model.prepare(at.clip, qestion="What?"), "question"),
    Bad("a question by its place", lambda at, _: at.model.prepare(at.clip, "What?"), "too many positional arguments"),
    Bad("a special token", lambda at, _: at.model.prepare(question="<|im_end|>"), "special tokens"),
    Bad(
        "a special token of two texts",
        lambda at, _: at.model.prepare([at.clip, "<|im_", "end|>"], question="q"),
        "texts that touch",
    ),
    Bad(
        "a special token of text and question",
        lambda at, _: at.model.prepare([at.clip, "<|im_"], question="end|> q"),
        "texts that touch",
    ),
    Bad("a position mode", lambda at, _: at.model.prepare(question="What?", positions="rope"), "position mode"),
    Bad("one option", lambda at, _: at.model.prepare(question="What?", options=["a"]), "two different"),
    Bad("equal options", lambda at, _: at.model.prepare(question="What?", options=["a", "a"]), "two different"),
    Bad(
        "more options than letters",
        lambda at, _: at.model.prepare(question="What?", options=list(map(str, range(27)))),
        "26",
    ),
    *_rows("question", "question", lambda at, v: at.model.prepare(question=v), None, 5, b"What?", ["What?"], "", " "),
    *_rows("options", "options", lambda at, v: at.model.prepare(question="q", options=v), 7, [1, 2], {"a": 1, "b": 2}),
    *_rows("system", "system", lambda at, v: at.model.prepare(question="q", system=v), 5, ["Be brief."]),
    *_rows("sampling", "sampling", lambda at, v: at.model.prepare(at.clip, question="q", sampling=v), {"fps": 2}, 2.0),
    *_rows("media", "media are clips", lambda at, v: at.model.prepare(v, question="q"), 5, "film.mp4", b"x", Unknown()),
    *_rows("fps", "fps", lambda at, v: av.Sampling(fps=v), "4", [4], True),
    *_rows("max_frames", "max_frames", lambda at, v: av.Sampling(max_frames=v), 2.5, "many"),
    *_rows("a batch of", "prompts", lambda at, v: at.model.batch(v), ["a"], "a", None, [None], 5),
    *_rows("rows of a batch", "no such rows", lambda at, v: at.model.batch([at.inputs] * 2)[v], 2, -3, [0, 5], [], IDS),
    *_rows("a row called", "", lambda at, v: at.inputs[v], "last", 0.5, None, ["a"], IDS > 0, IDS[0]),
    *_rows("one number from", "not one position", lambda at, v: int(at.inputs.spans[v]), "question", "all", "text"),
    *_rows("an attribute", "no span", lambda at, v: getattr(at.inputs.spans, v), "adio", "item9", "Last"),
    *_rows("a span of one's own", "already", lambda at, v: at.inputs.with_span("all", v), [0], "last", "all"),
    Bad("a key that ends in no span", lambda at, _: _cache(at)["resid_post", 1, "adio"], "no span 'adio'"),
    Bad(
        "rows of a span that is not there", lambda at, _: _cache(at).rows("blocks.1.hook_resid_post", "adio"), "no span"
    ),
    Bad("rows of what was not cached", lambda at, _: _cache(at).rows("blocks.0.hook_resid_post"), "not in the cache"),
    Bad(
        "a slice of a cache of no batch",
        lambda at, _: _cache(at).remove_batch_dim().apply_slice_to_batch_dim(0),
        "no batch axis",
    ),
    Bad("a baseline copied", lambda at, _: copy.deepcopy(at.model.baseline(at.inputs)), "neither copied nor saved"),
    Bad("a cache without its model", lambda at, _: pickle.loads(pickle.dumps(_cache(at))).model, "cache.model = model"),
    Bad("a batch of nothing", lambda at, _: at.model.batch([]), "nothing to stack"),
    *_rows("a span called", "span", lambda at, v: at.inputs.with_span(v, [1]), "", "a b", "a->b", "last@3"),
    *_rows("a span at", "", lambda at, v: at.inputs.with_span("mine", v), [999], [-1], [], [1.5], "nowhere", 5, None),
    *_rows(
        "tokens", "", lambda at, v: av.AVInputs.from_tokens(v), None, [1, 2], torch.zeros(3), torch.zeros(0, 0).long()
    ),
    Bad(
        "ids that there are not",
        lambda at, _: at.model(torch.tensor([[999_999_999]])),
        "token ids that the model does not have",
    ),
    Bad(
        "tensors of no prompt",
        lambda at, _: at.model.inputs_from_tensors(ids=torch.zeros(1, 2).long()),
        "input_ids",
    ),
    *_rows("text", "", lambda at, v: at.model.to_tokens(v), None, 5, [], ["a", "b c d"], [None], ""),
    *_rows("one token", "", lambda at, v: at.model.to_single_token(v), None, 5, "two words", ""),
    *_rows("ids to text", "", lambda at, v: at.model.to_string(v), None, "text", ["a"], 1.5, [10**9], -1),
]

RUNS = [
    *_rows("a run of", "inputs", lambda at, v: at.model(v), *_strange([5])),
    Bad("a run of no text", lambda at, _: at.model([]), "at least one"),
    *_rows("a cached run of", "inputs", lambda at, v: at.model.run_with_cache(v), *_strange()),
    *_rows("an answer to", "inputs", lambda at, v: at.model.generate(v, max_new_tokens=1), *_strange()),
    *_rows("a baseline of", "inputs", lambda at, v: at.model.baseline(v), *_strange()),
    *_rows("logits_at", "logits_at", lambda at, v: at.model(at.inputs, logits_at=v), 0, ["last"], b"last"),
    *_rows("logits at span", "span", lambda at, v: at.model(at.inputs, logits_at=v), "nowhere", "", "audio"),
    *_rows("stop_at_layer", "layer", lambda at, v: at.model(at.inputs, stop_at_layer=v), 1.5, "1", 3, -9, True),
    *_rows("names_filter", "names_filter", lambda at, v: at.model.run_with_cache(at.inputs, names_filter=v), 5, [5]),
    *_rows(
        "a cache of",
        "",
        lambda at, v: at.model.run_with_cache(at.inputs, names_filter=v),
        "blocks.9.hook_mlp_out",
        "nothing",
        [],
        "hook_audio_embed",
        f"{MLP}@nowhere",
        lambda name: False,
    ),
    *_rows("a device", "", lambda at, v: at.model.run_with_cache(at.inputs, device=v), "cuda:9", "gpu", 5),
    *_rows("max_bytes", "", lambda at, v: at.model.run_with_cache(at.inputs, max_bytes=v), 10, "1 GB", 1.5),
    Bad("resid without a layer", lambda at, _: at.model(at.inputs, resid=torch.zeros(1, 3, 64)), "go together"),
    Bad("a layer without resid", lambda at, _: at.model(at.inputs, start_at_layer=1), "go together"),
    Bad("an argument nobody knows", lambda at, _: at.model(at.inputs, intervention=()), "interventions"),
    *_rows("a pass from layer", "", lambda at, v: at.model.begin(at.inputs, start_at_layer=v), 3, "0", -9),
]


def _with_hooks(at, hooks):
    with at.model.hooks(fwd_hooks=hooks):
        at.model(at.inputs)


HOOKS = [
    *_rows(
        "fwd_hooks",
        "fwd_hooks",
        _with_hooks,
        {MLP: print},
        [(MLP, print, 3)],
        [MLP],
        [(MLP,)],
        [(MLP, "not callable")],
        [(5, print)],
        5,
        None,
        "blocks",
    ),
    *_rows("a hook at", "hook", _with_hooks, [("nothing", print)], [("blocks.*.nothing", print)], [("", print)]),
    *_rows("a hook for all of", "", _with_hooks, [(lambda name: False, print)], [(f"{MLP}@nowhere", print)]),
    *_rows(
        "a hook that gives",
        "",
        lambda at, v: _with_hooks(at, [(MLP, lambda rows, hook: v)]),
        5,
        "rows",
        torch.zeros(2),
        (torch.zeros(1), 2),
        [],
    ),
    *_rows(
        "a hook at a span that gives",
        "",
        lambda at, v: _with_hooks(at, [(f"{MLP}@last", lambda rows, hook: v)]),
        5,
        torch.zeros(1, 2, 64),
        (torch.zeros(1, 1, 64), None),
        torch.zeros(1, 1, 64).to_sparse(),
    ),
    Bad("a permanent hook at nothing", lambda at, _: at.model.add_hook("nothing", print), "hook"),
    Bad("a permanent hook that is none", lambda at, _: at.model.add_hook(MLP, 5), "hook"),
    Bad("hooks on encoders of nothing", lambda at, _: _with_hooks(at, [("hook_audio_embed", print)]), "cannot fire"),
]


def _under(at, *specs):
    return at.model(at.inputs, interventions=list(specs))


INTERVENTIONS = [
    *_rows(
        "interventions",
        "",
        _under,
        None,
        5,
        {"a": 1},
        "audio",
        "a->b->c",
        "->last",
        "system->",
        "system->last@",
        "system->last@9",
        "system->last@1-0",
        "system->last@x",
        "adio->last",
        ["system->last", 5],
        Unknown(),
        print,
    ),
    *_rows("keys", "", lambda at, v: _under(at, av.block_attention(keys=v, queries="last")), None, 5, "", "nowhere"),
    *_rows(
        "layers",
        "layers",
        lambda at, v: _under(at, av.block_attention(keys="system", queries="last", layers=v)),
        [],
        [9],
        -1,
        1.5,
        "all",
        [None],
        range(0),
        [0, 0.5],
    ),
    *_rows(
        "heads",
        "heads",
        lambda at, v: _under(at, av.block_attention(keys="system", queries="last", heads=v)),
        [],
        [9],
        -1,
        1.5,
        "all",
    ),
    *_rows("heads where there are none", "head", lambda at, v: _under(at, av.ablate(MLP, "last", heads=v)), 0, [1]),
    *_rows("ablate", "", lambda at, v: _under(at, av.ablate(v, "last")), "nothing", None, "", "hook_audio_embed"),
    *_rows("ablate to", "", lambda at, v: _under(at, av.ablate(MLP, "last", v)), 0, "max", None, torch.zeros(3)),
    *_rows(
        "add",
        "",
        lambda at, v: _under(at, av.add_vector(MLP, "last", v)),
        None,
        [0.0] * 64,
        torch.zeros(63),
        torch.zeros(64).long(),
        torch.zeros(64, device="meta"),
        "x",
    ),
    *_rows("scaled by", "", lambda at, v: av.add_vector(MLP, "last", torch.ones(64), v), "2", None, [1]),
    *_rows("patch from", "", lambda at, v: _under(at, av.patch(MLP, "last", v)), None, {}, 5, torch.zeros(2, 2)),
    *_rows("drop at", "", lambda at, v: _under(at, av.drop_tokens("system", v)), 9, -1, 1.5, "1", True, None),
    Bad("drop of the last token", lambda at, _: _under(at, av.drop_tokens("last", 1)), "last token"),
    Bad("keep nothing", lambda at, _: av.keep_only(), "route"),
    *_rows("keep only", "", lambda at, v: _under(at, av.keep_only(v)), None, 5, "last", ["system->last"]),
    *_rows("a control of", "", lambda at, v: av.block_random(v), None, [], 5, av.ablate(MLP, "last")),
    *_rows("a seed", "seed", lambda at, v: av.block_random("system->last", seed=v), 0.5, "1", None),
    *_rows(
        "specs from",
        "",
        lambda at, v: av.interventions.from_json(v),
        None,
        5,
        "",
        "[",
        "{}",
        "[5]",
        '[{"kind": "nothing"}]',
        '[{"kind": "block_attention"}]',
        '[{"kind": "block_attention", "keys": 5, "queries": "last", "layers": null}]',
        '[{"kind": "drop_tokens", "span": "audio", "layer": "one"}]',
        '[{"kind": "ablate", "more": 1}]',
    ),
    Bad("an own kind that does nothing", lambda at, _: _under(at, _OwnKind()), "do"),
]


class _OwnKind(av.interventions.Intervention):
    kind = "bad_own_kind"


REPLAYS = [
    *_rows(
        "a replay of", "", lambda at, v: at.model.baseline(at.inputs).run(v), None, 5, [5], [None], [["adio->last"]]
    ),
    *_rows(
        "a replay read at", "", lambda at, v: at.model.baseline(at.inputs).run(["system->last"], v), 5, None, "nowhere"
    ),
    *_rows("a replay within", "", lambda at, v: at.model.baseline(at.inputs, max_bytes=v), 10, "much"),
    *_rows("touched", "", lambda at, v: at.model.baseline(at.inputs, touched=v), "nowhere", 5, ["last"]),
]

GENERATION = [
    *_rows(
        "max_new_tokens",
        "max_new_tokens",
        lambda at, v: at.model.generate(at.inputs, max_new_tokens=v),
        0,
        -1,
        1.5,
        "3",
        True,
        10**9,
    ),
    *_rows(
        "top_p",
        "top_p",
        lambda at, v: at.model.generate(at.inputs, max_new_tokens=1, do_sample=True, top_p=v),
        0,
        0.0,
        -0.1,
        1.1,
        math.nan,
        "0.9",
    ),
    *_rows(
        "temperature",
        "temperature",
        lambda at, v: at.model.generate(at.inputs, max_new_tokens=1, do_sample=True, temperature=v),
        0,
        -1.0,
        math.nan,
        math.inf,
        "warm",
    ),
    *_rows(
        "top_k",
        "top_k",
        lambda at, v: at.model.generate(at.inputs, max_new_tokens=1, do_sample=True, top_k=v),
        -1,
        1.5,
        "5",
    ),
    *_rows(
        "stop_tokens", "", lambda at, v: at.model.generate(at.inputs, max_new_tokens=1, stop_tokens=v), 1.5, [None], -2
    ),
    *_rows("keep", "keep", lambda at, v: at.model.generate(at.inputs, max_new_tokens=1, keep=v), "all", 5, [5]),
    *_rows("during", "during", lambda at, v: at.model.generate(at.inputs, max_new_tokens=1, during=v), "never", None),
    *_rows(
        "on_token", "on_token", lambda at, v: at.model.generate(at.inputs, max_new_tokens=1, on_token=v), 5, "print"
    ),
]

ANALYSES = [
    *[
        Bad(f"{name} of {_shown(value)}", lambda at, _, name=name, value=value: getattr(av, name)(at.model, value), "")
        for name in (
            "information_flow",
            "attention_mass",
            "discard_curve",
            "modality_contribution",
            "logit_lens",
            "find_sinks",
            "answer_trace",
            "media_lens",
            "knockout_curves",
        )
        for value in (None, 5, [], ["text"])
        if not (name == "logit_lens" and value == ["text"])  # text is a prompt of it
    ],
    *[
        Bad(
            f"{name} with model {_shown(value)}",
            lambda at, _, name=name, value=value: getattr(av, name)(value, at.inputs),
            "model",
        )
        for name in ("information_flow", "logit_lens", "find_sinks", "knockout_curves")
        for value in (None, "tiny-av", 5)
    ],
    *_rows(
        "pathways",
        "",
        lambda at, v: av.information_flow(at.model, at.inputs, pathways=v),
        5,
        ["last"],
        "",
        ["adio->last"],
    ),
    *_rows(
        "window",
        "",
        lambda at, v: av.information_flow(at.model, at.inputs, pathways=["system->last"], window=v),
        0,
        9,
        "x",
    ),
    *_rows("controls", "", lambda at, v: av.information_flow(at.model, at.inputs, controls=v), -1, 0.5, None, "two"),
    *_rows("metric", "metric", lambda at, v: av.information_flow(at.model, at.inputs, metric=v), "best", None, 5),
    *_rows("follow", "follow", lambda at, v: av.information_flow(at.model, at.inputs, follow=v), "best", None, 5),
    *_rows(
        "route metric", "metric", lambda at, v: av.route_sweep(at.model, at.inputs, "system->last", metric=v), "p", 1
    ),
    *_rows(
        "top_k of a lens", "top_k", lambda at, v: av.logit_lens(at.model, at.inputs, top_k=v), 0, -1, 10**9, "5", 1.5
    ),
    *_rows("a lens at", "", lambda at, v: av.logit_lens(at.model, at.inputs, v), "nowhere", 5, None, [999], [1.5]),
    *_rows(
        "tokens of a lens", "", lambda at, v: av.logit_lens(at.model, at.inputs, tokens=v), 5, ["two words"], [None]
    ),
    *_rows("a convention", "", lambda at, v: av.logit_lens(at.model, at.inputs, convention=v), "raw", None, 5),
    *_rows(
        "layers to discard at",
        "",
        lambda at, v: av.discard_curve(at.model, at.inputs, "system", layers=v),
        [9],
        [1.5],
        5,
        "1",
    ),
    *_rows(
        "kept_share",
        "",
        lambda at, v: av.discard_curve(at.model, at.inputs, "system", rules="random", kept_share=v),
        0,
        1,
        2.0,
        "half",
    ),
    *_rows(
        "answers",
        "",
        lambda at, v: av.direct_logit_attribution(at.model, at.inputs, *v),
        (None, "a"),
        (" a", " a"),
        (1.5, 2),
        (10**9, 1),
    ),
    *_rows("a case of", "", lambda at, v: av.Case(v), None, 5, "text"),
    *_rows("an answer of a case", "answer", lambda at, v: av.Case(at.inputs, answer=v), 5, ["six"]),
    *_rows("a pair of", "", lambda at, v: av.make_pair(at.model, at.clip, v, question="q"), None, "noise", 5),
    Bad("swaps of nothing", lambda at, _: av.media_swaps(at.model, None, question="q"), "nothing to swap"),
    Bad("less than no controls", lambda at, _: av.Controls(-1), "cannot make controls like this"),
    Bad("controls of a seed below 0", lambda at, _: av.Controls(1, seed=-1), "cannot make controls like this"),
    *_rows("swaps of", "", lambda at, v: av.media_swaps(at.model, v, question="q"), None, 5, "film.mp4"),
    *_rows("a strip of", "", lambda at, v: av.token_strip(v), None, 5, "text"),
    *_rows("heat", "", lambda at, v: av.token_strip(at.inputs, heat=v), 5, [1.0], "hot", torch.zeros(3, 3, 3, 3)),
]


def _saved(at):
    path = at.folder / "lens.safetensors"
    return av.logit_lens(at.model, at.inputs).save(path)


def _damaged(content):
    def make(at):
        path = at.folder / "lens.safetensors"
        path.write_bytes(content(_saved(at).read_bytes()))
        return path

    return make


def _batch(at):
    return at.model.batch([at.inputs, at.model.prepare(question="And what do you see in the end?")])


BATCHES = [
    *_rows("a lens of a batch at", "", lambda at, v: av.logit_lens(at.model, _batch(at), v), [3], "adio", "audio"),
    *_rows(
        "tokens of a batch",
        "",
        lambda at, v: av.answer_trace(at.model, _batch(at), v),
        [["a"], ["a"], ["a"]],
        [["a"], 5],
        [["a"], ["two words"]],
    ),
    *_rows(
        "answers of a batch",
        "",
        lambda at, v: av.direct_logit_attribution(at.model, _batch(at), *v),
        (["a"], "b"),
        (["a", "b"], "b"),
        (["a", None], "b"),
        ("a", ["b", "two words"]),
    ),
    Bad("media of a batch with text", lambda at, _: av.media_lens(at.model, _batch(at)), "no media"),
    Bad(
        "a sweep of a batch", lambda at, _: av.route_sweep(at.model, _batch(at), "system->last"), "one prompt at a time"
    ),
    Bad("a batch among cases", lambda at, _: av.attention_mass(at.model, [_batch(at)]), "a batch of 2"),
    *_rows("results of a batch", "", lambda at, v: av.analyses.PerPrompt(v), (), None, 5, ["text"]),
    Bad(
        "results of a batch of several types",
        lambda at, _: av.analyses.PerPrompt([av.logit_lens(at.model, at.inputs), av.find_sinks(at.model, at.inputs)]),
        "not the results of a batch",
    ),
    Bad(
        "results of a batch from a file of one",
        lambda at, path: av.analyses.PerPrompt.load(path, av.analyses.LogitLens),
        "not a saved PerPrompt",
        _saved,
    ),
    Bad("results of no kind", lambda at, path: av.analyses.PerPrompt.load(path, None), "kind", _saved),
]

RESULTS = [
    Bad("a result of another kind", lambda at, path: av.analyses.InformationFlow.load(path), "not a saved", _saved),
    Bad("a result that is not there", lambda at, _: av.analyses.LogitLens.load("nowhere"), "not a saved LogitLens"),
    Bad("a result that is a folder", lambda at, _: av.analyses.LogitLens.load(at.folder), "not a saved LogitLens"),
    Bad(
        "a result cut off", lambda at, path: av.analyses.LogitLens.load(path), "not a saved", _damaged(lambda b: b[:99])
    ),
    Bad("an empty result", lambda at, path: av.analyses.LogitLens.load(path), "not a saved", _damaged(lambda b: b"")),
    Bad(
        "a result with broken fields",
        lambda at, path: av.analyses.LogitLens.load(path),
        "not a saved",
        _damaged(lambda b: b.replace(b'"fields":"{', b'"fields":"[')),
    ),
    Bad("a result saved nowhere", lambda at, _: av.logit_lens(at.model, at.inputs).save("no/such/x"), "cannot write"),
    Bad(
        "a result saved onto a folder", lambda at, _: av.logit_lens(at.model, at.inputs).save(at.folder), "cannot write"
    ),
    Bad("a strip saved nowhere", lambda at, _: av.token_strip(at.inputs).save("no/such/x.html"), "cannot save"),
    Bad("a strip saved as", lambda at, _: av.token_strip(at.inputs).save("x.png"), "cannot save"),
    Bad("a column", lambda at, _: av.logit_lens(at.model, at.inputs).tabulate("a b"), "no such column"),
    Bad("a column unknown", lambda at, _: av.logit_lens(at.model, at.inputs).tabulate("nothing"), "column"),
]

ROWS = [*PROMPTS, *RUNS, *HOOKS, *INTERVENTIONS, *REPLAYS, *GENERATION, *ANALYSES, *BATCHES, *RESULTS]
