# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · Attention blocking: which way does the answer take?
#
# **You will learn**
#
# * to knock attention out by hand, and to say the same in one line;
# * to run hundreds of cuts for the price of a few passes;
# * to draw a map of information flow beside random cuts, and to read a route from it;
# * what a knockout does *not* show.
#
# **Takes** 35 minutes. You should know [00](00_quickstart.ipynb); [01](01_hooks_and_spans.ipynb) helps with the hook.
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
from time import perf_counter

import matplotlib.pyplot as plt
import pandas as pd
import torch

import hooked_av as av

model = av.HookedAVTransformer.from_pretrained("tiny-av")

# %% [markdown]
# ## Looking is not needing
#
# Two kinds of questions about clips of digits. **Plain** ones: "Which digit is shown first?", answered by a word.
# **Lettered** ones list options behind the question ("A. nine", "B. three", ...), answered by a letter.
#
# `av.tiny.held_out_cases` makes prompts of clips that tiny-av has never met, each with its right answer.

# %%
plain = av.tiny.held_out_cases(model, "visual", 8)
lettered = av.tiny.held_out_cases(model, "visual", 8, options=True)
print(plain[0], lettered[0], sep="\n")
lettered[0].inputs

# %% [markdown]
# These prompts are cut into four parts, from left to right:
#
# | span | what it is |
# |---|---|
# | `prompt_begin` | the template before the clip |
# | `media` | sound and pictures |
# | `asked` | the question, with options and instruction where there are any |
# | `prompt_end`, `last` | the template behind the question; its last token is where the answer begins |
#
# A transformer moves information between tokens by attention only. So the digit must get from `media` to `last` by
# being *read*. There are two ways: **through the question** (the question reads the media, `last` reads the
# question), or **past it** (`last` reads the media itself).
#
# First look: how much attention does each part get? Look at the black curve (media), in the left panel and in the
# right one.

# %%
parts = ["media", "asked", "prompt_begin"]
av.attention_mass(model, plain, keys=parts, queries=["asked", "last"])

# %%
av.attention_mass(model, lettered, keys=parts, queries=["asked", "last"])

# %% [markdown]
# In both kinds the question looks at the media, and `last` looks at the media too, with a good part of its attention
# in some middle layer. By this picture both ways could be in use, in both kinds.
#
# But to look is not to need. What is read may be thrown away; and attention must go *somewhere*, since the weights of
# each row add up to 1. To know what the answer needs, we take a way away, and see what the answer becomes.
#
# **Write down a guess** now: which way do plain questions take, and which way lettered ones?
#
# ## A knockout by hand
#
# Each attention head makes a **score** for every pair of a query (who reads) and a key (what is read). A softmax over
# the keys turns the scores into weights. A score of minus infinity becomes a weight of exactly 0, and the other
# weights grow so that they add up to 1 again. That is all that a *knockout* is (Geva et al., 2023).
#
# ### Exercise 1: cut these keys from these queries
#
# `scores` is `[batch, head, query, key]`; `queries` and `keys` are tensors of positions. Return the scores with every
# query of `queries` cut from every key of `keys`, in all heads.
#
# <details><summary>Hint 1</summary>
#
# The value to write is `-torch.inf`. Clone the scores first: what came in should stay as it was.
# </details>
# <details><summary>Hint 2</summary>
#
# `x[queries, keys]` takes pairs, one by one. `x[queries[:, None], keys]` takes every query with every key.
# </details>


# %% tags=["exercise"]
def knock_out(scores, queries, keys):
    return ...


av.checks.attention_blocking.knock_out(knock_out)


# %% tags=["solution"] jupyter={"source_hidden": true}
def knock_out(scores, queries, keys):
    scores = scores.clone()
    scores[:, :, queries[:, None], keys] = -torch.inf
    return scores


av.checks.attention_blocking.knock_out(knock_out)

# %% [markdown]
# Now as a hook, in every layer. The tokens *behind the question* are `prompt_end` and `last` together: if only `last`
# were cut, the template before it could read the media and hand them on.

# %%
behind = "prompt_end|last"


def hook_of(inputs, keys, queries):
    places = [torch.tensor(inputs.spans.resolve(span).positions) for span in (queries, keys)]
    return "blocks.*.attn.hook_attn_scores", lambda scores, hook: knock_out(scores, *places)


