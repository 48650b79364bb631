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
# # 10 · Real checkpoints: what they cost, what they see, and where their tokens stand
#
# **You will learn**
#
# * to say before a download whether a model fits on your card, and in which dtype;
# * to say how many tokens a clip costs, and to set a budget;
# * what the two position modes of video-SALMONN 2+ are, and which one to report;
# * to load Qwen2.5-Omni or video-SALMONN 2+, and what to expect of time and memory.
#
# **Takes** 30 minutes. Every cell runs without a GPU and without a download: small models with random weights stand in
# for the real ones. They are of the same families and read the same prompts; only their answers mean nothing.
#
# Once, in a terminal: `pip install "hooked-av[tutorials]"`

# %%
import os
from types import SimpleNamespace

import pandas as pd
import torch

import hooked_av as av

# %%
model_folder = os.environ.get("HOOKED_AV_MODEL")  # a folder or hub id, such as Qwen/Qwen2.5-Omni-3B
device = "cuda" if torch.cuda.is_available() else "cpu"
print("real weights:", "yes" if model_folder else "none here (HOOKED_AV_MODEL is not set)", "| device:", device)

# %% [markdown]
# ## Does it fit?
#
# Start with the weights. A model's name says "7B", but your card is not told in parameters. What takes room is
# parameters times bytes: 4 bytes in float32, 2 in bfloat16 or float16.
#
# These are the sizes of the text decoders of Qwen2.5-Omni, as their configs state them. `n_kv` is the number of key and
# value heads: several query heads share one.

# %%
size_3b = {"n_layers": 36, "d_model": 2048, "n_heads": 16, "n_kv": 2, "d_head": 128, "d_mlp": 11008, "d_vocab": 151936}
size_7b = {"n_layers": 28, "d_model": 3584, "n_heads": 28, "n_kv": 4, "d_head": 128, "d_mlp": 18944, "d_vocab": 152064}
sizes = {"3B": SimpleNamespace(**size_3b), "7B": SimpleNamespace(**size_7b)}

# %% [markdown]
# ### Exercise 1: the weights from the config
#
# Write `weight_bytes(size, bytes_each)`: how many bytes do the matrices of this decoder take? Leave out biases and
# norms (they are less than 1 %).
#
# **Predict, then run.** Before you write it: what takes most room, the attention, the MLPs, or the vocabulary?
#
# <details><summary>Hint 1</summary>
#
# Each layer has four matrices of attention. `W_Q` and `W_O` have `d_model * n_heads * d_head` numbers each, `W_K` and
# `W_V` only `d_model * n_kv * d_head` each.
# </details>
# <details><summary>Hint 2</summary>
#
# Each MLP has three matrices of `d_model * d_mlp` (gate, in, out). And there is a vocabulary at both ends, `d_vocab *
# d_model` each: these two models do not share it.
# </details>

# %% tags=["exercise"]
weight_bytes = ...  # def weight_bytes(size, bytes_each): ...
av.checks.real_checkpoints.weight_bytes(weight_bytes, sizes)


# %% tags=["solution"] jupyter={"source_hidden": true}
def weight_bytes(size, bytes_each):
    attention = 2 * size.d_model * size.d_head * (size.n_heads + size.n_kv)
    mlp = 3 * size.d_model * size.d_mlp
    return bytes_each * (size.n_layers * (attention + mlp) + 2 * size.d_vocab * size.d_model)


av.checks.real_checkpoints.weight_bytes(weight_bytes, sizes)

# %% [markdown]
# Here is where it goes, in bfloat16. The encoders of sound and picture come on top, about 1.3 billion parameters in
# either model.

# %%
parts = {}
for name, s in sizes.items():
    attention = s.n_layers * 2 * s.d_model * s.d_head * (s.n_heads + s.n_kv)
    parts[name] = {"attention": attention, "MLPs": s.n_layers * 3 * s.d_model * s.d_mlp}
    parts[name] |= {"vocabulary": 2 * s.d_vocab * s.d_model, "encoders": 1.3e9}
table = pd.DataFrame(parts).T * 2 / 1e9
axes = table.plot(kind="barh", stacked=True, figsize=(7, 2), color=["0.15", "0.45", "0.7", "0.9"], edgecolor="black")
axes.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.25), frameon=False)
_ = axes.set(xlabel="GB in bfloat16, without what a run needs")

# %% [markdown]
# Look at the MLPs: most of a large model. That is also why a cut of *attention* seldom saves much time: the MLPs run as
# before.
#
# | | 3B | 7B | from |
# |---|---|---|---|
# | weights, bfloat16 | about 9.4 GB | 17.9 GB | 3B: the sum above; 7B: measured |
# | weights, float32 | about 19 GB | about 36 GB | twice that |
# | beyond the weights: one pass, read at the last token | | 1.1 GB | measured |
# | beyond the weights: a knockout map of six pathways | | 0.9 GB | measured |
# | a pass | 0.10 s | 0.19 s | measured |
# | that map, in passes: 216 and 168 cells | 5.8 | 3.2 | measured |
#
# Measured on one H200 with a film of 10 s, 7,518 tokens ([how](../benchmarks/README.md)). A newer replay engine has not
# been measured on a GPU yet. Of video-SALMONN 2+ nothing was measured; its decoders have the sizes of Qwen2.5-VL's.
#
# **Which dtype?** `dtype=torch.bfloat16` is what the checkpoints were released in. Its numbers have a step of nearly 1
# %: a logit that changes by 0.05 in a bfloat16 model has not changed. float16 has finer steps and a smaller range;
# weights that a cast makes infinite are refused when they are loaded. For an effect that is small, use float32 or a
# large effect.
#
# **What fills a card is what you ask for.** Two examples for 7B and the 7,518 tokens of that film:

