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
# # 08 · Probes and steering: what is known, and what is used
#
# **You will learn**
#
# * to turn labelled clips into a table: rows of activations, and a label for each;
# * to fit a linear probe, and to test it on clips that it cannot have learned by heart;
# * a control that shows how much a probe learns by heart, and how a test can leak;
# * to make a steering vector, and to add it to the rows of a word;
# * to ask whether steering follows the probe.
#
# **Takes** 35 minutes. You need [01 · Hooks and spans](01_hooks_and_spans.ipynb).
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import matplotlib.pyplot as plt
import torch

import hooked_av as av

model = av.HookedAVTransformer.from_pretrained("tiny-av")
digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
layers = range(model.cfg.n_layers)

# %% [markdown]
# ## Rows with labels
#
# A probe needs many examples, and for each of them the truth. `draw_samples` makes clips of which everything is known:
# what is shown and what is spoken in each second. There are two kinds: `"train"` is made of pictures and recordings
# that the model was trained on, `"held_out"` of others. No recording is in both (the speakers are the same).

# %%
train = av.tiny.draw_samples("auditory", 48, split="train")
test = av.tiny.draw_samples("auditory", 32, split="held_out")
print(train[0].question, "->", train[0].answer)
print("spoken:", train[0].spoken, " shown:", train[0].shown)
train[0].prepare(model).inputs

# %% [markdown]
# We run all clips as one batch, and keep the rows of sound. Clips last two to four seconds, so prompts have more or
# fewer of these rows. `cache.rows` puts them all into one table: `activations` [row, d_model], and for each row, which
# `sample` it is of and at which `position` of the (padded) prompt it stands.


# %%
def run(samples):
    batch = model.batch([sample.prepare(model).inputs for sample in samples])
    _, cache = model.run_with_cache(batch, names_filter="blocks.*.hook_resid_post@audio")
    tables = [cache.rows(f"blocks.{layer}.hook_resid_post", "audio") for layer in layers]
    return batch, tables[0], torch.stack([table.activations for table in tables])


batch, table, train_rows = run(train)
test_batch, test_table, test_rows = run(test)
print("[layer, row, d_model]:", list(train_rows.shape), list(test_rows.shape))

# %% [markdown]
# ### Exercise 1: the labels
#
# Write a function that gives the digit that is **spoken** at each row, as a list of whole numbers.
#
# <details><summary>Hint 1</summary>
#
# `batch.row_spans[n].places.seconds[p, 0]` is when the token at position `p` of prompt `n` begins, in seconds.
# </details>
# <details><summary>Hint 2</summary>
#
# `samples[n].spoken[2]` is the digit of the third second.
# </details>


# %% tags=["exercise"]
def labels_of(table, batch, samples):
    return ...


av.checks.probes.labels_of_rows(labels_of, test_table, test_batch, test)


# %% tags=["solution"] jupyter={"source_hidden": true}
def labels_of(table, batch, samples):
    labels = []
    for n, p in zip(table.sample.tolist(), table.position.tolist(), strict=True):
        second = int(batch.row_spans[n].places.seconds[p, 0])
        labels.append(samples[n].spoken[second])
    return labels


av.checks.probes.labels_of_rows(labels_of, test_table, test_batch, test)

# %% [markdown]
# The residual stream has 128 numbers a row; we can draw two. Principal components are the directions in which rows
# differ most. Each mark is one row of sound, drawn as its digit.

# %%
train_labels = torch.tensor(labels_of(table, batch, train))
test_labels = torch.tensor(labels_of(test_table, test_batch, test))
centred = train_rows[2] - train_rows[2].mean(dim=0)
plane = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
plt.figure(figsize=(6, 4))
for (x, y), digit in list(zip(plane.tolist(), train_labels.tolist(), strict=True))[::12]:
    plt.text(x, y, digit, fontsize=9)
plt.axis([*plane[:, 0].aminmax(), *plane[:, 1].aminmax()])
plt.show()

# %% [markdown]
# Some digits lie apart, others share a place. That is no proof that those cannot be told apart, there are 126 numbers
# more. A picture of two components is a beginning, not a test.

