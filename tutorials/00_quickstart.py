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
# # 00 · Quickstart: a clip, a question, an answer, one cut
#
# **You will learn**
#
# * to make a prompt of a clip and a question, and to see its tokens as named spans;
# * to read the model's answer, and how sure it is;
# * to cut one way of attention, and to say what the answer needs.
#
# **Takes** 10 minutes. The model is `tiny-av`, a Qwen2.5-Omni of 10 MB inside the package: it sees and hears digits. No
# download, no GPU.
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import hooked_av as av

model = av.HookedAVTransformer.from_pretrained("tiny-av")

# %% [markdown]
# ## A clip and a question
#
# Six clips of digits come with the package. In this one a digit is shown and another one is spoken in every second.
# (Your own film: `av.Clip.from_file("film.mp4")`.)

# %%
sample = av.sample_clips()["four-is-spoken-twice"]
inputs = model.prepare(sample.clip, question="Which digit is spoken second?")
inputs

# %% [markdown]
# This is the prompt as the model reads it, from left to right in time. Each token belongs to **spans** that have
# names: `video` and `audio` are the media, `question` is what you asked, `last` is where the answer begins.

# %%
for name in ("video", "audio", "question", "last"):
    span = inputs.spans[name]
    print(f"{name:9} {len(span):3} tokens, the first at position {span.positions[0]}")

# %% [markdown]
# ### Exercise 1: how many tokens is a second of sound?
#
# The clip is four seconds long. Put a number in place of the `...`.
#
# <details><summary>Hint</summary>
#
# The table above has the length of the span `audio`; or `len(inputs.spans.between(0, 1) & inputs.spans["audio"])`, the
# tokens of the first second that are sound.
# </details>

# %% tags=["exercise"]
tokens_a_second = ...
av.checks.quickstart.tokens_a_second(tokens_a_second, inputs)

# %% tags=["solution"] jupyter={"source_hidden": true}
tokens_a_second = len(inputs.spans["audio"]) // 4
av.checks.quickstart.tokens_a_second(tokens_a_second, inputs)

# %% [markdown]
# ## The answer
#
# `generate` writes the answer. One forward pass gives the logits of the next token; `logits_at="last"` asks for
# them at the last position only.

# %%
print("it says:", model.generate(inputs).texts[0])
probabilities = model(inputs, logits_at="last")[0, -1].softmax(dim=-1)
for token in probabilities.topk(3).indices.tolist():
    print(f"{model.to_string(token):>10}  p = {probabilities[token]:.4f}")

# %% [markdown]
# Where does that answer come into being? The logit lens reads what each layer would say, were it the last one.
# (Tutorial 04 says when not to believe it.)

# %%
av.logit_lens(model, inputs, at="last", top_k=3)

# %% [markdown]
# ## One cut
#
# **Predict, then run.** What does the model say if no text can read the *pictures*? And if no text can read the
# *sound*? Write your two guesses down before you run the next cell.
#
# A cut is written `keys->queries`: what is read, and who reads it.

# %%
print("nothing cut:  ", model.generate(inputs).texts[0])
print("no pictures:  ", model.generate(inputs, interventions="video->text|generated").texts[0])
print("no sound:     ", model.generate(inputs, interventions="audio->text|generated").texts[0])

# %% [markdown]
# The question is about the sound, so pictures can go. `text` is the question *and* the last position. Which of the
# two reads the sound? `route_sweep` tries several cuts on one prompt. Predict first: which bar moves?

# %%
cuts = ["audio->question", "audio->last", "video->question", "video->last"]
av.route_sweep(model, inputs, cuts)

# %% [markdown]
# ### Exercise 2: the smallest cut that changes the answer
#
# Cutting `audio->last` in every layer is more than is needed. A cut can name its layers: `"audio->last@2-3"` cuts
# layers 2 and 3 (`@4` is one layer). tiny-av has layers 0 to 7. Find **at most three neighbouring layers** in which
# the cut changes the answer.
#
# <details><summary>Hint 1</summary>
#
# `model.generate(inputs, interventions="audio->last@0-2").texts[0]` tries the first three.
# </details>
# <details><summary>Hint 2</summary>
#
# In the logit lens above: from which layer on is the answer there? It was read just before.
# </details>

# %% tags=["exercise"]
cut = ...
av.checks.quickstart.smallest_cut(cut, model, inputs)

# %% tags=["solution"] jupyter={"source_hidden": true}
cut = "audio->last@4-6"
av.checks.quickstart.smallest_cut(cut, model, inputs)

# %% [markdown]
# ## What to try on a real model
#
# The same lines run on `Qwen/Qwen2.5-Omni-3B` (a GPU with 12 GB; tutorial 10 has a table):
#
# ```python
# model = av.HookedAVTransformer.from_pretrained("Qwen/Qwen2.5-Omni-3B", device="cuda", dtype=torch.bfloat16)
# inputs = model.prepare(av.Clip.from_file("film.mp4"), question="What is the person saying?")
# ```
#
# Ask a question that needs the sound, one that needs the picture, one that needs both, and cut each way. Does the
# answer go through the question, as it was published for such models, or past it, as here?
#
# **Next**: [01 · Hooks and spans](01_hooks_and_spans.ipynb)