# %% [markdown]
# **Predict, then run.** Two questions, two cuts: four answers. Which of them change?

# %%
for case in (plain[0], lettered[0]):
    print(f"the right answer: {case.answer}")
    for keys, queries in (("media", "asked"), ("media", behind)):
        hook = hook_of(case.inputs, keys, queries)
        logits = model.run_with_hooks(case.inputs, fwd_hooks=[hook], logits_at="last")
        print(f"    {keys} -> {queries:15} cut: {model.to_string(logits[0, -1].argmax().item())}")

# %% [markdown]
# One cut breaks each answer, and it is not the same one. Before we believe it, look at what the knockout did. These
# are the weights of one layer, mean over heads, of every token from the question on (rows) to every token (columns);
# dark is much. Compare the lowest rows, those behind the question: after the cut they read nothing between the dotted
# lines, where the media are, and read more of other tokens instead. The rows above are as they were.

# %%
inputs = plain[0].inputs
name = f"blocks.4.attn.hook_pattern@asked|{behind}"
_, before = model.run_with_cache(inputs, names_filter=name)
with model.hooks(fwd_hooks=[hook_of(inputs, "media", behind)]):
    _, after = model.run_with_cache(inputs, names_filter=name)
_, panels = plt.subplots(2, 1, figsize=(8, 4), sharex=True, layout="constrained")
for panel, title, cache in ((panels[0], "before the cut", before), (panels[1], "after it", after)):
    panel.imshow(cache[name][0].mean(0).detach(), cmap="Greys", vmax=0.3, aspect="auto")
    panel.vlines([inputs.spans.media[0] - 0.5, inputs.spans.media[-1] + 0.5], -0.5, 11.5, ls=":")
    panel.set(title=title, ylabel="who reads", xlabel="what is read (position)")

# %% [markdown]
# ## The same in one line
#
# The library has this cut as a value, a **spec**: `keys` are read, `queries` read. It is checked before anything runs
# (a span that is not there, a layer that the model has not, queries that come before their keys), it prints, compares
# and can be saved; and it is computed without a matrix of scores. The logits are the same, up to rounding:

# %%
spec = av.block_attention(keys="media", queries=behind)
print(spec, "|", spec == av.block_attention("media->prompt_end|last"))
by_hand = model.run_with_hooks(inputs, fwd_hooks=[hook_of(inputs, "media", behind)], logits_at="last")
(by_hand - model(inputs, interventions=spec, logits_at="last")).abs().max().item()

# %% [markdown]
# Wherever a spec is taken, the text is taken too. `route_sweep` draws one bar a cut.
#
# **Predict, then run.** A lettered question: the second half of its way is `asked -> prompt_end|last`. If it is cut in
# every layer, its answer must break. What of a *plain* question, which goes past the question?

# %%
cuts = ["media->asked", f"media->{behind}"]
cuts += [f"asked->{behind}{layers}" for layers in ("", "@0-2", "@3-7")]
av.route_sweep(model, lettered[0].inputs, cuts)

# %%
av.route_sweep(model, plain[0].inputs, cuts)

# %% [markdown]
# Both break! Of course: somebody must tell `last` **what is asked**. The words of the question are read early, in both
# kinds. Only the *digit* goes different ways. A cut takes away everything that goes along an edge, and does not say
# what it was; layers help to tell one cargo from the other.
#
# ### Exercise 2: the second half of the way
#
# Find a cut, with layers, that breaks lettered answers and leaves plain ones alone: the question may still say what is
# asked, but not hand on what it has seen. (One prompt may stand firm where others fall: the checker takes all.)
#
# <details><summary>Hint 1</summary>
#
# What is read is the question: `asked->prompt_end|last@...`. When is the question understood, and when is the digit
# there to be handed on?
# </details>
# <details><summary>Hint 2</summary>
#
# The digit can only be handed on after the question has read it: in late layers.
# </details>

# %% tags=["exercise"]
cut = ...
av.checks.attention_blocking.second_half(cut, model, lettered, plain)

# %% tags=["solution"] jupyter={"source_hidden": true}
cut = f"asked->{behind}@4-7"
av.checks.attention_blocking.second_half(cut, model, lettered, plain)

