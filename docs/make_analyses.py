"""Writes docs/analyses.md from the code: every analysis, its arguments, its result, its table and its figure.

python docs/make_analyses.py
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from inspect import Parameter, getdoc, isfunction, signature
from pathlib import Path
from typing import Any, get_args, get_origin

import hooked_av as av
from hooked_av.analyses.per_prompt import PerPrompt
from hooked_av.analyses.results import Result
from hooked_av.doors import plain_name

PAGE = Path(__file__).parent / "analyses.md"
HEAD = """# Analyses

Every analysis is a function of a model that returns a frozen result: `.plot()` draws it, `.to_frame()` is its table,
`.save(path)` and the type's `.load(path)` keep it, `.settings` says how it was made. In a notebook a result is its
figure.

`inputs` and `cases` may be a batch (`model.batch([...])`), of prompts of any length, with media and without. Analyses
of `inputs` run one pass over it and give an `av.analyses.PerPrompt`: a sequence of what each prompt gives alone.
`found[0]` is the first prompt's, `found.to_frame()` one table with the column `prompt` in front, `found.plot()` their
figures one under the other, and `found.save(path)` and `PerPrompt.load(path, kind)` keep them. What differs from prompt
to prompt is a list: `answer=["five", "three"]`, `tokens=[["five"], ["three", "one"]]`. Of `cases` a batch is its
prompts, each a sample.

This page is generated from the code (`python docs/make_analyses.py`); a test holds it to signatures, docstrings
and results.

Arguments are written with `=` where they have a default. A name means the same in every analysis: the list is below.
"""
MEANINGS: Mapping[str, str] = {
    "inputs": "one prompt (`model.prepare`), or a batch of them (`model.batch`)",
    "case": "one prompt, or one `av.Case` with its right answer",
    "cases": "one prompt, a batch, one `av.Case`, or any number of prompts and cases, one by one",
    "clean": "the prompt that activations come from",
    "corrupt": "the prompt that they are brought into, of the same layout (`av.make_pair`)",
    "at": "the positions that are read: a span, span algebra, or positions",
    "span": "the rows that are patched, as one span",
    "spans": "the spans that are dropped or patched, each by itself",
    "keys": "spans that are read by attention",
    "queries": "spans that read",
    "sources": "spans that the answer's logits are shared out to",
    "item": "the number of a media item of the prompt",
    "layers": "the layers that are tried, counted from 0",
    "window": "how many layers are cut at once, around each layer in turn",
    "pathways": "routes of attention that are cut, each in every window of layers",
    "cuts": "routes of attention that are cut, each by itself, in layers of their own",
    "edges": "routes of attention that stay, when all others are cut",
    "components": "what is patched, by TransformerLens's short names, each by itself",
    "component": "what is patched, by TransformerLens's short name",
    "receiver": "the hook point that reads what the heads write",
    "receiver_heads": "heads of the receiver",
    "every_seconds": "length of the stretches of media time that are patched together",
    "table": "which table of patches is estimated",
    "exact": "the table of real patches that an estimate is compared with",
    "answer": "the token that is measured, as text or id",
    "alternative": "the token that it is measured against, as text or id",
    "tokens": "single tokens whose probability and rank are followed; of a batch, a list of lists has those of each",
    "top_k": "most probable tokens kept, a layer and position",
    "metric": "what is measured of an answer",
    "follow": "whose: the clean run's answer, or the right one",
    "convention": "how a layer is read by the lens",
    "controls": "random cuts beside every cut, of the same size",
    "only_correct": "leave out samples that the clean model answers wrongly",
    "dims": "dimensions of the residual stream that are looked at",
    "threshold": "size above which an activation is massive",
    "received_threshold": "share of attention above which a token is a sink",
    "tolerance": "largest error of a sum of parts, as a share of their sizes",
    "rules": "which tokens of a span are dropped",
    "kept_share": 'share of the span that rules other than "all" keep',
    "kv": "what becomes of dropped tokens' keys and values",
    "n_measured": "samples whose cost is measured",
    "repeats": "timed passes of each",
    "seed": "of what is drawn at random",
    "progress": "show a bar",
}
# The same name, with more than elsewhere: (analysis, argument) -> what is more.
WIDER = {
    ("logit_lens", "inputs"): "text and token ids, too",
    ("direct_logit_attribution", "answer"): "a list of one for each prompt of a batch, too",
    ("direct_logit_attribution", "alternative"): "a list of one for each prompt of a batch, too",
}

# Tables that a type makes by itself, not from `columns` or `axes`.
OWN_TABLES = {"DirectAttribution": ["component", "layer", "contribution"]}


def analyses() -> dict[str, Callable[..., Result]]:
    """The public functions of one model that return a result, in alphabetical order."""
    found = {name: getattr(av, name) for name in sorted(dir(av)) if not name.startswith("_")}
    of_a_model = {name: one for name, one in found.items() if isfunction(one) and "model" in signature(one).parameters}
    return {name: one for name, one in of_a_model.items() if result_of(one) is not None}


def result_of(function: Callable[..., Any]) -> type[Result] | None:
    """The type of what an analysis returns, of a batch for each prompt; None for another function."""
    annotation = signature(function).return_annotation
    returned = [one for one in (get_args(annotation) or [annotation]) if isinstance(one, type)]
    return next((one for one in returned if issubclass(one, Result)), None)


def takes_a_batch(function: Callable[..., Any]) -> bool:
    """Whether a batch gives a `PerPrompt`."""
    return any(get_origin(one) is PerPrompt for one in get_args(signature(function).return_annotation))


def arguments(function: Callable[..., Any]) -> dict[str, Parameter]:
    """All but the model, by name."""
    return dict(list(signature(function).parameters.items())[1:])


def kind(annotation: Any) -> str:
    """An annotation in words, without None."""
    members = [plain_name(one) for one in get_args(annotation) if one is not type(None)]
    several = type(None) in get_args(annotation) or " | " in str(annotation)
    return "as said" if annotation is Any else " or ".join(members) if several else plain_name(annotation)


def columns(result: type[Result]) -> list[str]:
    """The columns of the table, as far as every result of this type has them."""
    if result.__name__ in OWN_TABLES:
        return OWN_TABLES[result.__name__]
    if result.columns:
        return [re.split(r"\W", column)[0] for column in result.columns]
    arrays = [field.name for field in fields(result) if field.name in result.axes]
    rows = max((result.axes[name] for name in arrays), key=len)
    shown = {*result.labels.values()}
    return [*rows, *(name for name, axes in result.axes.items() if {*axes} <= {*rows} and name not in shown)]


def page() -> str:
    """The page's text."""
    lines = [HEAD, "| analysis | answers | arguments | result | columns of its table | figure |", f"|{'---|' * 6}"]
    lines += [_row(name, function) for name, function in analyses().items()]
    lines += ["", "## Arguments", "", "| name | kind | means | of |", "|---|---|---|---|"]
    return "\n".join([*lines, *_argument_rows(), ""])


