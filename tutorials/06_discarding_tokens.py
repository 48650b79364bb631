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
# # 06 · Discarding tokens: which, from which layer on, and what it saves
#
# **You will learn**
#
# * to let tokens leave in the middle of a model, and what that has to do with a cut;
# * to find the layer from which on they are not needed any more;
# * why a clever choice of tokens can be worse than a blind one;
# * to count what is saved, and to set it against what is lost.
#
# **Takes** 30 minutes. You should know [03](03_attention_blocking.ipynb).
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import matplotlib.pyplot as plt
import numpy as np

import hooked_av as av

model = av.HookedAVTransformer.from_pretrained("tiny-av")

# %% [markdown]
# ## Tokens that leave
#
# Most tokens of an audio-visual prompt are sound and pictures: look at "prompt to scale". In a minute of film they are
# nearly all. Each of them costs arithmetic in every layer. Must they all be there to the end?

# %%
plain = av.tiny.held_out_cases(model, "visual", 12)
inputs = plain[0].inputs
inputs

# %% [markdown]
# `av.drop_tokens(span, layer)` lets the rows of a span leave *before* a layer. Earlier layers run with them; later
# ones do not have them, and are smaller. The rows that stay keep their positions.

# %%
drop = av.drop_tokens("video", 3)
print(drop)
_, cache = model.run_with_cache(inputs, names_filter="blocks.*.hook_resid_post", interventions=drop)
[rows.shape[1] for rows in cache.values()]

# %% [markdown]
# For those who stay it is as if nobody could read the ones who left. So a drop equals a cut; only that a cut saves
# nothing.
#
# ### Exercise 1: the cut that equals this drop
#
# Write it as a route, `"keys->queries@layers"`. (The span `all` is every token.)
#
# <details><summary>Hint</summary>
#
# Who is not read any more, by whom, and in which layers? `@3` is layer 3 alone, `@3-5` are three layers.
# </details>

# %% tags=["exercise"]
cut = ...
av.checks.discarding_tokens.as_cut(cut, model, inputs, drop)

# %% tags=["solution"] jupyter={"source_hidden": true}
cut = f"video->all@3-{model.cfg.n_layers - 1}"
av.checks.discarding_tokens.as_cut(cut, model, inputs, drop)

# %% [markdown]
# ## From which layer on?
#
# `discard_curve` lets a span leave before each layer in turn, and reads the answer. The questions are "Which digit is
# shown first?" and the like.
#
# **Predict, then run.** Three curves: without `video`, without `audio`, without both (`av`). Which of them starts low,
# and where does it rise? What do you remember of tutorial 03: in which layers does `last` read the pictures?

# %%
curve = av.discard_curve(model, plain, ["video", "audio", "av"])
curve

# %% [markdown]
# Look at the upper row first. The sound is not asked for: it can go from the start. The pictures are needed until they
# have been read. After that they are ballast: what the answer needs is in the rows of the text by then.
#
# ### Exercise 2: the first layer without loss
#
# From which layer on can `av`, all of sound and picture, leave, so that no answer changes, there or in any later layer?
#
# <details><summary>Hint</summary>
#
# `curve.agrees` is `[drop, layer, sample]`: 1 where the answer is that of the clean run. `curve.spans` says which drop
# is which.
# </details>

# %% tags=["exercise"]
layer = ...
av.checks.discarding_tokens.first_layer(layer, curve, "av")

# %% tags=["solution"] jupyter={"source_hidden": true}
changed = (curve.agrees[curve.spans.index("av")] < 1).any(axis=1)
layer = int(curve.layers[changed].max()) + 1
av.checks.discarding_tokens.first_layer(layer, curve, "av")

# %% [markdown]
# **The other side of a route.** What can leave first tells which way the answer takes. A question with lettered options
# goes *through the question* (tutorial 03). So what must hold, if all that is asked (`asked`: question, options,
# instruction) leaves?
#
# **Predict, then run.** Two kinds of questions, two spans each. When can the media go, when what was asked?

# %%
lettered = av.tiny.held_out_cases(model, "visual", 12, options=True)
figure, panels = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True, layout="constrained")
for panel, title, cases in ((panels[0], "plain", plain), (panels[1], "lettered", lettered)):
    found = av.discard_curve(model, cases, ["media", "asked"], repeats=1)
    for row, style in ((0, "k-o"), (1, "k--s")):
        panel.plot(found.layers, 100 * found.correct[row].mean(axis=-1), style, mfc="white", label=found.names[row])
    panel.set(title=title, xlabel="tokens leave before layer", ylabel="right answers, %", ylim=(-4, 104))
_ = panels[1].legend(frameon=False)

# %% [markdown]
# Plain questions: what was asked can leave almost at once (`last` has understood it), and the media must wait. Lettered
# ones: the media can leave before the question can; the question carries the digit to the end. Two routes, seen
# without a single cut.
#
# ## Which tokens?
#
# Need a span leave as a whole? Perhaps some of its tokens are enough. Three rules that choose which stay:
#
# * `"random"`: drawn by lot (with a seed);
# * `"uniform"`: evenly spaced over the span;
# * `"attention"`: those that the last token reads most, in the layer just before (FastV, arXiv 2403.06764).
#
# **Predict, then run.** One in four tokens of the pictures stays (`kept_share=0.25`). Which rule is best?

# %%
rules = ["random", "uniform", "attention"]
chosen = av.discard_curve(model, plain, "video", rules=rules, kept_share=0.25)
chosen

