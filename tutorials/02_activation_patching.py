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
# # 02 · Activation patching: where does the sound become the answer?
#
# **You will learn**
#
# * to make two prompts that differ in the sound alone, and to patch rows of one run into the other, by hand;
# * to read tables of patches: spans, heads, seconds;
# * to tell *denoising* from *noising*, and what it means when they disagree.
#
# **Takes** 25 minutes. You know hooks and spans (tutorial 01). The model is `tiny-av`; no download, no GPU.
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import matplotlib.pyplot as plt
import torch

import hooked_av as av

model = av.HookedAVTransformer.from_pretrained("tiny-av")
films = {name: sample.clip for name, sample in av.sample_clips().items()}

# %% [markdown]
# ## Two prompts that differ in one thing
#
# We ask which digit is *spoken* second. Then we ask the same of the same pictures with the sound of another film. All
# that makes the two answers different is in the sound. So we can ask **where**, inside the model, that difference is.
#
# `av.make_pair` makes both prompts, and refuses two that have not the same layout: token 60 must mean the same moment
# in both.

# %%
question = "Which digit is spoken second?"
film, other = films["four-is-spoken-twice"], films["four-seconds"]
pair = av.make_pair(model, film, "audio", other=other, question=question)
clean, corrupt = pair.clean, pair.corrupt
pair

# %% [markdown]
# `input_features` is what the sound encoder gets. Nothing else differs: no token, no position, no frame. Here is the
# corrupt prompt. The pictures are the clean film's, the wave below them is not.

# %%
corrupt

# %%
answers = [model.generate(inputs).texts[0] for inputs in (clean, corrupt)]
print(f"clean: {answers[0]}   corrupt: {answers[1]}")

# %% [markdown]
# Why not add noise to the sound? Noise is something that the model has never met, and it answers nothing in
# particular. Another digit is a sound like any other. The model stays sure of itself, and says something else.
# (`av.media_swaps` makes other swaps: silence, black frames, another clip. One of them comes below.)
#
# We need one number that says which of the two answers the model gives: the **logit difference**. Above zero it says
# the clean answer, below zero the corrupt one.

# %%
ids = [model.to_single_token(text) for text in answers]


def difference(logits):
    """Logit of the clean answer less logit of the corrupt answer, at the last position."""
    return (logits[0, -1, ids[0]] - logits[0, -1, ids[1]]).item()


base = [difference(model(inputs, logits_at="last")) for inputs in (clean, corrupt)]
print(f"clean {base[0]:.1f}   corrupt {base[1]:.1f}")

# %% [markdown]
# ## By hand: one hook, one layer
#
# The recipe has three steps. (1) Run the clean prompt, and keep some rows. (2) Run the *corrupt* prompt, and write
# those rows over its own. (3) See how far the answer comes back.
#
# We keep the residual stream in front of every layer, at the rows of the sound.

# %%
_, clean_run = model.run_with_cache(clean, names_filter="blocks.*.hook_resid_pre@audio")


def bring_back(rows, hook):
    return clean_run[f"{hook.name}@audio"]


hooks = [("blocks.0.hook_resid_pre@audio", bring_back)]
patched = model.run_with_hooks(corrupt, fwd_hooks=hooks, logits_at="last")
difference(patched), base[0]

# %% [markdown]
# In front of layer 0 the sound's rows are *all* that differs. So this patch makes the corrupt run the clean one: the
# two numbers agree. It is no finding. It is the check that the hook works.
#
# **Predict, then run.** Now patch the same rows in front of layer 1, 2, ... up to the last layer. In front of the last
# layer, do the sound's rows still bring the answer back? Draw a curve on paper first. And a second curve: the row
# `last` in place of the sound.

# %%
curves = {}
for span in ("audio", "last"):
    names = [f"blocks.{layer}.hook_resid_pre@{span}" for layer in range(model.cfg.n_layers)]
    _, clean_run = model.run_with_cache(clean, names_filter=names)
    curves[span] = []
    for name in names:
        hooks = [(name, lambda rows, hook, kept=clean_run[name]: kept)]
        curves[span].append(difference(model.run_with_hooks(corrupt, fwd_hooks=hooks, logits_at="last")))

