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
# # 04 · Lenses: what would each layer say?
#
# **You will learn**
#
# * the logit lens, by hand and in one line, and what its rows are;
# * to follow some answers over the layers (answer trace), and to read media tokens (media lens);
# * why two papers can draw different lenses of the same model: conventions;
# * two ways in which a lens misleads: what it says need not be used, and what is used need not be said;
# * controls: random directions, and a cut.
#
# **Takes** 30 minutes. You need the names of [01 · Hooks and spans](01_hooks_and_spans.ipynb).
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import hooked_av as av

model = av.HookedAVTransformer.from_pretrained("tiny-av")
sample = av.sample_clips()["four-is-spoken-twice"]
inputs = model.prepare(sample.clip, question="Which digit is spoken second?")

# %% [markdown]
# In this clip "four", "six", "four" and "zero" are spoken, one digit in every second. The model answers "six".

# %% [markdown]
# ## Every layer, as if it were the last
#
# In the end, the model turns the residual stream of the last position into an answer. Two steps: the **final norm**
# (`model.ln_final`), then the **unembedding** (`model.unembed`), which gives one logit for each token of the
# vocabulary.
#
# All layers write into the same stream. So we can take those two steps after *any* layer, and see what would be said if
# the model stopped there. That is the logit lens (nostalgebraist, 2020).
#
# ### Exercise 1: a lens by hand
#
# Write a function of some rows of the residual stream, [..., d_model], that gives **probabilities**, [..., d_vocab].
#
# <details><summary>Hint</summary>
#
# Norm, unembedding, softmax over the vocabulary: the last axis.
# </details>


# %% tags=["exercise"]
def read(rows):
    return ...


av.checks.lenses.read_by_hand(read, model, inputs)


# %% tags=["solution"] jupyter={"source_hidden": true}
def read(rows):
    return model.unembed(model.ln_final(rows)).softmax(dim=-1)


av.checks.lenses.read_by_hand(read, model, inputs)

# %%
_, cache = model.run_with_cache(inputs, names_filter="blocks.*.hook_resid_post@last")
for layer in range(model.cfg.n_layers):
    best = read(cache["resid_post", layer, "last"])[0, 0].topk(3)
    said = [f"{model.to_string(token)} {p:.2f}" for p, token in zip(best.values, best.indices, strict=True)]
    print(layer, *said, sep="   ")

# %% [markdown]
# The same in one line, drawn:

# %%
av.logit_lens(model, inputs, at="last", top_k=3)

# %% [markdown]
# How to read it:
#
# * The top row *is* the model's answer. Nothing about it is a guess.
# * Every other row is a bet: that the layers above would leave this direction alone. For late layers it is a good bet.
# * In the lowest rows stand words that *could* answer some question: "yes", a letter, a digit. The model does not
#   "think yes". A row is never empty, some token is always the best. Look at the percentages before you look at the
#   words.

# %% [markdown]
# ## When does the answer win?
#
# The answer trace follows a few tokens that you name. "four" is spoken, too, but not second; "seven" is what is *shown*
# second; "nine" is nowhere in the clip.
#
# **Predict, then run.** Which of these three comes close to "six", and in which layers?

# %%
trace = av.answer_trace(model, inputs, ["six", "four", "seven", "nine"])
trace

# %% [markdown]
# The left side has probabilities, the right side ranks (1 is the best of all tokens). They tell different things: a
# digit can be among the first ten long before it has any probability worth the name. And a rank among the first ten
# is not much: ten digits are what this model is trained to say.
#
# The curve is steep here: the answer appears within a layer or two. From there on p is 1, and hides whatever the layers
# above still add. Where that matters, compare logits (`to_frame()` of a logit lens has them).

