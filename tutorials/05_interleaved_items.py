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
# # 05 · Several items in one prompt: sequential or parallel streams?
#
# **You will learn**
#
# * how clips, pictures and sounds of one prompt are named, and which of them is read;
# * to tell apart *being looked at* and *being needed*, once more;
# * to make a cut that does not leak, and to prove it;
# * to decide between sequential and parallel streams, beside random cuts.
#
# **Takes** 25 minutes. You should know [03](03_attention_blocking.ipynb).
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import matplotlib.pyplot as plt

import hooked_av as av

model = av.HookedAVTransformer.from_pretrained("tiny-av")

# %% [markdown]
# ## Three items
#
# A prompt may hold several **items**, one after the other: clips, stills, sounds. tiny-av was trained on two to four
# items of a second each. We take questions about exactly three.


# %%
def cases_of(task, n):
    drawn = av.tiny.held_out_cases(model, task, 5 * n)
    three = {"item2"}  # and no "item3"
    return [case for case in drawn if three == {"item2", "item3"} & set(case.inputs.spans)][:n]


spoken = cases_of("spoken in item", 8)
case = spoken[0]
print(case)
case.inputs

# %% [markdown]
# Look at the line "prompt to scale": item, marks, item, marks, item, then the question. Every item is a span of its
# own, `item0`, `item1`, `item2`; what is seen and heard in it are `item0.video` and `item0.audio`. The black tokens
# are **marks**, the span `boundary`: they say where a clip begins and ends.
#
# **Predict, then run.** Each bar below hides one stream of one item from all text. Which one counts? (Read the question
# in the strip. People count from one, spans from zero.)

# %%
streams = [f"item{number}.{stream}" for number in range(3) for stream in ("audio", "video")]
av.route_sweep(model, case.inputs, [f"{stream}->text" for stream in streams])

# %% [markdown]
# ### Exercise 1: hide as much as you can
#
# Write a span, such as `"item0|item1.video"`, that can be hidden from all text with the answer as it was: as many
# tokens of the items as possible.
#
# <details><summary>Hint 1</summary>
#
# What is not asked for can go: two whole items. How is the item called that *is* asked for?
# </details>
# <details><summary>Hint 2</summary>
#
# Of the item that is asked for, one stream is needed only.
# </details>

# %% tags=["exercise"]
hidden = ...
av.checks.interleaved_items.hidden(hidden, model, case)

# %% tags=["solution"] jupyter={"source_hidden": true}
hidden = "item0|item1|item2.video"
av.checks.interleaved_items.hidden(hidden, model, case)

# %% [markdown]
# Is that so for every question, and in which layers is the item read? The spans `queried_item` and `other_items` follow
# the question, so that prompts that ask for different items can share one map. Beside each cut stands a random one of
# the same size (grey; hatched where samples differ).

# %%
ways = ["queried_item->text", "other_items->text"]
av.information_flow(model, spoken, pathways=ways, window=3, controls=2)

# %% [markdown]
# The text reads the item that it needs, in a few layers, and no other one. So far, nothing strange. The question of
# this tutorial is another one.
#
# ## Do items look at each other?
#
# When the answer is about item three, is item three enough *by itself*? Attention lets each item read all items before
# it. Two pictures of what could go on:
#
# * **Sequential streams**: each item is understood in the light of those before. What was seen is handed on, item to
#   item, and later tokens carry a summary.
# * **Parallel streams**: each item is read for itself, and they meet in the text, at the end.
#
# Whoever wants to cache clips, to leave some out, or to change their order, needs to know which.
#
# **Predict, then run.** How much of the attention of item 2 goes to the items before it?

# %%
keys = ["item0", "item1", "item2", "boundary", "prompt_begin"]
av.attention_mass(model, spoken, keys=keys, queries=["item1", "item2"])

# %% [markdown]
# Right panel: the items before get a good part of it, in some layers. So they *look*. From tutorial 03 we know what
# that is worth: nothing yet. Does anything of item 0 arrive in item 2? And does the answer need it?
#
# ## A cut that does not leak
#
# We take two prompts that differ in item 0 alone: in one of them it is silent and black. If the residual stream of
# item 2 is the same in both, **to the last bit**, then item 2 knows nothing of item 0.

# %%
drawn = av.tiny.draw_samples("spoken in item", 40)
sample = next(one for one in drawn if len(one.media) == 3 and None not in (*one.shown, *one.spoken))
one, two, three = sample.media
inputs = model.prepare([one, two, three], question=sample.question)
changed = [
    model.prepare([one.silenced().blanked(), two, three], question=sample.question),
    model.prepare([one, two.silenced().blanked(), three], question=sample.question),
]

# %% [markdown]
# How far do the streams differ, layer by layer, as a share of their size? Once with nothing cut, and once with every
# later item cut from the earlier ones.
#
# **Predict, then run.** Where will the second curve be?


# %%
def leak(cuts):
    asked = {"names_filter": "blocks.*.hook_resid_post@item2", "interventions": cuts}
    (_, one), (_, other) = (model.run_with_cache(some, **asked) for some in (inputs, changed[0]))
    return [((one[name] - other[name]).norm() / one[name].norm()).item() for name in one]