# %% tags=["draw"]
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(curves["audio"], "-o", color="black", label="rows of the sound")
axes.plot(curves["last"], "--s", color="tab:orange", label="the last row")
for value, name in zip(base, ("clean run", "corrupt run"), strict=True):
    axes.axhline(value, color="grey", linestyle=":")
    axes.text(1.5, value * 0.85, name, va="center", fontsize=8)
axes.set(xlabel="patched in front of layer", ylabel="logit difference")
axes.legend(loc="center left")
plt.show()

# %% [markdown]
# The two curves cross. Before the crossing the difference is in the sound's rows; behind it, in the last row. Between
# them some attention head reads the sound and writes at the last position. Note what the left curve does *not* say:
# the sound's rows still hold the digit in late layers. But nobody reads it there any more.
#
# ### Exercise 1: the effect of a patch
#
# Logit differences of two pairs cannot be compared. So tables show the **effect**: 0 if the patch changes nothing, 1
# if it brings the clean answer back. Write it as a function of three logit differences.
#
# <details><summary>Hint</summary>
#
# It is a straight line. `effect(corrupt, ...)` is 0 and `effect(clean, ...)` is 1. How much has come back, as a share
# of how much was lost?
# </details>


# %% tags=["exercise"]
def effect(patched, clean, corrupt):
    return ...


av.checks.patching.effect(effect)


# %% tags=["solution"] jupyter={"source_hidden": true}
def effect(patched, clean, corrupt):
    return (patched - corrupt) / (clean - corrupt)


av.checks.patching.effect(effect)

# %% [markdown]
# ## The whole table: spans
#
# `av.patch_spans` does what you did, for every span, in three places: the residual stream in front of a layer, what
# attention adds to it (`attn_out`), and what the MLP adds (`mlp_out`). Its first map has your two curves as rows.

# %%
table = av.patch_spans(model, clean=clean, corrupt=corrupt)
table

# %% [markdown]
# How to read it:
#
# * **Left map**: *where* the difference is. It is in `audio`, then in `last`. It is never in `question`, and never in
#   `video`.
# * **Middle and right map**: *who moves it*. In the row `last` look at `attn_out`: there the sound is read. In the row
#   `audio` look at the early layers: there the sound's rows work on what they have heard.
# * The rows of one map need not add up to 1. A row of the left map holds what all earlier layers have done.
#
# **Predict, then run.** The same film, the same sound, but now the question comes with lettered options ("A. three, B.
# six, ..."), and the model answers with a letter. Is the way the same?

# %%
options = ["three", "six", "nine"]
lettered = av.make_pair(model, film, "audio", other=other, question=question, options=options)
av.patch_spans(model, clean=lettered.clean, corrupt=lettered.corrupt, components="resid_pre")

# %% [markdown]
# Now the difference makes a stop: sound, then options, then the last row. The digit must be compared with the options
# before there is a letter to say. One model, two questions, two ways. So a patching result is about *a prompt*, and
# not yet about the model.
#
# ## Heads
#
# Back to the question without options. In some layers attention at the last row moves the answer. Is it one head?

# %%
heads = av.patch_heads(model, clean=clean, corrupt=corrupt, span="last")
heads

# %% [markdown]
# Mind the scale beside the map. **No head alone brings much back**, although the whole attention of a layer did. Add
# up the heads of the best layer: the sum is less than that layer's `attn_out`. While one head is patched, the others
# go on writing the wrong digit, and what comes after them goes with the majority. A table of single heads, read
# alone, would have said "attention at the last row does nothing".
#
# ### Exercise 2: patch a head by hand
#
# Write `patch_head`: the logits (`logits_at="last"`) of the corrupt prompt, with what **one** head gives at the
# **last** row taken from the clean run. A head's output is `blocks.{layer}.attn.hook_z`; its shape is
# `[batch, position, head, d_head]`. The checker tries it on two other films.
#
# <details><summary>Hint 1</summary>
#
# `name = f"blocks.{layer}.attn.hook_z@last"` is both what you keep (`names_filter=name`) and where you hook. With
# `@last` the hook gets the last row only.
# </details>
# <details><summary>Hint 2</summary>
#
# The hook **returns** the new rows. In one line: `rows.index_copy(2, torch.tensor([head]), kept[name][:, :, [head]])`
# is `rows` with one head replaced. (Or copy with `rows.clone()`, write `[:, :, head]`, return it.)
# </details>


