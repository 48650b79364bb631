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
# # 11 · A data-set study: many questions, one table, and what may be said of it
#
# **You will learn**
#
# * to write a manifest, a file that says what is asked about which film;
# * to run an analysis over it that can be stopped, spread over processes, and joined to one table;
# * to count who is behind a curve, and who is not;
# * to read the verdicts of a study critically: few samples, random controls, intervals.
#
# **Takes** 30 minutes. tiny-av, no download, no GPU. Tutorial 03 says what an attention knockout is.
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

import hooked_av as av

# %%
model = av.HookedAVTransformer.from_pretrained("tiny-av")
folder = Path(tempfile.mkdtemp())  # everything that is written here goes into a temporary folder

# %% [markdown]
# ## A manifest
#
# One prompt shows that something *can* happen. To say what a model *does*, ask many. A **manifest** lists them: one
# question a line, with its film and its right answer. Here are 14 films of digits with a question each, seven about the
# sound and seven about the picture.

# %%
samples = av.tiny.draw_samples("auditory", 7) + av.tiny.draw_samples("visual", 7)
rows = []
for n, sample in enumerate(samples):
    sample.clip.save(folder / f"film{n}.mp4")
    about = {"question": sample.question, "answer": sample.answer, "task": sample.task}
    rows.append({"id": f"q{n}", "media": f"film{n}.mp4", **about})
print(json.dumps(rows[0]))

# %% [markdown]
# Real data are never clean. So three things go wrong here, as they do: a download broke off, somebody wrote a whole
# sentence where one word belongs, and somebody wrote down the wrong digit.

# %%
(folder / "film2.mp4").write_bytes(b"half of a download")
rows[9]["answer"] = "I think that it is a three"
rows[5]["answer"] = samples[5].alternative

manifest = folder / "manifest.jsonl"
manifest.write_text("\n".join(map(json.dumps, rows)))
questions = av.datasets.read_manifest(manifest)
questions[:2]

# %% [markdown]
# Nobody has complained yet. `read_manifest` checks everything that can be seen *without* opening a film or asking a
# model: names of fields, ids that stand twice, lists of options. Such a fault refuses the whole file, before hours of
# work have gone into it:

# %%
(folder / "misspelt.jsonl").write_text(json.dumps({**rows[0], "anwser": "two"}))
try:
    av.datasets.read_manifest(folder / "misspelt.jsonl")
except av.errors.DatasetError as error:
    print(str(error).replace(str(folder), "..."))

# %% [markdown]
# A line becomes a prompt by `prepare`. Look at one before you run hundreds. Is the film there, is the sound there, is
# the question where it should be?

# %%
questions[0].prepare(model).inputs

# %%
film = str(av.sample_clips()["four-seconds"].path)  # paths are relative to the manifest; this one is absolute

# %% [markdown]
# ### Exercise 1: a line of your own
#
# The film `four-seconds` shows 9, 6, 0, 8, a digit a second. Write the line (a Python dict) that shows the model **only
# its last two seconds**, and asks `"Which digit is shown second?"`. Give the right answer, too: as a word.
#
# <details><summary>Hint</summary>
#
# `media` may be a file, or a list of `{"file": ..., "start": ..., "stop": ...}` with seconds. An `id` is needed.
# </details>

# %% tags=["exercise"]
line = ...
av.checks.data_set_study.line(line, film)

# %% tags=["solution"] jupyter={"source_hidden": true}
part = {"file": film, "start": 2, "stop": 4}
line = {"id": "mine", "media": [part], "question": "Which digit is shown second?", "answer": "eight"}
av.checks.data_set_study.line(line, film)

# %% [markdown]
# ## Run it, stop it, go on
#
# `run_dataset` runs an analysis on every line. Here that is `"flow"`: each pathway is cut, in a window of layers, and
# beside each cut stands a random cut of the same size. On a large model that takes hours, and something stops it: a
# time limit, a full disk, you.
#
# A run can also be shared. `shard="1/2"` takes the first, third, fifth ... line, `"2/2"` the others; both write into
# one folder. We give the second half to a process of its own. It is the command that you would type into a shell, on
# this machine or on another that sees the folder.

# %%
out = folder / "flow"
cuts = [f"{keys}->{queries}" for queries in ("question", "last") for keys in ("audio", "video")]
asked = ["--manifest", str(manifest), "--out", str(out), "--shard", "2/2"]
asked += ["--window", "3", "--controls", "1:rows"]
asked += [word for cut in cuts for word in ("--pathway", cut)]
command = [sys.executable, "-m", "hooked_av", "flow", *asked]  # in a shell: hooked-av flow --manifest ...
other = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

