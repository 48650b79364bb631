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
# # 01 · Hooks and spans: one token of sound, followed by hand
#
# **You will learn**
#
# * where one can look into the model: hook points, their names and shapes;
# * to say *which tokens*: `name@span`, in caches and in hooks;
# * to follow one token of sound through all layers, with nothing but additions;
# * to write a hook that changes the run, and to say what its result does not show;
# * what a gradient promises, and where it breaks its promise.
#
# **Takes** 30 minutes. You should know what a transformer layer does (attention, then an MLP), and have run
# [00 · Quickstart](00_quickstart.ipynb).
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

import hooked_av as av

model = av.HookedAVTransformer.from_pretrained("tiny-av")
sample = av.sample_clips()["four-is-spoken-twice"]
inputs = model.prepare(sample.clip, question="Which digit is spoken second?")
print("it says:", model.generate(inputs).texts[0])

# %% [markdown]
# ## Every number has a name
#
# The model is a row of layers. Each token has a list of numbers, its **residual stream**. A layer reads it twice and
# adds to it twice:
#
# ```
#  hook_resid_pre ──┬───────────── + ── hook_resid_mid ──┬────────── + ── hook_resid_post
#                   └─ attention ──┘                     └─── MLP ───┘
#                      hook_attn_out                          hook_mlp_out
# ```
#
# Each of these places is a **hook point**: there you can read the numbers, or replace them. The names are those of
# TransformerLens: `blocks.3.hook_resid_post` is what leaves layer 3. `run_with_cache` runs the model once and keeps
# what passes by.

# %%
logits, cache = model.run_with_cache(inputs)
cache

# %% [markdown]
# **Predict, then run.** The prompt has 145 tokens, 100 of them sound. The model has `d_model` = 128 numbers a token,
# and 4 heads of 32. Write down the shapes of these five before you look.

# %%
for name in ("hook_audio_embed", "hook_inputs_embed", "blocks.3.hook_resid_post"):
    print(f"{name:26}", list(cache[name].shape))
for name in ("blocks.3.attn.hook_q", "blocks.3.attn.hook_k"):
    print(f"{name:26}", list(cache[name].shape))

# %% [markdown]
# Three things may have surprised you.
#
# * `hook_audio_embed` has no batch axis: it is what the sound encoder writes, one row for each token of sound.
# * `hook_inputs_embed` has all tokens: the rows of the encoders stand where the prompt has room for media.
# * Keys have two heads, queries four. Two query heads share one key head; real models of this family do the same.
#
# Attention matrices are not in the list of a cache, because they are large (a square of the prompt's length, for each
# head). They are there as soon as you name them. All names and their axes stand in `docs/hooks.md`.
#
# How long is the residual stream of each token? The strip below has a slider for the layer.

# %%
lengths = torch.stack([cache["resid_post", layer][0].norm(dim=-1) for layer in range(model.cfg.n_layers)])
av.plots.token_strip(inputs, heat=lengths, heat_label="length of the residual stream", layer=0)

# %% [markdown]
# Look at two things. Tokens get longer from layer to layer: every layer adds. And length is not importance: some of the
# longest tokens are plain words of the template. Before each layer reads a token, a norm takes the length away. We will
# need that at the end of this tutorial.

# %% [markdown]
# ## Which tokens? A span is an index
#
# The clip has four seconds; in each of them one digit is spoken. "Spoken second" is the sound between second 1 and
# second 2. Spans can be intersected (`&`), joined (`|`) and subtracted (`-`); `with_span` gives your own one a name.

# %%
spans = inputs.spans
inputs = inputs.with_span("word", spans.between(1, 2) & spans["audio"])
inputs = inputs.with_span("next_word", spans.between(2, 3) & spans["audio"])
print(inputs.spans["word"])
print(inputs.spans["next_word"])

# %% [markdown]
# From here on `word` is a name like `audio` or `last`. Behind an `@`, a name takes only the rows of a span. A cache of
# such names is small, and no counting of positions can go wrong.

# %%
_, cache = model.run_with_cache(inputs)
print(list(cache["blocks.3.hook_resid_post@word"].shape), "by name")
print(list(cache["resid_post", 3, "word"].shape), "the same, shorter")
print(list(cache["resid_post", 3][:, inputs.spans["word"]].shape), "the same, as an index")
_, small = model.run_with_cache(inputs, names_filter="blocks.*.hook_resid_post@word")
small

# %% [markdown]
# `*` stands for anything, as in file names. Attention has two kinds of rows: those that read (queries) and those that
# are read (keys). So its spans are written `@queries<-keys`, "the question reads the video" is
# `blocks.3.attn.hook_pattern@question<-video`.
#
# ### Exercise 1: who reads the word?
#
# Write the name of what the **last position** reads of the **word**, in **every layer**, as shares of attention.
#
# <details><summary>Hint</summary>
#
# Three parts: a pattern for all layers, `blocks.*.attn.hook_pattern`; an `@`; and `queries<-keys`.
# </details>