def _row(name: str, function: Callable[..., Any]) -> str:
    result = result_of(function)
    assert result is not None
    given = (f"`{n}{'' if one.default is Parameter.empty else '='}`" for n, one in arguments(function).items())
    table = ", ".join(f"`{column}`" for column in columns(result))
    found = f"`{result.__name__}`" + (f", `PerPrompt[{result.__name__}]`" if takes_a_batch(function) else "")
    cells = (f"`av.{name}`", _first_line(function), ", ".join(given), found, table, _figure(result))
    return f"| {' | '.join(cells)} |"


def _argument_rows() -> list[str]:
    found: dict[str, dict[str, Parameter]] = {}
    for analysis, function in analyses().items():
        for name, one in arguments(function).items():
            found.setdefault(name, {})[analysis] = one
    rows = []
    for name in sorted(found):
        usual = next(one for analysis, one in found[name].items() if (analysis, name) not in WIDER)
        wider = [f"; `{analysis}`: {more}" for (analysis, of), more in WIDER.items() if of == name]
        means = MEANINGS[name] + "".join(wider)
        rows.append(
            f"| `{name}` | {kind(usual.annotation)} | {means} | {', '.join(f'`{one}`' for one in found[name])} |"
        )
    return rows


def _first_line(function: Callable[..., Any]) -> str:
    return " ".join((getdoc(function) or "").partition("\n\n")[0].split())


def _figure(result: type[Result]) -> str:
    """What the figure shows: the docstring of its function, less the name of what it draws."""
    module, _, name = str(result.figure).partition(":")
    said = getdoc(getattr(import_module(module), name)) or ""
    said = re.sub(rf"^An? `{result.__name__}`[.:,]?\s*", "", said).partition("\n\n")[0]
    said = " ".join(said.split()).rstrip(".")
    return said[:1].upper() + said[1:]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
