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
# # 07 · Attribution: who writes the answer, and what an estimate is worth
#
# **You will learn**
#
# * direct logit attribution: what each head writes of the answer, and from which span it has it;
# * attribution patching: all patches of tutorial 02 from one backward pass, and where that estimate fails;
# * path patching: what a head does *through* another part of the model.
#
# **Takes** 25 minutes. You have patched activations (tutorial 02). The model is `tiny-av`; no download, no GPU.
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

import hooked_av as av

model = av.HookedAVTransformer.from_pretrained("tiny-av")
films = {name: sample.clip for name, sample in av.sample_clips().items()}

# %% [markdown]
# ## Who writes the answer into the last position?
#
# The pair of tutorial 02: the same pictures, two sounds, two answers.

# %%
question = "Which digit is spoken second?"
film, other = films["four-is-spoken-twice"], films["four-seconds"]
pair = av.make_pair(model, film, "audio", other=other, question=question)
answer, alternative = (model.generate(inputs).texts[0] for inputs in (pair.clean, pair.corrupt))
answer, alternative

# %% [markdown]
# At the last position the residual stream is a **sum**: the embedding, plus what every attention layer and every MLP
# has added. The logits are read from that sum. So the logit difference of two answers is a sum too, and each part's
# share can be written down: **direct logit attribution**. One forward pass is enough, and no second prompt is needed.
#
# **Predict, then run.** Which span do the heads have the answer from? And in which layers, if you think of the patches
# of tutorial 02?

# %%
direct = av.direct_logit_attribution(model, pair.clean, answer=answer, alternative=alternative)
direct

# %% [markdown]
# *Left*: attention and MLP of each layer. *Middle*: heads. *Right*: a head's output is itself a sum over the tokens
# that it reads, and so the shares can be sorted by span. They do add up, and the package checks it at every call:

# %%
print(f"parts {direct.total:.3f}   logit difference {direct.logit_difference:.3f}")

# %% [markdown]
# ### Exercise 1: one head by hand
#
# Write `head_writes`: what one head adds to logit(answer) - logit(alternative) at the last position. You need
#
# * `blocks.{layer}.attn.hook_z@last`, the head's output, `[batch, 1, head, d_head]`; `model.W_O[layer, head]` takes it
#   to the residual stream;
# * the final norm, which divides by a number (`ln_final.hook_scale@last`) and multiplies by a gain
#   (`model.ln_final.weight`);
# * `model.W_U[:, id]`, the direction of a token (`model.to_single_token(text)` is its id).
#
# <details><summary>Hint 1</summary>
#
# `_, cache = model.run_with_cache(inputs, names_filter=[...])` with the two names above. Then
# `cache[name][0, 0, head] @ model.W_O[layer, head]` is a vector of `d_model` numbers.
# </details>
# <details><summary>Hint 2</summary>
#
# Times the gain, divided by the scale, `@` the difference of two columns of `W_U`.
# </details>


# %% tags=["exercise"]
def head_writes(inputs, layer, head, answer, alternative):
    return ...


av.checks.attribution.head_writes(head_writes, model)


# %% tags=["solution"] jupyter={"source_hidden": true}
def head_writes(inputs, layer, head, answer, alternative):
    z, scale = f"blocks.{layer}.attn.hook_z@last", "ln_final.hook_scale@last"
    _, cache = model.run_with_cache(inputs, names_filter=[z, scale])
    written = cache[z][0, 0, head] @ model.W_O[layer, head]
    one, other = (model.W_U[:, model.to_single_token(text)] for text in (answer, alternative))
    return (written * model.ln_final.weight / cache[scale][0, 0] @ (one - other)).item()


av.checks.attribution.head_writes(head_writes, model)

# %% [markdown]
# ## "From this span" is not "about this span"
#
# **Predict, then run.** The same question with lettered options. The sound decides, as before. From which span do the
# heads at the last position have the letter?

# %%
options = [answer, "nine", alternative]
lettered = model.prepare(film, question=question, options=options)
print("it says:", model.generate(lettered).texts[0])
av.direct_logit_attribution(model, lettered, answer="A", alternative="C")

# %% [markdown]
# Hardly anything from the sound. Direct attribution sees the **last step** only. Tutorial 02 showed the step before:
# the difference goes from the sound into the rows of the options, and from there to the last row. Direct attribution
# has no way to know what those rows had read.
#
# It has a second limit. "Direct" means: as if nothing came after. But what a head writes is read again by later
# layers, and they can add to it, or take it back. We come to that in the last part.
#
# ## All patches from one backward pass
#
# Patching asks what *happens*. But each cell is a run, and a large model has many cells. **Attribution patching**
# estimates them all at once: the gradient of the logit difference, times the change that the patch would make. It
# draws the tangent at the corrupt run and follows it.
#
# Here are the heads, both ways.