# %% tags=["exercise"]
reads = ...
av.checks.hooks.name_of_reads(reads, model, inputs)

# %% tags=["solution"] jupyter={"source_hidden": true}
reads = "blocks.*.attn.hook_pattern@last<-word"
av.checks.hooks.name_of_reads(reads, model, inputs)

# %% [markdown]
# The cache gives, for each layer, [batch, head, query, key]. We add up the shares of the 25 tokens of the word.

# %%
_, attention = model.run_with_cache(inputs, names_filter=reads)
shares = torch.stack([matrix[0, :, 0].sum(dim=-1) for matrix in attention.values()])
plt.figure(figsize=(6, 2.4))
plt.imshow(shares.T, cmap="Greys", vmin=0, vmax=1, aspect="auto")
plt.colorbar(label="share of the word")
plt.yticks(range(model.cfg.n_heads))
plt.xlabel("layer")
plt.ylabel("head")
plt.show()

# %% [markdown]
# Early layers are white: the last position does not look at the word at all. Then, from the middle on, some heads look
# at nothing else. That is a hint, no more: a head that looks need not carry anything to the answer.

# %% [markdown]
# ## One token of sound, by hand
#
# Now we follow one token: one in the middle of the word. Where does it come from? The encoder wrote its row, and the
# row was put in the place of a placeholder. Both can be seen.

# %%
token = inputs.spans["word"][12]
row = list(inputs.spans["audio"]).index(token)
print("position", token, "is row", row, "of the encoder")
print("the same numbers:", torch.equal(cache["hook_audio_embed"][row], cache["hook_inputs_embed"][0, token]))
print("the placeholder's:", torch.equal(cache["hook_embed"][0, token], cache["hook_inputs_embed"][0, token]))

# %% [markdown]
# `hook_embed` is the embedding of the token's *number*. For a word that is all. For media it is a placeholder, which is
# thrown away.
#
# From there on the way is a sum. No layer rewrites the stream, each one adds to it.
#
# ### Exercise 2: the residual stream from its parts
#
# Write a function that gives the residual stream **after** a layer, from the start and from what was added:
# `hook_inputs_embed`, and `hook_attn_out` and `hook_mlp_out` of the layers. Do not use `hook_resid_...`.
#
# <details><summary>Hint 1</summary>
#
# `cache[f"blocks.{i}.hook_attn_out@{span}"]` is what attention of layer `i` added at a span.
# </details>
# <details><summary>Hint 2</summary>
#
# After layer 2, the layers 0, 1 *and* 2 have added.
# </details>


# %% tags=["exercise"]
def rebuilt(cache, layer, span):
    return ...


av.checks.hooks.residual_by_hand(rebuilt, cache, inputs)


# %% tags=["solution"] jupyter={"source_hidden": true}
def rebuilt(cache, layer, span):
    stream = cache[f"hook_inputs_embed@{span}"]
    for i in range(layer + 1):
        stream = stream + cache[f"blocks.{i}.hook_attn_out@{span}"]
        stream = stream + cache[f"blocks.{i}.hook_mlp_out@{span}"]
    return stream


av.checks.hooks.residual_by_hand(rebuilt, cache, inputs)

# %% [markdown]
# What does the stream *mean*? We can compare it with something that we know: the embeddings of the ten digit words, as
# they stand in a question. The cosine is 1 for the same direction and 0 for none in common.

# %%
digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
words = model.W_E[[model.to_single_token(f" {digit}") for digit in digits]].detach()
after = [cache["resid_post", layer] for layer in range(model.cfg.n_layers)]
rows = torch.stack([stream[0, token] for stream in (cache["hook_inputs_embed"], *after)])
cosines = torch.cosine_similarity(rows[:, None], words[None], dim=-1)
steps = ["encoder", *map(str, range(model.cfg.n_layers))]
pd.DataFrame(cosines, steps, digits).round(2)

# %%
plt.figure(figsize=(7, 3))
heard = digits.index(sample.answer)
plt.plot(steps, cosines, color="darkgrey", lw=1)
plt.plot(steps, cosines[:, heard], color="black", lw=2.5, label=f"“{sample.answer}”, spoken here")
plt.legend()
plt.axhline(0, color="black", lw=0.5)
plt.xlabel("after layer")
plt.ylabel("cosine with the word")
plt.show()