# %% [markdown]
# ## Many cuts: the replay engine
#
# *In which layer* is the digit read? For two ways and every layer that is 16 cuts a prompt; with random cuts beside
# them 50, and 400 for eight prompts. Each could be a pass of its own. But a cut in layer 5 changes nothing below layer
# 5, and nothing in tokens before the ones that are cut. `model.baseline(inputs)` runs once and keeps what later
# cuts can use again; `.run(...)` computes for each cut only what it can change. It is no estimate: the largest
# difference to full passes is rounding.

# %%
ways = ["media->asked", f"media->{behind}"]
cuts = [f"{way}@{layer}" for way in ways for layer in range(model.cfg.n_layers)]
start = perf_counter()
full = [model(inputs, interventions=cut, logits_at="last")[0, -1] for cut in cuts]
middle = perf_counter()
replayed = model.baseline(inputs).run(cuts).logits
print(f"passes: {middle - start:.2f} s, replay: {perf_counter() - middle:.2f} s")
(torch.stack(full) - replayed).abs().max().item()

# %% [markdown]
# All analyses of this library that cut or patch run on it. `knockout_curves` draws such a sweep of one prompt: the
# probability of its answer while one layer is cut.

# %%
av.knockout_curves(model, lettered[0].inputs, ways, window=1)

# %% [markdown]
# One prompt is an anecdote. And if a curve falls: would *any* cut of that size have done that?
#
# ## The map, beside random cuts
#
# `information_flow` takes many prompts. Beside each cut stand **random cuts**: as many pairs of a query and a key, in
# the same layers, drawn from all pairs that there are (`controls=2`: two draws of each, from a fixed seed). They are
# the grey dashed line, with a hatched band. A way is *needed* where its curve leaves that band.
#
# `window=3` cuts three layers at once, around each layer in turn; we will see soon why.
#
# **Predict, then run.** In each map: which of the two panels falls, and where?

# %%
map_of_plain = av.information_flow(model, plain, pathways=ways, window=3, controls=2)
map_of_plain

# %%
map_of_lettered = av.information_flow(model, lettered, pathways=ways, window=3, controls=2)
map_of_lettered

# %% [markdown]
# Look at the left panel of the second map, in the first layers: random cuts hurt there, and the cut of the way itself
# does not. A random cut hits some edges that everything hangs on (`last` reading the question, for example). Without
# the band, a fall of that size would look like a finding about any pathway.
#
# Lettered answers do not fall to nothing. Who has two to four letters to choose from is right by chance quite often:
# know the floor before you read the depth of a fall.
#
# ### Exercise 3: two maps, two routes
#
# Give `{"plain": way, "lettered": way}`, where a way is `"through"` or `"past"` (the question). The checker cuts each
# way in *all* layers and looks.
#
# <details><summary>Hint</summary>
#
# The panel "media → asked" is the first half of the way through the question. If it could be cut everywhere, and
# nothing happened, is this way needed?
# </details>

# %% tags=["exercise"]
answer = ...
av.checks.attention_blocking.routes(answer, model, plain, lettered)

# %% tags=["solution"] jupyter={"source_hidden": true}
answer = {"plain": "past", "lettered": "through"}
av.checks.attention_blocking.routes(answer, model, plain, lettered)

# %% [markdown]
# Was your guess right? A model that was trained on both kinds has learned two routes, one for each. The picture of
# attention did not settle that; the cuts do.
#
# ## What a knockout does not show
#
# **1. One layer may stand in for another.** Here is the map of plain questions again, each layer cut alone.
#
# **Predict, then run.** How deep will the right panel fall now?

# %%
one_by_one = av.information_flow(model, plain, pathways=ways, window=1, controls=2)
one_by_one

# %% [markdown]
# Less deep by far, and most answers stay what they were: if `last` cannot read the picture in one layer, it does so
# in the next. Somebody who had only this map would say that the way is hardly needed. **No change means "not needed,
# as long as all the rest is there". It does not mean "not used".**
#
# ### Exercise 4: layers that stand in for each other
#
# Name two or three layers: cut alone, each leaves most plain answers as they are; cut together they change many.
#
# <details><summary>Hint</summary>
#
# In the map with `window=3`, the deepest point is the middle of the three layers that were cut.
# `map_of_plain.windows` has the first and last layer of each window, `map_of_plain.flips` the share of changed answers.
# </details>

# %% tags=["exercise"]
layers = ...
av.checks.attention_blocking.standing_in(layers, model, plain)