# %%
both = {"clean": pair.clean, "corrupt": pair.corrupt}
heads = av.patch_heads(model, **both)
av.attribution_patching(model, **both, table="heads", exact=heads)

# %% [markdown]
# Each circle is a cell. On the dashed line the estimate is right. `r` is the correlation over all cells: report it
# with every attribution patching that you publish. Most heads lie on the line, or near it. Look for those that do
# not: are they the heads that matter least, or those that matter most?
#
# **Predict, then run.** One head is a small part of a row. Now whole spans: the residual stream of all the sound, the
# attention of a whole layer. These patches are large. Will the circles move nearer to the line, or away from it?

# %%
exact = av.patch_spans(model, **both, spans=["audio", "question", "last"])
estimate = av.attribution_patching(model, **both, spans=["audio", "question", "last"], exact=exact)
estimate

# %% [markdown]
# Many cells that bring the *whole* answer back are estimated at almost nothing. So "the estimate is small" does not
# mean "the patch does nothing".
#
# ### Exercise 2: the worst miss
#
# Of the cells of **attn_out**, which one does the estimate miss by most? Give `(row, layer)`, with a row's name such
# as `"audio · attn_out"`.
#
# <details><summary>Hint</summary>
#
# `estimate.to_frame()` has the columns `row`, `layer`, `effect` (estimated) and `exact`. Make a column with the size
# of their difference (`.abs()`), keep rows with `.row.str.endswith("attn_out")`, and sort.
# </details>

# %% tags=["exercise"]
cell = ...
av.checks.attribution.cell(cell, estimate)

# %% tags=["solution"] jupyter={"source_hidden": true}
frame = estimate.to_frame()
frame = frame[frame.row.str.endswith("attn_out")]
worst = frame.loc[(frame.effect - frame.exact).abs().idxmax()]
cell = (worst.row, int(worst.layer))
av.checks.attribution.cell(cell, estimate)

# %% [markdown]
# ## Why it fails: turn the patch on slowly
#
# A patch can be done by half. Put a dial on it: 0 leaves the corrupt rows, 1 puts in the clean ones. We take the last
# row's attention in the layer where it brings most back, and turn the dial.

# %%
layer = int(exact.effects[1, 2].argmax())  # attn_out at "last"
point = f"blocks.{layer}.hook_attn_out@last"
clean_rows, corrupt_rows = (
    model.run_with_cache(inputs, names_filter=point)[1][point].detach() for inputs in both.values()
)
ids = [model.to_single_token(text) for text in (answer, alternative)]


# %%
def turned(dial):
    """Logit difference with the patch turned on so far, and its slope there."""
    dial = torch.tensor(float(dial), requires_grad=True)
    rows = corrupt_rows + dial * (clean_rows - corrupt_rows)
    logits = model.run_with_hooks(pair.corrupt, fwd_hooks=[(point, lambda _, hook: rows)], logits_at="last")
    reached = logits[0, -1, ids[0]] - logits[0, -1, ids[1]]
    return reached.item(), torch.autograd.grad(reached, dial)[0].item()


# %%
dials = np.linspace(0, 1, 11)
values, slopes = np.transpose([turned(dial) for dial in dials])

# %% [markdown]
# **Predict, then run.** The tangent at 0 is the estimate. Is the curve a line? Where is it steep?

# %% tags=["draw"]
figure, axes = plt.subplots(figsize=(6, 3))
axes.plot(dials, values, "-o", color="black", label="the patch, turned on slowly")
axes.plot(dials, values[0] + slopes[0] * dials, "--", color="tab:orange", label="tangent at 0: the estimate")
axes.set(xlabel="dial (0: corrupt rows, 1: clean rows)", ylabel="logit difference")
axes.legend()
plt.show()

# %% [markdown]
# At 0 the model is sure of the wrong answer. A little of the right one changes nothing: the curve is flat, and the
# tangent with it. The turn comes on the way. So the estimate fails where a patch is **large** and the run is **sure
# of itself**. It is best for what is small and near to the logits.
#
# ### Exercise 3: more than one tangent
#
# The change from 0 to 1 is the sum of the slopes on the way. Write `estimated_change(slope, n)`: an estimate from `n`
# slopes at places that lie evenly between 0 and 1. `slope` is a function of the dial. (This is *integrated gradients*.
# With `n` backward passes in place of one it is still cheap.)
#
# <details><summary>Hint</summary>
#
# Cut the way into `n` equal steps and take the slope in the middle of each: `(step + 0.5) / n`. Every step is `1 / n`
# long.
# </details>


# %% tags=["exercise"]
def estimated_change(slope, n):
    return ...


av.checks.attribution.estimated_change(estimated_change)


# %% tags=["solution"] jupyter={"source_hidden": true}
def estimated_change(slope, n):
    return sum(slope((step + 0.5) / n) for step in range(n)) / n


av.checks.attribution.estimated_change(estimated_change)

# %% [markdown]
# How many slopes are enough here? The dashed line is what the patch does.