# %% [markdown]
# The black line is the digit that is spoken there; the nine grey ones are the others. Within the first layers the row
# turns towards the right word, and the later ones hold on to it: a token of sound says its digit *in the words of the
# question's language*. That is how this model was trained (its [card](../hooked_av/tiny/MODEL_CARD.md) tells); do not
# expect it elsewhere.
#
# What this does not show: that anything *uses* that direction. To read is not to act. For that we must change
# something.

# %% [markdown]
# ## Write a hook
#
# A hook is a function of the rows and of the point. What it returns goes on in their place. With `@word` it gets the
# rows of the word, and the rest of the run stays as it is.


# %%
def silence(rows, hook):
    return torch.zeros_like(rows)


def answer(name, function):
    logits = model.run_with_hooks(inputs, fwd_hooks=[(name, function)], logits_at="last")
    return model.to_string(logits[0, -1].argmax())


print(answer("blocks.0.hook_resid_pre@word", silence))


# %% [markdown]
# The word is gone before the first layer, and so is the answer. **Predict, then run.**
#
# * If the word is silenced before a *later* layer, from which layer on does that do no harm? (Look at the picture of
#   exercise 1.)
# * `average` puts the mean of the word's 25 rows in place of each of them. Does the model still know the digit?


# %%
def average(rows, hook):
    return rows.mean(dim=1, keepdim=True).expand_as(rows)


def probability(name, function, text):
    logits = model.run_with_hooks(inputs, fwd_hooks=[(name, function)], logits_at="last")
    return logits[0, -1].softmax(dim=-1)[model.to_single_token(text)].item()


# %%
before = [f"blocks.{layer}.hook_resid_pre@word" for layer in range(model.cfg.n_layers)]
plt.figure(figsize=(7, 2.6))
plt.plot([probability(name, silence, "six") for name in before], "k-o", label="zeros")
plt.plot([probability(name, average, "six") for name in before], "k:s", mfc="white", label="their mean")
plt.xlabel("the word's rows are replaced before layer")
plt.ylabel("probability of “six”")
plt.legend(title="by")
plt.show()

# %% [markdown]
# The zeros tell *when* the word has been read: once the last position has it, the word's own rows are not needed any
# more.
#
# The mean tells what was *in* the rows. It takes away everything in which the 25 tokens differ, and keeps what they
# have in common. If the answer survives, the digit is written into all of them.
#
# What neither shows: that the word's rows are the only ones that know the digit. Others may have copied it before.
#
# ### Exercise 3: what if the two words change places?
#
# The hook will get the rows of `word|next_word`: 25 rows of the word, then 25 of the next one. Write a hook that puts
# each word where the other one was. It must work for any even number of rows.
#
# <details><summary>Hint 1</summary>
#
# Rows are [batch, pos, d_model]. `rows.chunk(2, dim=1)` gives two halves, `torch.cat([...], dim=1)` joins them.
# </details>
# <details><summary>Hint 2</summary>
#
# If you write into `rows`, the first half is gone before you can copy it.
# </details>


# %% tags=["exercise"]
def swap(rows, hook):
    return ...


av.checks.hooks.swapping_hook(swap)


# %% tags=["solution"] jupyter={"source_hidden": true}
def swap(rows, hook):
    first, second = rows.chunk(2, dim=1)
    return torch.cat([second, first], dim=1)


av.checks.hooks.swapping_hook(swap)

# %% [markdown]
# **Predict, then run.** "six" is spoken second, "four" third. The words change places before some layer.
# The question is still "Which digit is spoken second?". What does the model say, early and late? There are *two*
# reasons why a late swap could do nothing. Write both down.

# %%
both = [f"blocks.{layer}.hook_resid_pre@word|next_word" for layer in range(model.cfg.n_layers)]
plt.figure(figsize=(7, 2.6))
plt.plot([probability(name, swap, "six") for name in both], "k-o", label="six")
plt.plot([probability(name, swap, "four") for name in both], "k:s", mfc="white", label="four")
plt.xlabel("the two words change places before layer")
plt.ylabel("probability")
plt.legend(title="spoken second: six, third: four")
plt.show()

# %% [markdown]
# Compare with the zeros above. There is at least one layer where the word still *must* be there (zeros do harm), and
# yet it may stand in the *wrong place* (the swap does none). So it is not only that the word has been read already.
#
# By then the token carries its own place: "I am the second one" was written into its residual stream by the early
# layers, and travels with it. The last position then looks for what is written there, and not for where
# the token stands.
#
# That is a claim about *this* prompt. One clip is an anecdote; tutorial 08 shows how to ask a hundred.

# %% [markdown]
# ## Gradients
#
# A hook tries one change. A gradient promises the effect of all small ones at once: how much would the answer move, if
# this number were a little larger? `get_caching_hooks(incl_bwd=True)` keeps activations and their gradients. We measure
# the answer as a difference of two logits, that of "six" minus that of "four".