# %% [markdown]
# ## Conventions, side by side
#
# Published codes of "the logit lens" differ in three choices:
#
# | choice | here, if nothing is said | the other |
# |---|---|---|
# | is the final norm applied? | `final_norm` | `no_norm` |
# | which stream is layer 3's? | `layer_output` (it has left the layer) | `layer_input` (it enters it) |
# | which words? | `output_embedding` (the unembedding) | `input_embedding` (the token embeddings) |
#
# You say those that differ, joined by `+`: `convention="no_norm+layer_input"`. Every result and figure names its own.
#
# Here is a curve from somebody's paper: "the probability of the answer, by layer". The model and the prompt are ours,
# the convention is not told.

# %%
reported = av.checks.lenses.reported(model, inputs)
ours = av.answer_trace(model, inputs, ["six"]).probabilities[:, 0]
plt.figure(figsize=(7, 2.6))
plt.plot(ours, "k-o", label="ours: final_norm")
plt.plot(reported, "k:s", mfc="white", label="the paper's")
plt.xlabel("layer")
plt.ylabel("probability of “six”")
plt.legend()
plt.show()

# %% [markdown]
# ### Exercise 2: which convention was it?
#
# Write its name. Think first: what does each of the three choices do to the curve?
#
# <details><summary>Hint 1</summary>
#
# `layer_input` of layer 4 is `layer_output` of layer 3: the same numbers, one layer later.
# </details>
# <details><summary>Hint 2</summary>
#
# Without the norm rows are long, so logits are far apart and the softmax is nearly 0 or 1. `input_embedding` would
# not even say the answer in the last layer: try `av.answer_trace(model, inputs, ["six"],
# convention="input_embedding")`.
# </details>

# %% tags=["exercise"]
convention = ...
av.checks.lenses.which_convention(convention, reported, model, inputs)

# %% tags=["solution"] jupyter={"source_hidden": true}
convention = "no_norm+layer_input"
av.checks.lenses.which_convention(convention, reported, model, inputs)

# %% [markdown]
# Now all of them: the best token of every layer.

# %%
names = ["final_norm", "layer_input", "no_norm", "no_norm+layer_input", "input_embedding"]
lenses = {name: av.answer_trace(model, inputs, ["six"], convention=name) for name in names}
pd.DataFrame({name: lens.best_texts for name, lens in lenses.items()}).iloc[::-1]

# %%
plt.figure(figsize=(7, 2.8))
for name, look in zip(names, ["-o", "--s", ":^", "-.D", "-x"], strict=True):
    plt.plot(lenses[name].probabilities[:, 0], look, mfc="white", label=name, color="black", lw=1)
plt.xlabel("layer")
plt.ylabel("probability of “six”")
plt.legend(fontsize=8)
plt.show()

# %% [markdown]
# One model, one prompt, one answer. "The answer is known after layer ..." can move by two layers, by convention
# alone. So compare lenses only within one convention, and write down which.
#
# And here `input_embedding` reads nothing at all at the last position: in this model the words that come in and the
# words that go out have different directions (large checkpoints often differ there, too). Do not throw it away yet.

# %% [markdown]
# ## What do tokens of sound say?
#
# A lens can be put on any token. The **media lens** puts it on those of picture and sound. No answer stands there, so
# there is nothing that it *must* read. We give the sound without its pictures, which keeps the figure small. Here is
# the default convention, with the vocabulary of answers.
#
# **Predict, then run.** In the fourth second "zero" is spoken. What will stand there?

# %%
sound = model.prepare(sample.clip.without_video(), question="Which digit is spoken second?")
print("it says:", model.generate(sound).texts[0])
av.media_lens(model, sound)

# %% [markdown]
# Digits do stand there, some with a good percentage. It would be easy to tell a story about them. Are they the digits
# that are spoken (four, six, four, zero)? Now with the words as they come in:

# %%
av.media_lens(model, sound, convention="input_embedding")