# %%
steps = [1, 2, 4, 8]
changes = [estimated_change(lambda dial: turned(dial)[1], n) for n in steps]

# %% tags=["draw"]
figure, axes = plt.subplots(figsize=(6, 2.6))
names = ["tangent\nat 0", *map(str, steps)]
axes.bar(names, [slopes[0], *changes], color="white", edgecolor="black", hatch="//")
axes.axhline(values[-1] - values[0], color="black", linestyle="--")
axes.set(xlabel="slopes on the way", ylabel="estimated change")
plt.show()

# %% [markdown]
# A practical order of work: estimates to find candidates among thousands of small cells, with a few slopes in place
# of one if you can pay for them; exact patches for what you are going to claim, and for everything large.
#
# ## Through what? Path patching
#
# `patch_heads` measures everything that a head does: straight to the logits, and through all later layers. **Path
# patching** lets the head's change arrive at **one receiver** only, and freezes the rest. The receiver `logits` is the
# straight way: what direct attribution looks at, here as a difference between the two runs.
#
# **Predict, then run.** Is the straight way the larger part of what a head does, or the smaller? Could it be *more*
# than all?

# %%
straight = av.patch_path(model, **both, receiver="logits")
straight

# %% tags=["draw"]
figure, axes = plt.subplots(figsize=(4.4, 3.4))
axes.scatter(straight.effects, heads.effects, facecolor="none", edgecolor="black", label="a head")
top = np.nanmax(straight.effects)
axes.plot([0, top], [0, top], "--", color="grey", label="all of it goes straight")
axes.set(xlabel="straight to the logits", ylabel="on all ways (patch_heads)")
axes.legend()
plt.show()

# %% [markdown]
# Heads below the line write more of the answer than is left of it at the end: what comes after works *against* a
# single patched head. That is no contradiction. One head now writes the clean digit and all others write the corrupt
# one, and later parts go with the majority. It is why single heads looked so weak in tutorial 02. Which later parts?
#
# ### Exercise 4: who takes it back?
#
# The receiver can be an MLP: `receiver="blocks.5.hook_mlp_out"`. Through which MLP do the heads together lose most?
# Add up the cells of the map (`np.nansum(...effects)`) for every MLP, and give the receiver's name.
#
# <details><summary>Hint</summary>
#
# A loop over `range(model.cfg.n_layers)`, or a dictionary of name and sum, and `min(sums, key=sums.get)`.
# </details>

# %% tags=["exercise"]
receiver = ...
av.checks.attribution.receiver(receiver, model, pair)

# %% tags=["solution"] jupyter={"source_hidden": true}
names = [f"blocks.{layer}.hook_mlp_out" for layer in range(model.cfg.n_layers)]
sums = {name: np.nansum(av.patch_path(model, **both, receiver=name).effects) for name in names}
receiver = min(sums, key=sums.get)
av.checks.attribution.receiver(receiver, model, pair)

# %% [markdown]
# The map of that receiver. Grey cells come after it, and cannot reach it.

# %%
av.patch_path(model, **both, receiver=receiver)

# %% [markdown]
# One step back: heads that write in the rows of the *sound*, into the values that the last row reads there. Mind the
# scale beside the map.

# %%
av.patch_path(model, **both, span="audio", receiver=f"blocks.{layer}.attn.hook_v")

# %% [markdown]
# Next to nothing, though the rows of the sound are all that matters. Each single path is a thin thread of a rope. **A
# path that brings nothing back is no proof that nothing goes that way.** Path patching is at its best where few heads
# do the work.
#
# ## Which one, then?
#
# | question | method | what it does not show |
# |---|---|---|
# | Who writes the answer, and from which span? | direct attribution, 1 pass | earlier steps; what later layers do |
# | What happens if ...? | patching, 1 short run a cell | whether it is the only way (run both directions) |
# | Where should I look, among thousands? | attribution patching, 3 passes | large patches, sure runs: look at `r` |
# | Through what? | path patching, 1 short run a head | ways of many threads |
#
# ## What to try on a real model
#
# ```python
# model = av.HookedAVTransformer.from_pretrained("Qwen/Qwen2.5-Omni-3B", device="cuda", dtype=torch.bfloat16)
# pair = av.make_pair(model, av.Clip.from_file("dog.mp4"), "audio", other=av.Clip.from_file("cat.mp4"),
#                     question="Which animal do you hear? Answer in one word.")
# av.direct_logit_attribution(model, pair.clean, answer="Dog", alternative="Cat")
# av.attribution_patching(model, clean=pair.clean, corrupt=pair.corrupt, table="heads")
# ```
#
# With 36 layers and 16 heads there are 576 heads. Estimate them all, patch the best twenty exactly, and look at `r`
# of those. In bfloat16 small effects drown in rounding: load the model in float32 if it fits.
#
# **Next**: [08 · Probes and steering](08_probes_and_steering.ipynb)