# %%
def difference(logits):
    return logits[0, -1, model.to_single_token("six")] - logits[0, -1, model.to_single_token("four")]


kept, forward, backward = model.get_caching_hooks("blocks.*.hook_resid_pre", incl_bwd=True)
with model.hooks(fwd_hooks=forward, bwd_hooks=backward):
    difference(model(inputs, logits_at="last")).backward()
[name for name in kept if name.startswith("blocks.3")]

# %% [markdown]
# **Predict, then run.** Where is the answer most easily moved: in which tokens, and until which layer? The heat is the
# length of the gradient times the length of the activation, so tokens of different length can be compared.

# %%
names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
streams = torch.stack([kept[name][0] for name in names])
gradients = torch.stack([kept[f"{name}_grad"][0] for name in names])
moves = streams.norm(dim=-1) * gradients.norm(dim=-1)
moves[:, inputs.spans["last"]] = float("nan")  # the largest by far, and no surprise
av.plots.token_strip(inputs, heat=moves, heat_label="gradient x activation, lengths", layer=3)

# %% [markdown]
# Move the slider. Late in the model nearly all media are pale: whatever happens to them comes too late. Before that,
# the sound of the second in question is dark. The last position itself is left out: in the end all goes through it.
#
# Pictures are dark, too, and the question is not about pictures. A gradient says where the answer *could* be moved. It
# does not say what the answer was made of.
#
# ### Exercise 4: what does the gradient promise?
#
# New rows are put in place of old ones. To first order, the answer then changes by the gradient times the step, summed
# over all rows and all their numbers. Write it down.
#
# <details><summary>Hint</summary>
#
# The step is what you add to `old` to get `new`.
# </details>


# %% tags=["exercise"]
def promised(gradient, old, new):
    return ...


av.checks.hooks.first_order(promised)


# %% tags=["solution"] jupyter={"source_hidden": true}
def promised(gradient, old, new):
    return (gradient * (new - old)).sum()


av.checks.hooks.first_order(promised)

# %% [markdown]
# **Predict, then run.** Two steps at the word, before layer 2: towards **zero**, and towards the rows of the **next
# word**. We go 0 %, 10 %, ... 100 % of each way. The straight lines are promises. Which of the two will be kept longer?
# Remember what the norm does to length.

# %%
at, share = "blocks.2.hook_resid_pre", torch.linspace(0, 1, 11)
old, gradient = cache[f"{at}@word"], kept[f"{at}_grad"][:, inputs.spans["word"]]
goals = {"zero": torch.zeros_like(old), "the next word": cache[f"{at}@next_word"]}


def moved(new):
    hook = (f"{at}@word", lambda rows, hook: new)
    with torch.no_grad():
        return float(difference(model.run_with_hooks(inputs, fwd_hooks=[hook], logits_at="last")))


# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharey=True, layout="constrained")
for ax, (goal, new) in zip(axes, goals.items(), strict=True):
    steps = [old + s * (new - old) for s in share]
    ax.plot(share, [moved(step) for step in steps], "k-o", label="what happens")
    ax.plot(share, [moved(old) + promised(gradient, old, step) for step in steps], "k:", label="promised")
    ax.set(title=f"towards {goal}", xlabel="share of the way")
    ax.axhline(0, color="silver", lw=0.8)
axes[0].set_ylabel("logit of six − four")
axes[1].legend()
plt.show()

# %% [markdown]
# Below the grey line the model says "four" rather than "six".
#
# * **Towards zero** almost nothing is promised, and for half of the way almost nothing happens. The norm takes the
#   length away: to the next layer, half a row *is* the row. Only towards the end, where nothing is left, the answer
#   goes. A small "gradient times activation" is therefore no proof that rows are not needed.
# * **Towards another word** the direction is right at first. Then the softmax of attention and the norms bend it.
#
# A gradient costs one pass backward for all tokens of all layers; a hook costs one pass for each try. Tutorial 07 uses
# gradients to find candidates, and tries those out.

# %% [markdown]
# ## What to try on a real model
#
# ```python
# model = av.HookedAVTransformer.from_pretrained("Qwen/Qwen2.5-Omni-3B", device="cuda", dtype=torch.bfloat16)
# inputs = model.prepare(av.Clip.from_file("film.mp4"), question="What is the person saying?")
# _, cache = model.run_with_cache(inputs, names_filter="blocks.*.hook_resid_post@audio")
# ```
#
# * Name spans in the cache, always: the whole of it is gigabytes. (If it does not fit, the error says what would.)
# * Follow a token of a spoken word. Is it near the embedding of that word, in any layer?
# * Swap two spoken words before layer 0, and before later ones. Does a token there carry its place, too?
#
# **Next**: [02 · Activation patching](02_activation_patching.ipynb)