# %% [markdown]
# Look along the layers: the spoken digits, second by second. Tokens of media are on the *input* side of the model: what
# they say is meant for layers that read, and not for the answer. In this model that is so because it was [trained to
# be](../hooked_av/tiny/MODEL_CARD.md); for a real one it is a question, to be asked with a control.
#
# How good is the reading, over many clips? We take the rows of 12 clips, and the digit that is spoken at each.

# %%
rows, spoken = [], []
for one in av.tiny.draw_samples("auditory", 12):
    prompt = one.prepare(model).inputs
    _, kept = model.run_with_cache(prompt, names_filter="blocks.*.hook_resid_post@audio")
    rows.append(torch.stack([activations[0] for activations in kept.values()]))
    seconds = prompt.spans.places.seconds[prompt.spans["audio"], 0].astype(int)
    spoken.append(np.array(one.spoken)[seconds])
rows = model.ln_final(torch.cat(rows, dim=1)).detach()
spoken = torch.tensor(np.concatenate(spoken))
rows.shape

# %% [markdown]
# ### Exercise 3: a control
#
# `share_right` asks, at every token: of ten directions, which fits best, and is it that of the spoken digit? Ten
# useless directions should be right one time in ten. Should: 25 tokens of a second say the same thing, so luck is
# large here. Do not believe the formula, draw it.
#
# Write a function that makes a **control** of ten directions: random, of the **same lengths**, another draw for each
# seed.
#
# <details><summary>Hint</summary>
#
# `torch.randn(shape, generator=torch.Generator().manual_seed(seed))` draws; divide by the length of each row, and
# multiply by the length it should have.
# </details>


# %% tags=["exercise"]
def control(directions, seed):
    return ...


av.checks.lenses.random_control(control)


# %% tags=["solution"] jupyter={"source_hidden": true}
def control(directions, seed):
    drawn = torch.randn(directions.shape, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True) * directions.norm(dim=-1, keepdim=True)


av.checks.lenses.random_control(control)


# %%
def share_right(directions):
    return ((rows @ directions.T).argmax(dim=-1) == spoken).float().mean(dim=-1)


digits = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
coming_in = model.W_E[[model.to_single_token(f" {digit}") for digit in digits]].detach()
going_out = model.W_U[:, [model.to_single_token(digit) for digit in digits]].detach().T
draws = torch.stack([share_right(control(coming_in, seed)) for seed in range(20)])

# %%
layers = range(model.cfg.n_layers)
plt.figure(figsize=(7, 2.8))
plt.plot(layers, share_right(coming_in), "k-o", label="input_embedding")
plt.plot(layers, share_right(going_out), "k:s", mfc="white", label="output_embedding")
lowest, highest = draws.min(dim=0).values, draws.max(dim=0).values
plt.fill_between(layers, lowest, highest, color="lightgrey", label="20 controls")
plt.xlabel("after layer")
plt.ylabel("share of tokens read rightly")
plt.legend(loc="center right")
plt.show()

# %% [markdown]
# The grey band is what useless directions reach. The lens of the default convention hardly leaves it: its digits were a
# story. That of the input embedding is far above.
#
# The band is wide, and that is worth a thought: with twelve clips, "30 % right, chance is 10 %" would be no finding.

# %% [markdown]
# ## Said, but not used. Used, but not said
#
# Back to the answer. Does the question know it? Here is the best token of each row of the question.

# %%
av.logit_lens(model, inputs, at="question", top_k=1)

# %% [markdown]
# In some rows of the question the answer stands, and late layers are sure of it. It looks like a way: the question
# hears the digit, and the last position reads the question.
#
# **Predict, then run.** We cut: no row of the question may read media (`av->question`), or the last position may not
# (`av->last`). Which cut costs the answers of 24 held-out clips?


# %%
def prompts(options):
    samples = av.tiny.draw_samples("auditory", 24, options=options)
    return [one.target for one in samples], model.batch([one.prepare(model).inputs for one in samples])


plain, lettered = prompts(options=False), prompts(options=True)


