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
# # 09 · Your own analysis: a result type, a figure, a data set
#
# **You will learn**
#
# * to write a result type that has a table, a file and a figure like those of the package;
# * to write an analysis that runs over a data set, stops at any time, and goes on where it stopped;
# * to test a new method on samples whose answer is known, and to find where it says nothing.
#
# **Takes** 25 minutes. You know cuts (tutorials 00 and 03). The model is `tiny-av`; no download, no GPU.
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

# %%
import hooked_av as av

model = av.HookedAVTransformer.from_pretrained("tiny-av")
films = av.sample_clips()

# %% [markdown]
# ## A question that no function answers
#
# *Which second of the film does the answer need?* There is no function for it. But the pieces are there: a span can
# be any set of tokens, and a cut can name any span. So give every second of the sound, and of the picture, a name.

# %%
MEDIA = ("audio", "video")


# %%
def with_seconds(inputs):
    """The prompt with spans audio_0, audio_1, ..., video_0, ...: the tokens that begin in each second."""
    begins = np.floor(inputs.spans.places.seconds[:, 0])
    for second in range(round(inputs.clips[0][0].duration_seconds)):
        moment = inputs.spans.resolve(np.flatnonzero(begins == second))
        for name in MEDIA:
            inputs = inputs.with_span(f"{name}_{second}", inputs.spans[name] & moment)
    return inputs


# %% [markdown]
# **Predict, then run.** Four seconds, eight cuts. We cut what the *last* position may read, in every layer. Which bar
# moves?

# %%
film = films["four-is-spoken-twice"].clip
inputs = with_seconds(model.prepare(film, question="Which digit is spoken second?"))
cuts = [f"{name}_{second}->last" for name in MEDIA for second in range(4)]
av.route_sweep(model, inputs, cuts, metric="log_prob")

# %% [markdown]
# It works, for one prompt. Now we want it for many, with a table and a figure in which time is an axis, and saved so
# that the numbers can be drawn again without the model. That takes a *type*.
#
# ## A result type
#
# A result is a frozen dataclass that derives from `av.analyses.Result`. You say what the axes of each array are called
# (`axes`), and which field holds the names of the places along an axis (`labels`; without one they count from 0).


# %%
# eq=False: arrays cannot be compared with one ==
@dataclass(frozen=True, eq=False, kw_only=True)
class SecondsNeeded(av.analyses.Result):
    axes: ClassVar = {"drops": ("modality", "second")}
    labels: ClassVar = {"modality": "modalities"}
    drops: np.ndarray  # log probability that the right answer loses
    modalities: tuple[str, ...]
    answer: str


# %% [markdown]
# That is all that it needs. A made-up result shows what you have got:

# %%
made_up = SecondsNeeded(drops=np.array([[0.0, 9.5], [0.1, 0.0]]), modalities=MEDIA, answer="six")
made_up.to_frame()

# %%
path = made_up.save(Path(tempfile.mkdtemp()) / "made_up.safetensors")
again = SecondsNeeded.load(path)
again

# %% [markdown]
# `save` wrote one file with arrays and settings. And arrays that do not fit their axes are refused when the result is
# made, not when somebody reads the file a year later.
#
# The figure is a function that takes the result. It reads arrays only, and runs no model. (Make a `Figure` as here,
# not `plt.subplots()`: pyplot would show it a second time.)