# %% [markdown]
# It works while we go on here with the first half. Something presses the stop button for us: when a fourth film is
# heard, after three results.
#
# **Predict, then run.** Seven lines are ours. The run is stopped after about three, in the middle of the next. Then the
# same call is made again. How many samples does the second call run: all seven, or what is left? And what becomes of
# the one that was half done?


# %%
def press_stop(*_: object) -> None:
    if len([*out.glob("samples/0*.parquet")]) >= 3:
        raise KeyboardInterrupt  # what the stop button of a notebook does, or Ctrl-C


button = model.encoders["audio_tower"].register_forward_pre_hook(press_stop)

# %%
how = {"out": out, "window": 3, "controls": av.Controls(1, "rows"), "pathways": cuts, "shard": "1/2"}
try:
    av.run_dataset(model, manifest, "flow", **how)
except KeyboardInterrupt:
    print("stopped; finished are:", *sorted(path.name for path in out.glob("samples/0*.parquet")))
button.remove()

# %%
run = av.run_dataset(model, manifest, "flow", **how)
print(run)

# %% [markdown]
# Every finished sample is a file of its own, which appears whole or not at all. So the second call runs what is left;
# the sample that was half done is begun anew. You need not remember where it stopped: **the same call, again**.
#
# *The same* is meant strictly. The folder keeps what it was begun with, and takes nothing else:

# %%
try:
    av.run_dataset(model, manifest, "flow", **{**how, "window": 5})
except av.errors.DatasetError as error:
    print(str(error).replace(str(folder), "..."))

# %% [markdown]
# Now the other process. Its exit code is 3: it came to its end, and samples have failed (0 would be: all well). A
# script can ask for that.

# %%
said = other.communicate()[0]
print(said.strip().splitlines()[-1].replace(str(folder), "..."), "| exit code", other.returncode)

# %% [markdown]
# `merge` joins everything to one table, and lists who failed beside it. A failed sample is counted and named, and the
# others are not to blame.

# %%
merged = av.datasets.merge(out)
for row in pd.read_csv(merged.with_name("failed.csv")).itertuples():
    print(f"{row.sample} ({row.task}), {row.kind}: {row.reason.splitlines()[0].replace(str(folder), '...')}")

# %% [markdown]
# The table has a row for each sample, pathway and layer. `read_flow` makes a map of it again: that of all samples, with
# intervals over samples, and with the random cuts in grey.

# %%
av.datasets.read_flow(merged)

# %% [markdown]
# ## Who is behind a curve?
#
# This figure mixes questions about the sound with questions about the picture. In the mean, either way seems to carry
# *some* of the answer. Is that so in any single sample?
#
# **Predict, then run.** What will the four curves look like for the questions about the sound alone?

# %%
av.datasets.read_flow(merged, where={"task": "auditory"})

# %%
av.datasets.read_flow(merged, where={"task": "visual"})

# %% [markdown]
# Look at the grey curves, too, those of the random cuts. One can fall *further* than the cut that it stands beside, as
# in the first layers of `audio → last`. How can that be? With `"rows"` the random cut takes from the *same row*, the
# last position, as many keys as there are sound tokens. That is most of what this row can read, the question with it.
# So the grey curve says: "losing so much is fatal here, unless you lose the right tokens". Ask of every control what it
# takes.
#
# And no sample behaved like the first figure, the one of all of them. A mean over a mixture describes nobody in it, and
# an interval around that mean does not warn you. So give your lines a `task` or a `group`, and look at each.
#
# Look also at how many samples a figure says that it has. You asked 14 questions.
#
# ### Exercise 2: who is missing?
#
# Which questions are **not** behind the first figure, `av.datasets.read_flow(merged)`? Find their ids, as a set such as
# `{"q1", "q2"}`.
#
# <details><summary>Hint 1</summary>
#
# There are two reasons to be left out. One is in failed.csv. The other: where a right answer is known, only samples
# that the model answers rightly are used. (`only_correct=False` takes all.)
# </details>
# <details><summary>Hint 2</summary>
#
# `table = pd.read_parquet(merged)` has the columns `sample` and `base_is_right`: 1 or 0, or NaN where no right answer
# is known.
# </details>