# %%
between = ["item0->item1|item2", "item1->item2"]
plt.plot(leak([]), "k-o", label="nothing cut")
plt.plot(leak(between), "k--s", mfc="white", label="items cut from each other")
plt.gca().set(xlabel="layer", ylabel="what of item 2 depends on item 0", ylim=0)
_ = plt.legend(frameon=False)

# %% [markdown]
# The cut leaks! Nobody in item 2 can read item 0 any more, in no layer, and still item 2 depends on it. In the first
# layer all is well; from the next one on something gets through.
#
# ### Exercise 2: close the leak
#
# Find the way around, and add to the list what closes it. The text must still be able to read all items.
#
# <details><summary>Hint 1</summary>
#
# A way around takes two steps, which is why the first layer is tight: somebody reads item 0, and item 2 reads that
# somebody. Who stands between the items? Look at the strip.
# </details>
# <details><summary>Hint 2</summary>
#
# It is enough to close the first step of it, for all items.
# </details>

# %% tags=["exercise"]
sealed = ...
av.checks.interleaved_items.sealed(sealed, model, inputs, changed)

# %% tags=["solution"] jupyter={"source_hidden": true}
sealed = [*between, "item0|item1|item2->boundary"]
av.checks.interleaved_items.sealed(sealed, model, inputs, changed)

# %% [markdown]
# Keep this check for cuts of your own: *change what should not arrive, and see whether anything moves*. It needs no
# assumption about the model, and its answer is exactly zero or it is not.
#
# ## Sequential or parallel?
#
# Now the decisive run: no item may know of any other, in all layers; only the text may read them. `av.Pathway` puts
# several cuts under one name, so that they get one random control together.
#
# The questions: what is spoken (or shown) in one item; *which* item speaks a digit; do two items speak the same digit.
#
# **Predict, then run.** Which of these must fail, if the items cannot see each other?

# %%
pairs = (("item0", "item1|item2"), ("item1", "item2"), ("item0|item1|item2", "boundary"))
how = {"pathways": [av.Pathway("items sealed", pairs)], "window": "all", "controls": 3}
tasks = ["spoken in item", "shown in item", "which item speaks", "items speak the same"]
flows = [av.information_flow(model, cases_of(task, 8), **how) for task in tasks]

# %%
_, axes = plt.subplots(figsize=(8, 2.8), layout="constrained")
for row, flow in enumerate(flows):
    axes.plot([0, 0], [row - 0.4, row], "k", lw=1)
    sealed = axes.barh(row - 0.2, flow.change[:, 0], 0.36, color="black")
    random = axes.barh(row + 0.2, flow.control_change[:, 0], 0.36, fc="white", ec="black", hatch="///")
axes.set(xlabel="change of the answer's probability, %", xlim=(-100, 5))
axes.set_yticks(range(len(tasks)), tasks)
axes.invert_yaxis()
_ = axes.legend([sealed, random], ["items sealed", "random cuts"], frameon=False, loc="upper left")

# %% [markdown]
# Of the black bars hardly more than a mark at 0 is to be seen. The cut is no small one, though. A random cut of as
# many pairs, in the same layers, does great harm (hatched). *Which* pairs are cut is what counts.
#
# Even "do two items speak the same digit" needs no item to see another: they are compared where both are read, in
# the text. And "which item" needs no counting from item to item: the *positions* of tokens can tell the order.
#
# So the answer, for this model and these questions: **parallel streams**. The items look at each other, something
# does arrive (the leak curve above), and these answers can do without it.
#
# ### Exercise 3: when is it which?
#
# Write the rule down. `streams` gets three shares of right answers: clean, with the items sealed, and with random cuts
# of that size. It returns `"parallel"`, `"sequential"` or `"cannot say"`.
#
# <details><summary>Hint</summary>
#
# First ask: did the cut of the items do harm (say, more than 10 points)? The control matters only if it did.
# </details>


# %% tags=["exercise"]
def streams(clean, cut, random):
    return ...


av.checks.interleaved_items.streams(streams)


# %% tags=["solution"] jupyter={"source_hidden": true}
def streams(clean, cut, random):
    if clean - cut < 0.1:
        return "parallel"
    return "sequential" if random - cut > 0.1 else "cannot say"


av.checks.interleaved_items.streams(streams)

# %% [markdown]
# **What this does not show.** That items are not needed by *each other* is said of these questions. "Does the second
# clip go on where the first one stopped?" may be another matter. Nor does it say that the model would do as well
# had it *never* been able to look across. And eight questions a bar are few: the study of this package
# (`av.run_study`) asks two hundred, and gives intervals.
#
# ## What to try on a real model
#
# ```python
# clips = [av.Clip.from_file(name) for name in ("kitchen.mp4", "street.mp4", "garden.mp4")]
# inputs = model.prepare(clips, question="Which sound do you hear in the second video?")
# inputs.spans  # item0, item1, item2, their streams, and the marks
# ```
#
# * Check the leak first: what stands between the items is not the same in each model family.
# * Ask what needs *one* item, what needs two, and what needs their order. Change the order of the clips: does the
#   answer follow?
# * It was published that Qwen2.5-Omni and video-SALMONN 2+ read several items in parallel. Does yours?
#
# **Next**: [06 · Discarding tokens](06_discarding_tokens.ipynb)