# %% tags=["exercise"]
def patch_head(clean, corrupt, layer, head):
    return ...


av.checks.patching.patch_head(patch_head, model)


# %% tags=["solution"] jupyter={"source_hidden": true}
def patch_head(clean, corrupt, layer, head):
    name = f"blocks.{layer}.attn.hook_z@last"
    _, kept = model.run_with_cache(clean, names_filter=name)
    hooks = [(name, lambda rows, hook: rows.index_copy(2, torch.tensor([head]), kept[name][:, :, [head]]))]
    return model.run_with_hooks(corrupt, fwd_hooks=hooks, logits_at="last")


av.checks.patching.patch_head(patch_head, model)

# %% [markdown]
# ## Seconds
#
# A clip has a time, and so has every media token. `av.patch_positions` patches the sound and the picture in stretches
# of time, layer by layer. The question was about the digit that is spoken second.
#
# **Predict, then run.** Which column will be dark? And does anything happen in the picture's columns?

# %%
av.patch_positions(model, clean=clean, corrupt=corrupt, every_seconds=1.0)

# %% [markdown]
# All four digits of the sound were replaced, but only one of them matters to this question. Nothing of the picture
# moves, and it cannot: its rows do not differ before the sound is mixed in.
#
# ### Exercise 3: another question
#
# Ask "Which digit is spoken third?" of the same two films. In which stretch of the sound does the answer now sit?
# Give its name, as the table does (`table.place_names`).
#
# <details><summary>Hint</summary>
#
# `av.make_pair(model, film, "audio", other=other, question=...)`, then `patch_positions` as above, and look. Names are
# such as `"audio 0-1 s"`.
# </details>

# %% tags=["exercise"]
third = av.make_pair(model, film, "audio", other=other, question="Which digit is spoken third?")
place = ...
av.checks.patching.place(place, model, third)

# %% tags=["solution"] jupyter={"source_hidden": true}
third = av.make_pair(model, film, "audio", other=other, question="Which digit is spoken third?")
table = av.patch_positions(model, clean=third.clean, corrupt=third.corrupt, every_seconds=1.0)
place = table.place_names[table.effects[0].argmax()]
av.checks.patching.place(place, model, third)

# %% [markdown]
# ## Bring back, or break: denoising and noising
#
# All patches so far brought clean rows into the corrupt run: **denoising**. It asks: is this *enough* for the answer?
# The other direction brings corrupt rows into the clean run: **noising**. It asks: is this *needed*? There is one
# function for both: the second prompt is the one that runs. Noising is `clean=corrupt, corrupt=clean`, and its effect
# is the share of the answer that is broken.
#
# The two are often taken for the same. Here is a pair in which they cannot be. In the first film the first shown digit
# *is* the first spoken one, in the second it is not. `media_swaps` gives picture **and** sound of the second.

# %%
same = "Is the first shown digit the same as the first spoken?"
yes = model.prepare(films["same-digit"], question=same)
no = av.media_swaps(model, films["same-digit"], other=films["three-seconds"], question=same)["other clip"]
for inputs in (yes, no):
    print(model.generate(inputs).texts[0])

# %% [markdown]
# **Predict, then run.** We patch the residual stream of the sound, then of the picture, then of both, in front of
# every layer. *Denoise*: the "no" film runs, and gets rows of the "yes" film. If it gets the sound alone, does it say
# "yes"?
# *Noise*: the "yes" film runs, and gets rows of the "no" film. If it gets the sound alone, does it still say "yes"?

# %%
media = {"spans": ["audio", "video", "audio|video"], "components": "resid_pre"}
av.patch_spans(model, clean=yes, corrupt=no, **media)

# %%
av.patch_spans(model, clean=no, corrupt=yes, **media)

# %% [markdown]
# **Denoising**: the sound alone brings back nothing, the picture alone nothing, both together everything. From this
# table you would say that neither matters. **Noising**: either alone breaks the answer. From this table you would say
# that each is all that matters. Both tables are right. "Yes" needs the sound **and** the picture to fit:
#
# | | denoising one part | noising one part |
# |---|---|---|
# | **and**: all parts are needed | nothing comes back | everything breaks |
# | **or**: one part is enough | everything comes back | nothing breaks |
#
# Turned around it is an *or*: for "no", a wrong sound or a wrong picture is enough.
#
# ## Layers that work together
#
# Inside the model it is rarely so clean. Take the attention that reads the sound, `attn_out` at the last row, one
# layer at a time, in both directions.