# %% tags=["exercise"]
missing = ...
av.checks.data_set_study.missing(missing, merged)

# %% tags=["solution"] jupyter={"source_hidden": true}
table = pd.read_parquet(merged)
shown = set(table[table.base_is_right == 1]["sample"])
missing = {row["id"] for row in rows} - shown
av.checks.data_set_study.missing(missing, merged)

# %% [markdown]
# Was the model wrong there, or the label? The table alone cannot tell. Here we know what is in the film:

# %%
table = pd.read_parquet(merged)
wrong = table[table.base_is_right == 0].drop_duplicates("sample")
for row in wrong.itertuples():
    truth = samples[int(row.sample[1:])]
    print(f"{row.sample}: {truth.question} Spoken: {truth.spoken}.")
    print(f"    The label says {row.gold}, the model {row.answer}.")

# %% [markdown]
# Leaving out wrong answers is usual, and it is a choice. What you say then holds for questions that this model answers
# rightly *by these labels*. If the model knows one kind of question better than another, the mix in the figure is no
# longer the mix that you asked. Report both numbers: asked, and used.
#
# ## A study, and what it refuses to say
#
# `run_study` asks four published findings of one model, on held-out questions of tiny-av's task: one command,
# `hooked-av study`, and the report is a page `report.html`. It is made like the run above: each family of questions is
# kept, and never run twice.
#
# Each claim gets one of three verdicts: *holds*, *does not hold*, *cannot be said*.
#
# **Predict, then run.** Here it asks eight questions (or one more, since scenes come whole), and tiny-av answers this
# kind of question well. What will it say?

# %%
study = av.run_study(model, ["auditory"], samples=8, out=folder / "study")
for one in study.summaries:
    print(f"{one.says:15} {one.claim}")
print("\nWhy:", study.statements[0].why)

# %% [markdown]
# It refuses, before it measures any route. Eight questions *can* be drawn as a figure, and the figure looks like any
# other. What each modality is worth, for the same few questions:

# %%
study.results[0].contribution

# %% [markdown]
# Look at how long the intervals are, and at bars without any. If all samples agree, the interval has no length. Does
# that mean that we know it for certain?
#
# ### Exercise 3: nothing seen is not nothing there
#
# You throw the video tokens away and ask `n` questions. Not one answer is lost. If the true loss were `p` percent, you
# would still see none in `n` questions with the probability `(1 - p/100) ** n`. That is below 5 % once `p` is larger
# than about `300 / n`: the **rule of three**. So after `n` questions without a loss, the loss may still be `300 / n`
# percent.
#
# The study calls a discard free only if the loss is **below 5 points** by the far end of this interval. How many
# questions must it ask at least?
#
# <details><summary>Hint</summary>
#
# The smallest whole `n` with `300 / n < 5`. "Below" is meant strictly.
# </details>

# %% tags=["exercise"]
n_needed = ...
av.checks.data_set_study.n_needed(n_needed)

# %% tags=["solution"] jupyter={"source_hidden": true}
n_needed = 300 // 5 + 1
av.checks.data_set_study.n_needed(n_needed)

# %% [markdown]
# ## What a verdict rests on
#
# Now with enough questions, and one claim only: *the answer needs this route*. Each route is cut in **all** layers at
# once (`window="all"`), beside a random cut of as many pairs of tokens, anywhere in the prompt.
#
# The random cut is there because a cut does two things. It takes away *this route*, and it takes away *a lot of
# attention*. A large model that loses a third of its attention may well change its answer, wherever the third was.

# %%
cases = av.tiny.held_out_cases(model, "auditory", 32)
routes = ["audio->question", "audio->last", "video->last", "question->last"]
flow = av.information_flow(model, cases, pathways=routes, window="all")
table = flow.summary().set_index("pathway")[["change_percent", "control_percent"]]
axes = table.plot(kind="barh", color=["0.2", "0.75"], figsize=(6, 2.5), xlim=(-105, 30))
axes.invert_yaxis()
axes.set(xlabel="change of the answer's probability, percent", ylabel="")
_ = axes.legend(["this cut", "random cut of its size"])
# %% [markdown]
# Look at the distance between a cut and the random cut beside it. A random cut that stays near 0 says: the *size* of
# the cut does nothing here. Where both move, the size may be to blame.
#
# How sure is such a mean? Here is the same route, by the first 4, 8, 16 and all samples. What is drawn is the
# **difference** of cut and random cut, sample by sample.