# %%
n_pos, seven = 7518, sizes["7B"]
asked = {
    "logits of every token": n_pos * seven.d_vocab * 2,
    "logits of the last token": seven.d_vocab * 2,
    "patterns, one layer": seven.n_heads * n_pos**2 * 2,
    "patterns of the last token, all layers": seven.n_layers * seven.n_heads * n_pos * 2,
}
axes = (pd.Series(asked) / 1e9).plot(kind="barh", figsize=(6, 2), color="0.4", edgecolor="black", logx=True)
_ = axes.set(xlabel="GB in bfloat16 (a step of the axis is ten times as much)")

# %% [markdown]
# So say `logits_at="last"`, and name hooks with a span, `blocks.*.attn.hook_pattern@last`. The default cache leaves out
# what is large.
#
# ## What a clip costs
#
# The other number that decides is the number of tokens. Sound is cheap: 25 tokens a second in Qwen2.5-Omni, 2 in
# video-SALMONN 2+. Pictures are not. A token covers 28 x 28 pixels of **two** frames, and the released settings take
# many.

# %%
clip = av.sample_clips()["bigbuckbunny"].clip
omni = av.random_omni(n_layers=2)
clip

# %% [markdown]
# **Predict, then run.** This clip lasts five seconds. Is the released budget nearer to 400 tokens of video, or to
# 4,000? What brings more: half the frames, or a tenth of the pixels?

# %%
budgets = {"as released": None, "fps=1": av.Sampling(fps=1), "50,000 pixels": av.Sampling(max_pixels=50_000)}
counts = {}
for name, sampling in budgets.items():
    spans = omni.prepare(clip, question="What do you hear?", sampling=sampling).spans
    counts[name] = {"video": len(spans["video"]), "audio": len(spans["audio"])}
axes = pd.DataFrame(counts).T.plot(kind="barh", stacked=True, figsize=(6, 2), color=["0.4", "0.9"], edgecolor="black")
axes.invert_yaxis()
_ = axes.set(xlabel="tokens of Qwen2.5-Omni")

# %% [markdown]
# (`fps=1` warns: a clip is never sampled with fewer than four frames, so a short one is sampled faster than it is
# told.)
#
# video-SALMONN 2+ takes 10 frames a second, and deals out its pixels so that a clip of 720p costs about 26,000 tokens,
# *whatever its length*. With weights of 3B this may fit, with a map of its attention it will not be fast. Set a budget
# first, and raise it until the answer no longer changes.
#
# A budget changes what the model sees. Small writing is gone first. So look at the frames as the model gets them, and
# report the budget: it stands in `inputs.settings`.

# %%
inputs = omni.prepare(clip, question="What do you hear?", sampling=budgets["50,000 pixels"])
print(inputs.settings["sampling"])
inputs

# %%
sampling = av.Sampling(fps=1, max_pixels=100_000)

# %% [markdown]
# ### Exercise 2: the tokens of a clip, by hand
#
# A film of **ten seconds**, 1280 x 720 pixels, with `av.Sampling(fps=1, max_pixels=100_000)`. How many *video* tokens?
#
# <details><summary>Hint 1</summary>
#
# Each frame is made smaller by one factor, so that its area is at most 100,000: about 421.6 x 237.2. Then each side is
# rounded **down** to a multiple of 28.
# </details>
# <details><summary>Hint 2</summary>
#
# Count tokens along each side, multiply, and multiply with the number of *pairs* of frames.
# </details>

# %% tags=["exercise"]
n_tokens = ...
av.checks.real_checkpoints.n_tokens(n_tokens, sampling, seconds=10)