# %%
one_by_one = {"spans": "last", "components": "attn_out"}
denoised = av.patch_spans(model, clean=clean, corrupt=corrupt, **one_by_one).effects[0, 0]
noised = av.patch_spans(model, clean=corrupt, corrupt=clean, **one_by_one).effects[0, 0]
layers = range(model.cfg.n_layers)

# %% tags=["draw"]
figure, axes = plt.subplots(figsize=(6, 3))
left, right = ([layer + shift for layer in layers] for shift in (-0.2, 0.2))
axes.bar(left, denoised, 0.4, color="black", label="denoising: brought back")
axes.bar(right, noised, 0.4, color="white", edgecolor="black", hatch="//", label="noising: broken")
axes.set(xlabel="attn_out at the last row, of layer", ylabel="effect")
axes.legend()
plt.show()

# %% [markdown]
# Where the two bars of a layer differ, layers work together. A layer that breaks more than it brings back is part of
# an
# *and*: it needs its neighbours. One that brings back more than it breaks has a stand-in. Small bars in both
# directions do not mean that a layer does nothing. To see what a *group* of layers does, patch them together.

# %%
names = "blocks.*.hook_attn_out@last"
kept = {inputs: model.run_with_cache(inputs, names_filter=names)[1] for inputs in (clean, corrupt)}


# %%
def together(layers, *, source, run):
    """Attention at the last row, in these layers at once: from the source, into the prompt that runs."""
    patches = [av.patch(f"blocks.{layer}.hook_attn_out", "last", kept[source]) for layer in layers]
    return effect(difference(model(run, interventions=patches, logits_at="last")), *base)


together(layers, source=clean, run=corrupt), together(layers, source=corrupt, run=clean)

# %% [markdown]
# All layers at once: 1 when denoised (the clean answer is back), 0 when noised (it is the corrupt answer). `effect` is
# always on the same scale here, so after noising a *small* number means that much was broken.
#
# ### Exercise 4: a group that is enough
#
# Find the **fewest neighbouring layers** whose attention at the last row, *denoised* together, brings back at least
# 0.9. Give a list, such as `[2, 3]`.
#
# <details><summary>Hint</summary>
#
# Try windows: one layer, then all pairs of neighbours, then all threes. Look at the bars to see where to begin.
# </details>

# %% tags=["exercise"]
group = ...
av.checks.patching.group(group, model, pair)

# %% tags=["solution"] jupyter={"source_hidden": true}
n = model.cfg.n_layers
windows = [list(range(first, first + width)) for width in range(1, n + 1) for first in range(n + 1 - width)]
group = next(window for window in windows if together(window, source=clean, run=corrupt) >= 0.9)
av.checks.patching.group(group, model, pair)

# %% [markdown]
# ## What patching does not show
#
# * **What is not different is not seen.** Both films have four seconds and ask the same question. Heads that find
#   "second", or that know that a digit is wanted, do the same in both runs. No patch of this pair can find them.
# * **A patch moves everything in a row**, not "the digit". Rows that hold the digit and are not read give effect 0.
# * **Enough is not needed.** Say which direction you ran. If it matters, run both.
# * **One pair is one pair.** `hooked-av patch MANIFEST` patches a whole data set (tutorial 11).
#
# ## What to try on a real model
#
# ```python
# model = av.HookedAVTransformer.from_pretrained("Qwen/Qwen2.5-Omni-3B", device="cuda", dtype=torch.bfloat16)
# pair = av.make_pair(model, av.Clip.from_file("dog.mp4"), "audio", other=av.Clip.from_file("cat.mp4"),
#                     question="Which animal do you hear? Answer in one word.")
# av.patch_spans(model, clean=pair.clean, corrupt=pair.corrupt)
# ```
#
# The two sounds must have the same length (`Clip.cut`). First look at the two answers: if they are the same, there is
# nothing to patch. Then ask: does the difference pass through the question, as it does here with options?
#
# **Next**: [03 · Attention blocking](03_attention_blocking.ipynb)