# %% [markdown]
# ## A probe
#
# A linear probe is ten directions and ten thresholds. For each row it says the digit whose direction fits best. We fit
# it by least squares, to targets 1 (this digit) and 0 (another one); `ridge` keeps weights small. Rows are first
# brought to one length, as the model's own norms do.


# %%
def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True) * rows.shape[-1] ** 0.5


def fit(rows, labels, ridge=0.01):
    x = torch.nn.functional.pad(unit(rows), (0, 1), value=1.0)  # a last column of ones: the thresholds
    y = torch.nn.functional.one_hot(labels, 10).float()
    return torch.linalg.solve(x.T @ x + ridge * len(x) * torch.eye(x.shape[1]), x.T @ y)


# %%
def share_right(probe, rows, labels):
    said = (unit(rows) @ probe[:-1] + probe[-1]).argmax(dim=-1)
    return (said == labels).float().mean().item()


probes = [fit(train_rows[layer], train_labels) for layer in layers]
known = [share_right(probes[layer], test_rows[layer], test_labels) for layer in layers]

# %% [markdown]
# **Predict, then run.** In tutorial 01 the last position has read the sound by the middle of the model. What does the
# probe do *after* that: does the digit fade from the rows of sound, now that nobody needs it?

# %%
own = [share_right(probes[layer], train_rows[layer], train_labels) for layer in layers]
plt.figure(figsize=(6, 2.6))
plt.plot(layers, own, "k:s", mfc="white", label="rows that it was fitted on")
plt.plot(layers, known, "k-o", label="held-out recordings")
plt.ylim(0, 1.05)
plt.xlabel("after layer")
plt.ylabel("share of rows right")
plt.legend(loc="lower right")
plt.show()

# %% [markdown]
# Nothing fades. The residual stream is a sum, and no layer here takes away what is there. Keep that picture: high and
# flat.

# %% [markdown]
# ## How much of that is the probe?
#
# A probe has weights of its own. With enough of them it can learn *anything* by heart. The control (Hewitt and Liang,
# 2019): give it labels that mean nothing, and see how far it gets.
#
# How should labels be shuffled? The 25 rows of one spoken word are near copies of each other. If every *row* gets a
# random label, copies contradict each other, and nothing can be learned. That control is too easy to beat. So a
# **word** must keep one label for all of its rows, and words change their labels among each other.
#
# So we need the number of the word of each row:

# %%
places = zip(table.sample.tolist(), table.position.tolist(), strict=True)
seconds = torch.tensor([int(batch.row_spans[n].places.seconds[p, 0]) for n, p in places])
_, words = (table.sample * 10 + seconds).unique(return_inverse=True)
print(len(words), "rows of", int(words.max()) + 1, "spoken words")

# %% [markdown]
# ### Exercise 2: shuffled labels
#
# `words` has the number of the word of each row. Write a function that gives labels, one a row: the same for all rows
# of a word, and the words' labels in random order.
#
# <details><summary>Hint 1</summary>
#
# Rows of word number `k` are `labels[words == k]`; they are all alike, so the first is enough: make a list of one label
# a word, then shuffle it with `torch.randperm(n, generator=torch.Generator().manual_seed(seed))`.
# </details>
# <details><summary>Hint 2</summary>
#
# If `shuffled` has one label a word, `shuffled[words]` has one a row.
# </details>


# %% tags=["exercise"]
def shuffled(labels, words, seed):
    return ...


av.checks.probes.shuffled_words(shuffled, train_labels, words)


# %% tags=["solution"] jupyter={"source_hidden": true}
def shuffled(labels, words, seed):
    of_words = torch.stack([labels[words == word][0] for word in range(int(words.max()) + 1)])
    order = torch.randperm(len(of_words), generator=torch.Generator().manual_seed(seed))
    return of_words[order][words]


av.checks.probes.shuffled_words(shuffled, train_labels, words)

# %% [markdown]
# **Predict, then run.** Labels mean nothing now, chance is about 10 %. We fit a probe on a random half of the *rows*.
# How good is it
#
# * on the rows that it was fitted on?
# * on the *other half* of the rows, which it never saw?
# * on held-out clips?