# %% tags=["solution"] jupyter={"source_hidden": true}
factor = (100_000 / (1280 * 720)) ** 0.5
n_tokens = int(1280 * factor / 28) * int(720 * factor / 28) * (10 // 2)
av.checks.real_checkpoints.n_tokens(n_tokens, sampling, seconds=10)

# %% [markdown]
# ## Where the tokens stand in time
#
# A decoder knows *when* something happens from position ids alone. Each token has three: time, height, width.
#
# The published code of video-SALMONN 2+ counts the time in **two** ways. In training, picture and sound share a clock
# of two steps a second. In its `generate`, the times get lost on the way: every pair of frames counts as one second,
# and the ids that were meant for the picture go to the *first* tokens of the block, whichever they are. Its weights
# were trained in the first way; its published answers presumably came the second way.
#
# `model.prepare(..., positions="train")` or `"generate"` (the default). A small random model shows the difference.

# %%
salmonn = av.random_salmonn(n_layers=2)
digits = av.sample_clips()["four-seconds"].clip
how = {"question": "Which digit is spoken third?", "sampling": av.Sampling(fps=4, max_pixels=3136)}
prompts = {mode: salmonn.prepare(digits, positions=mode, **how) for mode in ("train", "generate")}
prompts["train"]

# %% [markdown]
# **Predict, then run.** Each dot below is a token, with its time id. Where the two streams share a clock, a sound token
# stands at the height of the picture beside it. In which of the two figures do they? (Left out is the padding that
# follows: sound comes in blocks of 30 s.)

# %%
from matplotlib import pyplot

figure, panels = pyplot.subplots(1, 2, figsize=(8, 3), sharey=True)
for axes, (mode, prompt) in zip(panels, prompts.items(), strict=True):
    for name, marker in (("video", "s"), ("audio", "x")):
        where = [n for n in prompt.spans[name].positions if n <= prompt.spans["video"].positions[-1]]
        axes.plot(where, prompt.position_ids[0, 0, where], marker, color="black", fillstyle="none", label=name)
    axes.set(title=mode, xlabel="place in the prompt")
panels[0].set_ylabel("time id")
_ = panels[0].legend()

# %% [markdown]
# The same features, the same weights, the same words. Do the answers differ?

# %%
chances = [salmonn(prompt, logits_at="last")[0, -1].softmax(dim=-1) for prompt in prompts.values()]
moved = (chances[0] - chances[1]).abs().sum() / 2
print(
    f"{100 * moved:.0f} % of the probability has moved to other tokens (a random model: only that it is not 0 counts)"
)

# %% [markdown]
# ### Exercise 3: how far apart are picture and sound?
#
# Take a second of the clip, its first video token and its first sound token. How many steps of time lie between their
# ids? Find the **largest** such distance over the four seconds, in each mode, as `{"train": ..., "generate": ...}`.
#
# <details><summary>Hint</summary>
#
# `prompt.position_ids[0, 0]` are the time ids (axis, row of the batch, position). The tokens of a second that are
# sound: `prompt.spans.between(s, s + 1) & prompt.spans["audio"]`; `.positions[0]` is the first.
# </details>

# %% tags=["exercise"]
apart = ...
av.checks.real_checkpoints.apart(apart, prompts)

# %% tags=["solution"] jupyter={"source_hidden": true}
apart = {}
for mode, prompt in prompts.items():
    times, found = prompt.position_ids[0, 0], []
    for s in range(4):
        first = [(prompt.spans.between(s, s + 1) & prompt.spans[name]).positions[0] for name in ("video", "audio")]
        found.append(abs(int(times[first[0]] - times[first[1]])))
    apart[mode] = max(found)
av.checks.real_checkpoints.apart(apart, prompts)

# %% [markdown]
# Which mode do you report?
#
# * You compare with published answers: `"generate"`. It is what the published code computes.
# * You ask what the weights learned: `"train"`.
# * You claim *when* the model hears or sees something: **both**. If the claim holds in one mode only, say so.
#
# The mode stands in `inputs.settings` and in every result. [More of it](../docs/gotchas.md#video-salmonn-2).
#
# ## With the real weights
#
# Set `HOOKED_AV_MODEL` before you start the notebook, and these cells run on the checkpoint. Without it a small random
# model stands in. The first load takes as long as the files take to be read: every weight is looked at once.

# %%
if model_folder is None:
    print("skipped: no real weights here; a random model of four layers stands in")
    real = av.random_omni(n_layers=4)
else:
    real = av.HookedAVTransformer.from_pretrained(model_folder, device=device, dtype=torch.bfloat16)

# %%
small = av.Sampling(max_pixels=50_000)
inputs = real.prepare(clip, question="What do you hear?", sampling=small)
av.route_sweep(real, inputs, ["audio->question", "audio->last", "video->question", "video->last"])

# %% [markdown]
# With random weights no bar means anything; it is there so that you see the line run. What did it need?

# %%
if device == "cpu" or model_folder is None:
    print("skipped: peak memory is counted on a GPU with real weights")
else:
    peak, weights = torch.cuda.max_memory_allocated(), sum(p.nbytes for p in real.parameters())
    print(f"weights {weights / 1e9:.1f} GB, at most {(peak - weights) / 1e9:.1f} GB beside them")

# %% [markdown]
# Is the peak far above the weights? Then look for what you asked for: logits of all tokens, patterns without a span, or
# a budget of pixels that you never set.
#
# ## What to try on a real model
#
# * `Qwen/Qwen2.5-Omni-3B` and `tsinghua-ee/video-SALMONN2_plus_3B_full` first. The adapters of the second are refused:
#   take the merged `*_full` folders.
# * Ask one question with `max_pixels` of 25,000, 50,000, 100,000. From where on does the answer stay the same?
# * Ask about *when* something is heard, in both position modes. Which answers change?
# * Run one cut in bfloat16 and in float32. Is the difference small beside the effect that you want to report?
#
# **Next**: [11 · A data-set study](11_data_set_study.ipynb)