# %%
def draw_seconds(found):
    figure = Figure(figsize=(2.2 + found.drops.shape[1], 2.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(found.drops, cmap="Greys", vmin=0, vmax=max(3.0, found.drops.max()), aspect="auto")
    for (row, second), drop in np.ndenumerate(found.drops):
        axes.text(second, row, f"{abs(drop):.1f}", ha="center", color="tab:orange", weight="bold")
    axes.set_yticks([0, 1], found.modalities)
    axes.set_xticks(range(found.drops.shape[1]))
    axes.set(xlabel="second that is cut", title=f"log probability that “{found.answer}” loses")
    return figure


# %% [markdown]
# In a file of your own you would write `figure: ClassVar = draw_seconds` into the class. Here the class is there
# already.

# %%
SecondsNeeded.figure = draw_seconds
again

# %% [markdown]
# ### Exercise 1: one more column
#
# Drops of two models are hard to compare. Write a subclass `WithShares` with a property `shares`: each drop as a
# share of the **sum of all drops**. It must stand in the table of `to_frame()`.
#
# <details><summary>Hint 1</summary>
#
# `@property` and `def shares(self): return ...` in a class that derives from `SecondsNeeded`. It has no new field, so
# it needs no `@dataclass`.
# </details>
# <details><summary>Hint 2</summary>
#
# A quantity is in the table if `axes` says which axes it has: `axes: ClassVar = {**SecondsNeeded.axes, "shares":
# ...}`.
# </details>

# %% tags=["exercise"]
WithShares = ...
av.checks.own_analysis.shares(WithShares)


# %% tags=["solution"] jupyter={"source_hidden": true}
class WithShares(SecondsNeeded):
    axes: ClassVar = {**SecondsNeeded.axes, "shares": ("modality", "second")}

    @property
    def shares(self):
        return self.drops / self.drops.sum()


av.checks.own_analysis.shares(WithShares)

# %% [markdown]
# ## The analysis is a function of a model and a case
#
# A **case** is a prompt with what is known of its answer: `case.inputs`, `case.answer`. A function that takes `(model,
# case)` and returns a result is all that the package asks of an analysis. `model.baseline` runs the prompt once, and
# every cut then costs only the rows that it can change. `run_settings` notes model, weights, precision and versions.


# %%
def seconds_needed(model, case, queries="last"):
    """What does the right answer lose when `queries` cannot read one second of sound, or of picture?"""
    inputs = with_seconds(case.inputs)
    cuts = [f"{name}->{queries}" for name in sorted(inputs.spans) if re.fullmatch(r"(audio|video)_\d", name)]
    baseline, token = model.baseline(inputs), model.to_single_token(case.answer)
    both = baseline.logits, baseline.logits_under(cuts)
    base, cut = (logits.log_softmax(-1)[..., token].numpy() for logits in both)
    more = {"answer": case.answer, "settings": av.analyses.results.run_settings(model, inputs, queries=queries)}
    return SecondsNeeded(drops=(base - cut).reshape(2, -1), modalities=MEDIA, **more)


# %% [markdown]
# **Predict, then run.** In this film *four, six, four, zero* are spoken, a digit a second. The question: "How often
# is four spoken?" Which seconds are needed? All four, to count? Or those with a four?

# %%
counting = av.Case(model.prepare(film, question="How often is four spoken?"), answer="two")
seconds_needed(model, counting)

# %% [markdown]
# Seconds are counted from 0. The method finds two places as easily as one, because every second is cut by itself.
# (What if one second could stand in for another? Then no single cut would move anything. Tutorial 02 has the word for
# it: *or*.)
#
# ## Does it show what it should?
#
# A new method is tested where the answer is known. The question with lettered options needs the same second of the
# same sound. **Predict, then run.** Will the figure be the same as that of the plain question?

# %%
options = ["three", "six", "nine"]
lettered = av.Case(model.prepare(film, question="Which digit is spoken second?", options=options), answer="B")
seconds_needed(model, lettered)

# %% [markdown]
# Nothing moves: by this figure the answer needs no second at all. But here the way goes through the rows of the
# options (tutorial 02), and we cut only what the *last* row reads. The zeros are true of `queries="last"`, and of
# nothing else. So the result's settings say which rows were cut (unfold them under the figure). Cut what all of the
# text reads:

# %%
seconds_needed(model, lettered, queries="text")

# %% [markdown]
# ## Over a data set
#
# The package comes with a manifest: a line for each question, with its film and its right answer. We take those that
# ask for *one* second, and write that second into the field `group`. Now we know what the method should find.


# %%
def asked_second(question):
    """Of "in second two" and of "spoken second": 1. None for questions about no single second."""
    found = re.search(r"in second (one|two|three|four)|(first|second|third|fourth)", question)
    words = ["first", "second", "third", "fourth", "one", "two", "three", "four"]
    return None if found is None else words.index(found[1] or found[2]) % 4


# %%
every = av.datasets.read_manifest(films["four-seconds"].path.parent / "manifest.jsonl")
plain = [sample for sample in every if sample.task in ("auditory", "visual") and not sample.options]
asked = {sample.id: asked_second(sample.question) for sample in plain}
samples = [replace(sample, group=str(asked[sample.id])) for sample in plain if asked[sample.id] is not None]
len(samples), samples[0]

# %% [markdown]
# `av.run_dataset` takes your function as it takes the names of the package's own analyses. It writes one small table a
# sample, each complete or not there at all. So a run can be stopped at any time, by whatever it is (`kill -9`, a full
# queue, a power cut). Here we do a third of the work and stop: shard "1/3" is every third sample.

# %%
out = Path(tempfile.mkdtemp())
run = av.run_dataset(model, samples, seconds_needed, out=out, shard="1/3")
print(run)

# %% [markdown]
# Now the same call for all of them: what is there is not run again. (Shards can also run at the same time, on several
# machines that see the same folder.)

# %%
run = av.run_dataset(model, samples, seconds_needed, out=out)
print(run)

# %% [markdown]
# A folder holds results of one kind. Other arguments, another model, other samples: refused, with the difference.

# %%
try:
    av.run_dataset(model, samples, seconds_needed, out=out, queries="text")
except av.HookedAVError as error:
    print(str(error).replace(str(out), "the folder"))

# %% [markdown]
# One thing it cannot see: it knows your function by its *name*, not by its code. After you change the code take
# another folder.
#
# And what is lost is made again:

# %%
for lost in sorted((out / "samples").glob("*.parquet"))[:2]:
    lost.unlink()

# %% [markdown]
# ### Exercise 2: what is run again?
#
# Before you run the next call: how many samples will be **new** (`run.n_new`)?
#
# <details><summary>Hint</summary>
#
# What is finished is what has a file in the folder `samples`. Nothing else is remembered.
# </details>

# %% tags=["exercise"]
n_new = ...
av.checks.own_analysis.n_new(n_new, out)

# %% tags=["solution"] jupyter={"source_hidden": true}
n_new = len(samples) - len(list((out / "samples").glob("*.parquet")))
av.checks.own_analysis.n_new(n_new, out)

# %% [markdown]
# `merge` joins all tables into one, in the order of the manifest. Your columns stand behind those that say what a
# sample is.

# %%
run = av.run_dataset(model, samples, seconds_needed, out=out)
print(run)
frame = pd.read_parquet(av.datasets.merge(out))
frame.head(4)

# %% [markdown]
# **Predict, then run.** Two kinds of question, two modalities, the asked second and all others: eight means. Which of
# them are not zero?

# %%
frame["place"] = np.where(frame.second == frame.group.astype(int), "the asked second", "another second")
means = frame.groupby(["task", "modality", "place"]).drops.mean().unstack()
means.plot.barh(color=["white", "black"], edgecolor="black", figsize=(6, 3))
plt.xlabel("log probability that the right answer loses (mean)")
plt.show()

# %% [markdown]
# A mean can hide a lot. How *often* does the method point at the asked second?
#
# ### Exercise 3: where each sample points
#
# Write `strongest(frame)`: a table with **one row a sample**, the one with the largest drop. The checker tries it on
# another table, with its rows in disorder.
#
# <details><summary>Hint</summary>
#
# `frame.groupby("sample").drops.idxmax()` gives the labels of those rows, `frame.loc[...]` the rows.
# </details>


# %% tags=["exercise"]
def strongest(frame):
    return ...


av.checks.own_analysis.strongest(strongest)


# %% tags=["solution"] jupyter={"source_hidden": true}
def strongest(frame):
    return frame.loc[frame.groupby("sample").drops.idxmax()]


av.checks.own_analysis.strongest(strongest)

# %%
found = strongest(frame)
heard = np.where(found.task == "auditory", "audio", "video")
hits = (found.modality == heard) & (found.second == found.group.astype(int))
print(f"{hits.sum()} of {len(hits)} samples point at the asked second, in the right modality")
found.sort_values("drops")[["sample", "gold", "modality", "second", "drops"]].head(3)

# %% [markdown]
# Now look at the samples at the top of this table, those with the *smallest* largest drop. If a sample answers
# rightly and needs no second at all, its hit is an accident. Does it need the film?

# %%
weakest = found.sort_values("drops").iloc[0]
sample = next(sample for sample in samples if sample.id == weakest["sample"])
swaps = av.media_swaps(model, sample.clips(), question=sample.question)
print(sample.question)
inputs = sample.prepare(model).inputs
print("the film:                ", model.generate(inputs).texts[0])
print("all media cut:           ", model.generate(inputs, interventions="audio|video->text|generated").texts[0])
print("silence and black frames:", model.generate(swaps["silence and black frames"]).texts[0])

# %% [markdown]
# If the second line says what the first one says, then this is what the model says when it can read *nothing*. No cut
# can take such an answer away, though the film may have been used. The third line is another kind of nothing, and can
# say something else. It is a limit of every method that waits for an answer to break: choose samples whose answer is
# not what a full cut says, and report how many you left out.
#
# ## What you have
#
# * a type with a table, a file and a figure, which does not need the model any more;
# * a function that runs over any manifest, in shards, and goes on where it stopped;
# * three checks of the method: it finds what is known; where the way is another it shows zeros; and an answer that a
#   full cut leaves as it is looks like "not needed".
#
# To offer it to others, put it into a module and import it: then the folder remembers `module.function`, and several
# processes can run it. "A new analysis" in `CONTRIBUTING.md` says how it becomes a part of the package, with a
# command of its own.
#
# ## What to try on a real model
#
# ```python
# model = av.HookedAVTransformer.from_pretrained("Qwen/Qwen2.5-Omni-3B", device="cuda", dtype=torch.bfloat16)
# run = av.run_dataset(model, "my_films/manifest.jsonl", seconds_needed, out="seconds", queries="text", progress=True)
# ```
#
# The answer must be one token: ask for one word, or give lettered options. Start with a film in which something
# happens once, at a time that you know. Does the darkest cell stand there? And how wide is it?
#
# **Next**: [10 · Real checkpoints](10_real_checkpoints.ipynb)