# %%
def right(asked, cut=()):
    answers, batch = asked
    said = model.generate(batch, interventions=cut).texts
    return np.mean([one == answer for one, answer in zip(said, answers, strict=True)])


# %%
cuts = ["nothing", "av->question", "av->last"]
plt.figure(figsize=(6, 2.2))
shares = [right(plain, cut if "->" in cut else ()) for cut in cuts]
plt.barh(cuts[::-1], shares[::-1], color="dimgrey")
plt.xlabel("share of right answers, plain questions")
plt.xlim(0, 1)
plt.show()

# %% [markdown]
# The question's rows *say* the answer, and nobody needs that they do. A lens finds what can be read. Only a cut (or a
# patch) finds what *is* read.
#
# Now the other way round. With lettered options, the answer is a letter.

# %%
options = ("three", "six", "four")
asked = model.prepare(sample.clip, question="Which digit is spoken second?", options=options)
print("it says:", model.generate(asked).texts[0])
av.answer_trace(model, asked, ["A", "B", "C", "six"])

# %% [markdown]
# In the early layers the letters change places: guesses. Then, within a layer or two, the right one wins. The digit
# "six" has no probability at any time. So did the last position listen to the clip, find the digit, and look up its
# letter, all at once?
#
# ### Exercise 4: who listens?
#
# Find the part of the text that must read the media: write a cut `"av->..."` of **one** span out of `question`,
# `options`, `instruction` and `last` that takes the lettered answers away. (Chance is about a third: there are two to
# four options.)
#
# <details><summary>Hint</summary>
#
# `right(lettered, "av->question")` tries one. There are four.
# </details>

# %% tags=["exercise"]
cut = ...
av.checks.lenses.who_listens(cut, model, *lettered)

# %% tags=["solution"] jupyter={"source_hidden": true}
readers = ["question", "options", "instruction", "last"]
cut = min((f"av->{reader}" for reader in readers), key=lambda cut: right(lettered, cut))
av.checks.lenses.who_listens(cut, model, *lettered)

# %%
readers = ["question", "options", "instruction", "last"]
shares = [right(lettered, f"av->{reader}") for reader in readers]
plt.figure(figsize=(6, 2.2))
plt.barh([f"av->{reader}" for reader in readers][::-1], shares[::-1], color="dimgrey")
plt.axvline(1 / 3, color="black", ls=":")
plt.xlabel("share of right answers, lettered questions (dotted: about chance)")
plt.xlim(0, 1)
plt.show()

# %% [markdown]
# So that is where the clip is heard. What does the lens say in these rows? Remember that the right answer is "B. six".

# %%
av.logit_lens(model, asked, at="options", top_k=1)

# %% [markdown]
# Columns are the tokens of the options, in order: `A . three`, `B . six`, `C . four`. Rows are layers. Would you have
# found the way from this picture? Some cells name a digit, some a letter, and they do not agree. What is carried from
# here to the last position may be something like "it is this one", and the vocabulary has no word for that.
#
# To sum up:
#
# | | the lens says it | the lens does not |
# |---|---|---|
# | **used** | the answer at `last`, in late layers | which option was heard, in the rows of the options |
# | **not used** | the digit in the rows of the question | most of what there is |

# %% [markdown]
# ## What to try on a real model
#
# ```python
# model = av.HookedAVTransformer.from_pretrained("Qwen/Qwen2.5-Omni-3B", device="cuda", dtype=torch.bfloat16)
# inputs = model.prepare(av.Clip.from_file("film.mp4"), question="What is the person saying?")
# av.media_lens(model, inputs, convention="input_embedding")
# ```
#
# * Name the convention in your caption, and try a second one: does your finding survive?
# * Put the lens on sound that has *no* speech. What stands there is your control.
# * Follow " dog" and "dog": with and without its space a word is two tokens.
# * Read a modality that the question does not ask about. Is it said, too? Then it is said whether or not it is used.
#
# **Next**: [05 · Interleaved items](05_interleaved_items.ipynb)