# %% [markdown]
# The clever rule is *not* best everywhere. Compare the first layers with those in the middle. Attention of the last
# token tells what matters once it *reads the pictures*. In early layers it is busy with the question, and its few looks
# at the media say nothing about what will be needed (look again at the attention curves of tutorial 03). Then
# "evenly spaced" is the safer bet: something of everything stays.
#
# **Always put a blind rule beside a clever one.**
#
# ### Exercise 3: the rule by hand
#
# `positions` are the tokens of a span, `scores` one number for *each token of the prompt*, `n_kept` how many stay.
# Return the positions of those that **leave**, when those with the highest scores stay.
#
# <details><summary>Hint 1</summary>
#
# `scores[positions]` are the scores of the span. `np.argsort` puts the smallest first, and gives numbers within the
# span.
# </details>
# <details><summary>Hint 2</summary>
#
# Of `order = np.argsort(scores[positions])`, all but the last `n_kept` leave.
# </details>


# %% tags=["exercise"]
def least_read(positions, scores, n_kept):
    return ...


av.checks.discarding_tokens.least_read(least_read)


# %% tags=["solution"] jupyter={"source_hidden": true}
def least_read(positions, scores, n_kept):
    order = np.argsort(scores[positions])
    return positions[order[: len(positions) - n_kept]]


av.checks.discarding_tokens.least_read(least_read)

# %% [markdown]
# A rule of your own becomes a span, and the span a drop. Here it is with what the last token reads just before layer 5.
# All of sound and picture leaves, but for eight tokens:

# %%
name = "blocks.4.attn.hook_pattern@last"
_, cache = model.run_with_cache(inputs, names_filter=name)
scores = cache[name][0, :, 0].mean(dim=0).detach().numpy()
gone = least_read(inputs.spans["av"].positions, scores, 8)
fewer = inputs.with_span("gone", gone)
logits = model(fewer, interventions=av.drop_tokens("gone", 5), logits_at="last")
print(f"{len(gone)} of {inputs.n_pos} tokens left; it says:", model.to_string(logits[0, -1].argmax().item()))

# %% [markdown]
# ## What it saves
#
# In each layer every row costs the same in projections and MLP, and each pair of rows costs something in attention:
# for S rows `2 S D D + 2 S D D_kv + 2 S S D + 3 S D I` multiplications (D: width of the model, D_kv: of keys and
# values, I: of the MLP). The lower panels of the curves above show what is *counted* in real passes, and as a dotted
# line what this formula says.
#
# ### Exercise 4: a rule of thumb
#
# A `share` of the tokens leaves before `layer` (from 0) of `n_layers`. Leave the small S S term out: which share of the
# arithmetic is saved? The checker compares with the full formula, for this model.
#
# <details><summary>Hint</summary>
#
# How many layers run without them? Layer `layer` is the first.
# </details>


# %% tags=["exercise"]
def saved(share, layer, n_layers):
    return ...


av.checks.discarding_tokens.saved(saved, model, plain)


# %% tags=["solution"] jupyter={"source_hidden": true}
def saved(share, layer, n_layers):
    return share * (n_layers - layer) / n_layers


av.checks.discarding_tokens.saved(saved, model, plain)

# %% [markdown]
# So an early layer saves most, and a late one costs no answer: it is a bargain, and here is the whole market. Each
# point is a rule and a layer (the number beside it); right and up is good.
#
# **Predict, then run.** Whose points are in the upper right corner: those of a late layer, or those of few tokens?

# %%
figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
marks = zip([curve, chosen, chosen, chosen], [2, 0, 1, 2], ["k-o", "k:x", "k--s", "k-.^"], strict=True)
for found, row, style in marks:
    right, share = 100 * found.correct[row].mean(axis=-1), found.saved_percent["macs"][row]
    axes.plot(share, right, style, mfc="white", label=found.names[row])
    for layer, x, y in zip(found.layers, share, right, strict=True):
        axes.annotate(str(layer), (x, y), (3, 4), textcoords="offset points", fontsize=8)
axes.set(xlabel="FLOPs saved, %", ylabel="right answers, %", ylim=(-4, 110))
_ = axes.legend(frameon=False)

# %% [markdown]
# The pictures of this clip are few tokens: to drop a part of them saves little, whatever the rule. Sound and picture
# together, as soon as they have been read, save most without a loss. In a model of 28 layers that has read the media
# after layer 14, that is half of their cost.
#
# **What this does not show.**
#
# * *Time.* The panel of the prefill time is noisy here, and on so small a model it is mostly overhead. On a GPU, with a
#   long film, measure it there: the arithmetic of attention grows with the square of the tokens.
# * *Memory.* With `kv="keep"` the keys and values of earlier layers stay for the tokens to come; `kv="drop"` takes
#   them away, too, and may change what is generated.
# * *The encoders* run before all this, and on all frames. What they cost is not saved.
# * *Other questions.* "From this layer on" is said of these. A question that nobody asked may need what you threw away,
#   and a longer answer may look at the pictures again. Twelve samples are few: the whiskers in the figures are 95 %
#   intervals.
#
# ## What to try on a real model
#
# ```python
# curve = av.discard_curve(model, cases, ["audio", "video", "av"], layers=range(0, 28, 4), n_measured=4)
# curve = av.discard_curve(model, cases, "video", rules=["uniform", "attention"], kept_share=0.1, layers=[2, 8, 14])
# answer = model.generate(inputs, interventions=av.drop_tokens("av", 14, kv="drop"))
# ```
#
# * `cases`: `av.Case(inputs, answer="...")`, thirty at least; without an answer you get agreement with the clean run.
# * Does `"attention"` beat `"uniform"` in layer 2, where FastV uses it? For sound as well as for pictures?
# * Set the first layer without loss beside the flow map of tutorial 03: does the one follow from the other?
#
# **Next**: [07 · Attribution](07_attribution.ipynb)