# %%
beyond = (flow.changes - flow.control_changes.mean(axis=1))[:, routes.index("question->last"), 0]
counts = [n for n in (4, 8, 16, len(beyond)) if n <= len(beyond)]
means = [beyond[:n].mean() for n in counts]
halves = [1.96 * beyond[:n].std(ddof=1) / n**0.5 for n in counts]
named = pd.Series(means, index=[f"{n} samples" for n in counts])
axes = named.plot(kind="barh", xerr=halves, color="0.75", figsize=(6, 2), capsize=3)
axes.axvline(-10, color="black", linestyle="--")
_ = axes.set(xlabel="question->last: change beyond a random cut (percent); dashed: -10", xlim=(-130, 60))
# %% [markdown]
# The interval shrinks with the square root of the number of samples: four times as many make it half as long. And with
# few samples the *mean* wanders, too.
#
# ### Exercise 4: the rule itself
#
# Write `verdict(change, control)`. Both are arrays with a number for each sample: what the cut did to the probability
# of the answer, and what its random cut did to the same sample, in percent. It returns one of three texts:
#
# * `"cannot be said"` for fewer than 30 samples;
# * `"holds"` (the route is needed) if the mean difference is at -10 or below, and its 95 % interval lies below 0;
# * `"does not hold"` if the whole interval lies above -10;
# * `"cannot be said"` otherwise.
#
# <details><summary>Hint 1</summary>
#
# Take the difference first, sample by sample; then its mean, and an interval of `mean ± 1.96 * std / n ** 0.5`.
# </details>
# <details><summary>Hint 2</summary>
#
# A difference that is surely not 0 may still be small: -3 with an interval from -4 to -2 does *not* hold.
# </details>

# %% tags=["exercise"]
verdict = ...  # def verdict(change, control): ...
av.checks.data_set_study.verdict(verdict)


# %% tags=["solution"] jupyter={"source_hidden": true}
def verdict(change, control):
    beyond = change - control
    mean, half = beyond.mean(), 1.96 * beyond.std(ddof=1) / len(beyond) ** 0.5
    if len(beyond) < 30 or (mean > -10 >= mean - half) or (mean <= -10 and mean + half >= 0):
        return "cannot be said"
    return "holds" if mean <= -10 else "does not hold"


av.checks.data_set_study.verdict(verdict)

# %% [markdown]
# And what it says of the four routes above:

# %%
for place, route in enumerate(routes):
    change, control = flow.changes[:, place, 0], flow.control_changes.mean(axis=1)[:, place, 0]
    numbers = f"cut {change.mean():6.1f} %, random {control.mean():6.1f} %"
    print(f"{route:16} {numbers}: needed? {verdict(change, control)}")

# %% [markdown]
# ### What no verdict says
#
# Read the [rules](../docs/study.md#the-rules) and the report on tiny-av there with these questions in mind.
#
# * **Not needed is not unused.** If the answer goes by two ways, each of them enough, no cut of one shows anything. The
#   study therefore also keeps *one way alone*, and says "cannot be said" where two of them are enough.
# * **Each interval is that of one claim.** A report has a hundred claims. Of a hundred intervals of 95 %, about five
#   miss. So one odd verdict in one family is a reason to ask again, with another `seed`, not a finding.
# * **The margins are choices.** Needed from 10 % on, enough from 90 % on. Look at the numbers beside a verdict: one at
#   -11 and one at -90 both "hold".
# * **The samples decide for what it holds.** Right answers, of one task, in one wording, of one model. It says nothing
#   of another model: run it on each.
# * **The random cut is one kind of control.** `Controls(draws, "entries")` draws anywhere in the prompt; `"rows"`
#   leaves each query as many keys as the cut does. They answer different questions. Say which you took.
#
# ## What to try on a real model
#
# ```
# hooked-av flow --model Qwen/Qwen2.5-Omni-3B --manifest questions.jsonl --out flow --shard 1/8
# hooked-av merge flow
# ```
#
# Write fifty questions about your own films, in two tasks: what is heard, what is seen. Put both tasks into one figure,
# and then each into its own. How many does the model answer rightly, and which does it lose? Start with `--max-pixels
# 50000`: tutorial 10 says what a clip costs. Under a scheduler that numbers its tasks: `--shard
# $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT`. [Datasets](../docs/datasets.md) has the rest.
#
# **Next**: [00 · Quickstart](00_quickstart.ipynb), if you came here first; else your own data.