# %% tags=["solution"] jupyter={"source_hidden": true}
first, last = map_of_plain.windows[map_of_plain.flips[1].argmax()]
layers = range(first, last + 1)
av.checks.attention_blocking.standing_in(layers, model, plain)

# %% [markdown]
# Why not cut all layers at once, then? `window="all"` says most surely *whether* a way is needed, and nothing about
# *where*. And so large a cut does damage of its own: look at the random cuts.

# %%
for kind, cases in (("plain", plain), ("lettered", lettered)):
    flow = av.information_flow(model, cases, pathways=ways, window="all", controls=4)
    print(kind)
    print(flow.summary()[["pathway", "change", "control_change"]].round(0).to_string(index=False))

# %% [markdown]
# **2. A probability near 1 hides much.** From 0.9999 to 0.99 nothing seems to happen. The difference of two logits
# (answer against another one) shows it. The same runs, read anew; nothing is computed:

# %%
one_by_one.with_metric("logit_difference")

# %% [markdown]
# **3. What holds for layers holds for ways.** Where two ways are *each* enough, no cut of one of them shows anything:
# the other stands in. And a way that is needed may not be enough by itself. To ask whether a way is enough, cut
# everything else (`av.keep_only`, `av.effective_pathway`; against random edges of the same share, again).
#
# **4. A cut says that something was carried, not what.** The question's words and the digit may use the same edge
# (exercise 2). Patching with another clip tells what: tutorial [02](02_activation_patching.ipynb).
#
# ## A model whose ways are known
#
# Is point 3 only a thought? Here is a model of which we *know* that it has both ways. `tiny-av-redundant` is tiny-av,
# trained on while everything behind the question was cut from the media, in every layer of every step. So it had to
# learn the way through the question for plain questions too. The old way was not taken from it.
#
# **Predict, then run.** How many of 16 plain questions does each model answer when `media->asked` is cut in all
# layers, when `media->prompt_end|last` is cut, and when both are?

# %%
redundant = av.HookedAVTransformer.from_pretrained("tiny-av-redundant")
through, past = "media->asked", "media->prompt_end|last"
cuts = {"nothing": (), "through": through, "past": past, "both": [through, past]}
many = av.tiny.held_out_cases(model, "visual", 16)


def right(one, cut):
    prompts = one.batch([case.inputs for case in many])
    said = one.generate(prompts, interventions=cut).texts
    return sum(text == case.answer for text, case in zip(said, many, strict=True))


# %%
table = {one.cfg.model_name: [right(one, cut) for cut in cuts.values()] for one in (model, redundant)}
pd.DataFrame(table, index=list(cuts)).rename_axis("cut")

# %%
pd.DataFrame(table, index=list(cuts)).plot.bar(color=["black", "silver"], edgecolor="black", figsize=(6, 2.6), rot=0)
plt.ylabel("right, of 16")
plt.legend(loc="upper right")
plt.show()

# %% [markdown]
# Each single cut of the redundant model shows nothing, though *both* ways carry the answer. Somebody who cuts one
# way at a time would report: "neither is needed". Only the cut of both says that there is no third way, and only what
# stays with the *other* way cut says that a way is enough.
#
# So ask of every way two questions: what is lost when it is cut, and what is kept when it is all that is left?
# [Known routes](../docs/routes.md) asks thirteen methods both, of models like this one.
#
# ## What to try on a real model
#
# ```python
# model = av.HookedAVTransformer.from_pretrained("Qwen/Qwen2.5-Omni-3B", device="cuda", dtype=torch.bfloat16)
# inputs = model.prepare(av.Clip.from_file("film.mp4"), question="What is the person saying?")
# ways = ["audio->question", "audio->last", "video->question", "video->last", "question->last"]
# av.information_flow(model, inputs, pathways=ways, metric="logit_difference", controls=3)
# ```
#
# * A deep model has more layers that stand in for each other. The default window is 9, from 28 layers on; try 5 and
#   15.
# * The answer's first token should carry the answer: ask for one word, or give options.
# * Ask 30 questions at least, and leave out those that the model answers wrongly (`av.Case(inputs, answer=...)`).
# * For such models it was published that answers go through the question. Does yours say so, beside random cuts?
#
# **Next**: [04 · Lenses](04_lenses.ipynb)