# %%
nonsense = shuffled(train_labels, words, seed=0)
half = torch.rand(len(words), generator=torch.Generator().manual_seed(1)) < 0.5
learned = [fit(rows[half], nonsense[half]) for rows in train_rows]
tests = {
    "rows that it was fitted on": (train_rows[:, half], nonsense[half]),
    "other rows, of the same words": (train_rows[:, ~half], nonsense[~half]),
    "held-out clips": (test_rows, test_labels),
}

# %%
plt.figure(figsize=(5, 2.8))
for (name, (rows, labels)), look in zip(tests.items(), ["k:s", "k--^", "k-o"], strict=True):
    curve = [share_right(learned[layer], rows[layer], labels) for layer in layers]
    plt.plot(layers, curve, look, mfc="white", label=name)
plt.axhline(0.1, color="silver")
plt.ylim(0, 1.05)
plt.xlabel("after layer")
plt.ylabel("share of rows right")
plt.legend(title="fitted to labels that mean nothing", loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The middle curve is the one to remember. Half of the rows were *never seen*, the labels are *nonsense*, and the probe
# is far above chance. A split by rows leaks: each row has near copies on the other side. **Split by clips, and better
# by recordings or speakers.** On held-out clips nonsense is worth nothing, as it should be.
#
# Against that the probe of true labels stands well: close to 1 where nonsense is at chance. The digit is there, and a
# linear reader finds it.
#
# What a probe does *not* show: that the model reads it. Let us write instead.

# %% [markdown]
# ## A steering vector
#
# If a direction means "six", then adding more of it should make a word more "six". The simplest recipe: the mean of the
# rows of one digit, minus the mean of the rows of the other.
#
# ### Exercise 3: from one digit to another
#
# Write a function that gives the vector that leads from the digit `here` to the digit `there`.
#
# <details><summary>Hint</summary>
#
# `rows[labels == there].mean(dim=0)` is where the digit `there` is. A vector leads *from* here *to* there.
# </details>


# %% tags=["exercise"]
def steering(rows, labels, here, there):
    return ...


av.checks.probes.steering_vector(steering)


# %% tags=["solution"] jupyter={"source_hidden": true}
def steering(rows, labels, here, there):
    return rows[labels == there].mean(dim=0) - rows[labels == here].mean(dim=0)


av.checks.probes.steering_vector(steering)

# %% [markdown]
# In the clip of tutorial 01, "six" is spoken second. We lead it to "nine", after layer 1, with more and more of the
# vector. `av.add_vector` adds it to each row of a span.

# %%
clip = av.sample_clips()["four-is-spoken-twice"].clip
inputs = model.prepare(clip, question="Which digit is spoken second?")
inputs = inputs.with_span("word", inputs.spans.between(1, 2) & inputs.spans["audio"])
vector = steering(train_rows[1], train_labels, here=6, there=9)
scales, probabilities = torch.linspace(0, 2, 11), []
for scale in scales.tolist():
    edit = av.add_vector("blocks.1.hook_resid_post", "word", vector, scale=scale)
    logits = model(inputs, logits_at="last", interventions=edit)
    probabilities.append(logits[0, -1].detach().softmax(dim=-1))

# %%
plt.figure(figsize=(6, 2.6))
for digit, look in (("six", "k-o"), ("nine", "k:s")):
    token = model.to_single_token(digit)
    plt.plot(scales, [p[token] for p in probabilities], look, mfc="white", label=digit)
plt.xlabel("scale of the vector, six → nine")
plt.ylabel("probability of the answer")
plt.legend()
plt.show()

# %% [markdown]
# Scale 1 is the whole way from one mean to the other. Somewhere on it the answer turns. The vector was made of *other*
# clips and *other* voices than this one: what it carries is the digit.

# %% [markdown]
# ## Does steering follow the probe?
#
# Now over layers, over 24 held-out clips, and with three vectors **of the same length**:
#
# * `means`: the difference of means, from above;
# * `probe`: the difference of the probe's own directions, "more nine, less six";
# * `random`: a random direction, the control.
#
# In each clip the word that is asked about is led three digits further (six to nine, eight to one). We count answers
# that follow.

# %%
asked = [s for s in test if s.spoken.count(digits.index(s.answer)) == 1][:24]
here = [digits.index(sample.answer) for sample in asked]
there = [(digit + 3) % 10 for digit in here]
prompts = []
for sample, digit in zip(asked, here, strict=True):
    prompt, at = sample.prepare(model).inputs, sample.spoken.index(digit)
    prompts.append(prompt.with_span("word", prompt.spans.between(at, at + 1) & prompt.spans["audio"]))
steered_batch, n_rows = model.batch(prompts), len(prompts[0].spans["word"])


# %%
def vectors(layer):
    pairs, rows = list(zip(here, there, strict=True)), train_rows[layer]
    means = torch.stack([steering(rows, train_labels, one, other) for one, other in pairs])
    probe = torch.stack([probes[layer][:-1, other] - probes[layer][:-1, one] for one, other in pairs])
    random = torch.randn(means.shape, generator=torch.Generator().manual_seed(layer))
    length = means.norm(dim=-1, keepdim=True)
    longer = [v / v.norm(dim=-1, keepdim=True) * length for v in (means, probe, random)]
    return dict(zip(("means", "probe", "random"), longer, strict=True))


# %%
def share_that_follows(layer, vector):
    added = vector[:, None].expand(-1, n_rows, -1)  # [batch, span, d_model]: another vector for each prompt
    edit = av.add_vector(f"blocks.{layer}.hook_resid_post", "word", added)
    with torch.no_grad():
        logits = model(steered_batch, logits_at="last", interventions=edit)[:, -1]
    goal = torch.tensor([model.to_single_token(digits[digit]) for digit in there])
    return (logits.argmax(dim=-1) == goal).float().mean().item()


# %% [markdown]
# **Predict, then run.** The probe's curve is high and flat. Draw the three curves of steering, before you look.

# %%
found = [{name: share_that_follows(layer, v) for name, v in vectors(layer).items()} for layer in layers]
plt.figure(figsize=(7, 3))
plt.plot(layers, known, color="darkgrey", lw=5, label="the probe reads it")
for name, look in (("means", "k-o"), ("probe", "k--^"), ("random", "k:x")):
    plt.plot(layers, [one[name] for one in found], look, mfc="white", label=f"steered by {name}")
plt.xlabel("after layer")
plt.ylabel("share of rows, or of clips")
plt.legend(loc="center right")
plt.show()

# %%
moved = [one["means"] for one in found]
moved

# %% [markdown]
# ### Exercise 4: where they part
#
# From which layer on does the probe read nine digits of ten or more, while steering by means moves at most one answer
# of ten? Take the number from the figure, or from `known` and `moved`.
#
# <details><summary>Hint</summary>
#
# `known[4]`, `moved[4]`: go through the layers until both are true.
# </details>

# %% tags=["exercise"]
layer = ...
av.checks.probes.where_they_part(layer, known, moved)

# %% tags=["solution"] jupyter={"source_hidden": true}
layer = next(layer for layer in layers if known[layer] >= 0.9 and moved[layer] <= 0.1)
av.checks.probes.where_they_part(layer, known, moved)

# %% [markdown]
# Three things to take home.
#
# * **Known is not used.** From that layer on, the rows of sound still hold the digit, for a reader that nobody is. The
#   last position has read them before: a change comes too late. The probe alone could not tell you.
# * **The probe's direction is not the best lever.** It is as long as the other, and moves less. It was fitted to tell
#   digits *apart*: it trusts numbers that are reliable, even if they are small. What moves the model is what its next
#   layers read.
# * **Length matters as a control.** A random vector as long moves next to nothing here. A much longer one breaks the
#   model, and "the answer changed" would then say nothing; count answers that go where you led them.
#
# And what steering does not show: that the model itself goes this way. We put rows where no clip would put them.

# %% [markdown]
# ## What to try on a real model
#
# ```python
# model = av.HookedAVTransformer.from_pretrained("Qwen/Qwen2.5-Omni-3B", device="cuda", dtype=torch.bfloat16)
# ```
#
# * Take something simple with many labelled clips (speech or music; a man's or a woman's voice). Split by recording.
# * Cache one span (`"blocks.*.hook_resid_post@audio"`), a few clips a batch, and keep one mean row a clip.
# * First the shuffled control, then the probe. Then steer, over layers. Where do the two curves part?
# * `model.generate(inputs, interventions=av.add_vector(...))` steers a whole answer.
#
# **Next**: [09 · Your own analysis](09_your_own_analysis.ipynb)
