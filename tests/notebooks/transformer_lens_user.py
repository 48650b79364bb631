# A notebook by somebody who has read TransformerLens's documentation and ARENA, and of this package only how a model is
# loaded and a prompt is made. Every cell is what its author would write for GPT-2. `test_notebooks.py` runs it.
#
# %% imports
from functools import partial

import einops
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from transformer_lens import patching
from transformer_lens import utilities as utils

import hooked_av as av

# %% a model and two prompts that differ in what is said
torch.manual_seed(0)
model = av.HookedAVTransformer.from_pretrained("tiny-av")
n_layers, n_heads, d_model = model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model
clips = av.sample_clips()
film, other = clips["two-seconds"].clip, clips["three-and-eight"].clip
question = "Which digit is spoken second?"
clean_prompt = model.prepare(film, question=question)  # six is spoken
corrupted_prompt = model.prepare(film.with_audio(other), question=question)  # one is spoken
answer, wrong = model.to_single_token("six"), model.to_single_token("one")

# %% a run with cache, and the logit difference
clean_logits, clean_cache = model.run_with_cache(clean_prompt)
corrupted_logits, corrupted_cache = model.run_with_cache(corrupted_prompt)


def logit_diff(logits):
    return (logits[:, -1, answer] - logits[:, -1, wrong]).mean()


clean_diff, corrupted_diff = logit_diff(clean_logits).item(), logit_diff(corrupted_logits).item()
assert model.to_string(clean_logits[0, -1].argmax()) == "six"
assert model.to_string(corrupted_logits[0, -1].argmax()) == "one"
assert clean_diff > 3 > -3 > corrupted_diff
assert clean_logits.shape == (1, clean_prompt.n_pos, model.cfg.d_vocab)


def normalised(logits):
    return (logit_diff(logits) - corrupted_diff) / (clean_diff - corrupted_diff)


# %% names in the cache
for name in (utils.get_act_name("resid_post", 3), "blocks.3.hook_resid_post", ("resid_post", 3)):
    assert clean_cache[name].shape == (1, clean_prompt.n_pos, d_model)
assert torch.equal(clean_cache["resid_post", -1], clean_cache["resid_post", n_layers - 1])
assert clean_cache["z", 0].shape == (1, clean_prompt.n_pos, n_heads, model.cfg.d_head)
assert len(model.to_str_tokens(clean_prompt)) == clean_prompt.n_pos

# %% attention patterns
_, pattern_cache = model.run_with_cache(clean_prompt, names_filter=lambda name: name.endswith("pattern"))
pattern = pattern_cache["pattern", 4][0]
assert pattern.shape == (n_heads, clean_prompt.n_pos, clean_prompt.n_pos)
assert torch.allclose(pattern.sum(-1), torch.ones(n_heads, clean_prompt.n_pos), atol=1e-4)
assert pattern.triu(1).abs().max() == 0

# %% activation patching of the residual stream, by hand


def patch_residual(resid, hook, pos, cache):
    resid[:, pos, :] = cache[hook.name][:, pos, :]
    return resid


assert torch.equal(clean_cache["embed"], corrupted_cache["embed"])  # the texts are the same: what differs is the sound
positions = [*range(0, clean_prompt.n_pos, 12), clean_prompt.n_pos - 1]
patched = torch.zeros(n_layers, len(positions))
for layer in range(n_layers):
    for column, pos in enumerate(positions):
        hook = (utils.get_act_name("resid_pre", layer), partial(patch_residual, pos=pos, cache=clean_cache))
        with torch.no_grad():
            patched[layer, column] = normalised(model.run_with_hooks(corrupted_prompt, fwd_hooks=[hook]))
assert patched[0, -1].abs() < 1e-3  # at first the last position knows nothing
assert patched[-1, -1] > 0.9  # at the end it knows everything

# %% activation patching of heads


def patch_head(z, hook, head, cache):
    z[:, :, head] = cache[hook.name][:, :, head]
    return z


by_head = torch.zeros(n_layers, n_heads)
for layer in range(n_layers):
    for head in range(n_heads):
        hook = (utils.get_act_name("z", layer), partial(patch_head, head=head, cache=clean_cache))
        with torch.no_grad():
            by_head[layer, head] = normalised(model.run_with_hooks(corrupted_prompt, fwd_hooks=[hook]))
assert by_head.max() > 0.1

# %% direct logit attribution, by ARENA's recipe
answers = torch.tensor([[answer, wrong]])
directions = model.tokens_to_residual_directions(answers)
direction = directions[:, 0] - directions[:, 1]


def to_logit_diff(stack, cache):
    scaled = cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1)
    return einops.einsum(scaled, direction, "... batch d_model, batch d_model -> ...")


assert abs(to_logit_diff(clean_cache["resid_post", -1][:, -1], clean_cache) - clean_diff) < 1e-3
accumulated, labels = clean_cache.accumulated_resid(layer=-1, incl_mid=True, pos_slice=-1, return_labels=True)
lens = to_logit_diff(accumulated, clean_cache)
assert len(labels) == len(lens) == 2 * n_layers + 1
assert abs(lens[-1] - clean_diff) < 1e-3
parts, labels = clean_cache.decompose_resid(layer=-1, pos_slice=-1, return_labels=True)
assert abs(to_logit_diff(parts, clean_cache).sum() - clean_diff) < 1e-3
heads, labels = clean_cache.stack_head_results(layer=-1, pos_slice=-1, return_labels=True)
by_head = einops.rearrange(to_logit_diff(heads, clean_cache), "(layer head) -> layer head", layer=n_layers)
assert labels[:2] == ["L0H0", "L0H1"]
attention = [label.endswith("attn_out") for label in clean_cache.decompose_resid(return_labels=True, pos_slice=-1)[1]]
assert abs(by_head.sum() - to_logit_diff(parts, clean_cache)[attention].sum()) < 1e-3

# %% the same with W_U
difference = model.W_U[:, answer] - model.W_U[:, wrong]
parts = clean_cache.decompose_resid(layer=-1, pos_slice=-1, apply_ln=True)
assert abs((parts[:, 0] @ difference).sum() - clean_diff) < 1e-3
heads = clean_cache.stack_head_results(layer=-1, pos_slice=-1, apply_ln=True)
assert torch.allclose(heads[:, 0] @ difference, by_head.flatten(), atol=1e-3)

# %% logit lens
with torch.no_grad():
    for layer in range(n_layers):
        logits = model.unembed(model.ln_final(clean_cache["resid_post", layer]))
assert torch.allclose(logits, clean_logits, atol=1e-4)

# %% ablation of heads, to zero and to the mean over positions


def ablate_head(z, hook, head, mean):
    z[:, :, head] = z[:, :, head].mean(1, keepdim=True) if mean else 0.0
    return z


drops = torch.zeros(2, n_layers, n_heads)
with torch.no_grad():
    for kind in (0, 1):
        for layer in range(n_layers):
            for head in range(n_heads):
                hook = (f"blocks.{layer}.attn.hook_z", partial(ablate_head, head=head, mean=bool(kind)))
                drops[kind, layer, head] = clean_diff - logit_diff(model.run_with_hooks(clean_prompt, fwd_hooks=[hook]))
assert (drops.flatten(1).max(1).values > 0.5).all()

# %% hooks that stay, and hooks of a block
model.add_hook("blocks.3.hook_mlp_out", lambda mlp_out, hook: mlp_out * 0)
without_mlp = logit_diff(model(clean_prompt))
model.reset_hooks()
with model.hooks(fwd_hooks=[(lambda name: name == "blocks.3.hook_mlp_out", lambda mlp_out, hook: mlp_out * 0)]):
    assert torch.allclose(logit_diff(model(clean_prompt)), without_mlp)
assert torch.equal(model(clean_prompt), clean_logits)

# %% steering
steering = corrupted_cache["resid_post", 5][:, -1] - clean_cache["resid_post", 5][:, -1]


def steer(resid, hook, coefficient):
    resid[:, -1] += coefficient * steering
    return resid


with torch.no_grad():
    hooks = [("blocks.5.hook_resid_post", partial(steer, coefficient=coefficient)) for coefficient in (0.0, 0.5, 1.0)]
    steered = [logit_diff(model.run_with_hooks(clean_prompt, fwd_hooks=[hook])) for hook in hooks]
assert abs(steered[0] - clean_diff) < 1e-4
assert steered[0] > steered[1] > steered[2]
assert steered[2] < 0

# %% a steered answer
with model.hooks(fwd_hooks=[("blocks.5.hook_resid_post", partial(steer, coefficient=1.0))]):
    text = model.generate(clean_prompt, max_new_tokens=1, do_sample=False, verbose=False, return_type="str")
assert text.endswith("one")  # the prompt, and what was written

# %% a linear probe
train, test = (av.tiny.draw_samples("auditory", n, split=split) for n, split in ((160, "train"), (60, "held_out")))
rows = {}
for name, samples in (("train", train), ("test", test)):
    tokens = model.batch([sample.prepare(model).inputs for sample in samples])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("resid_post"))
    rows[name] = torch.stack([cache["resid_post", layer][:, -1] for layer in range(n_layers)]).numpy()
accuracy = []
for layer in range(n_layers):
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(rows["train"][layer], [sample.answer for sample in train])
    accuracy.append(probe.score(rows["test"][layer], [sample.answer for sample in test]))
assert accuracy[0] < 0.4
assert accuracy[-1] > 0.8

# %% rows for a sparse autoencoder, and the autoencoder in the model's place
hook_name = utils.get_act_name("resid_post", 4)
with torch.no_grad():
    _, cache = model.run_with_cache(tokens, names_filter=[hook_name])
mask = tokens.attention_mask.bool()
activations = cache[hook_name][mask]  # [row, d_model]
sae = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.ReLU(), nn.Linear(4 * d_model, d_model))
optimiser = torch.optim.Adam(sae.parameters(), lr=2e-3)
scale = activations.var()
for _ in range(150):
    batch = activations[torch.randint(len(activations), (512,))]
    features = sae[:2](batch)
    loss = (sae[2](features) - batch).square().mean() / scale + 1e-3 * features.abs().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
with torch.no_grad():
    spliced = model.run_with_hooks(clean_prompt, fwd_hooks=[(hook_name, lambda resid, hook: sae(resid))])
    zeroed = model.run_with_hooks(clean_prompt, fwd_hooks=[(hook_name, lambda resid, hook: torch.zeros_like(resid))])
assert abs(logit_diff(spliced) - clean_diff) < abs(logit_diff(zeroed) - clean_diff)

# %% rows of the sound alone
sound = clean_cache["resid_post", 4][:, clean_prompt.spans["audio"]]
assert sound.shape == (1, len(clean_prompt.spans["audio"]), d_model)

# %% gradients, by Neel Nanda's attribution patching


def cache_forward_and_backward(prompt, metric):
    model.reset_hooks()
    values, gradients = {}, {}

    def forward(activation, hook):
        values[hook.name] = activation.detach()

    def backward(gradient, hook):
        gradients[hook.name] = gradient.detach()

    wanted = lambda name: name.endswith("resid_pre")  # noqa: E731
    model.add_hook(wanted, forward, "fwd")
    model.add_hook(wanted, backward, "bwd")
    value = metric(model(prompt))
    value.backward()
    model.reset_hooks()
    return value.item(), values, gradients


value, corrupted_values, gradients = cache_forward_and_backward(corrupted_prompt, normalised)
assert abs(value) < 1e-4
assert len(gradients) == n_layers
attribution = torch.stack(
    [
        einops.einsum(
            clean_cache[name] - corrupted_values[name], gradients[name], "batch pos d_model, batch pos d_model -> pos"
        )
        for name in sorted(gradients)
    ]
)
assert torch.isfinite(attribution).all()
assert np.corrcoef(attribution[1:, positions].flatten(), patched[1:].flatten())[0, 1] > 0.2

# %% gradients of hooks that went with their block
seen = []
hooks = [("blocks.2.hook_resid_pre", lambda gradient, hook: seen.append(gradient.clone()))]
with model.hooks(bwd_hooks=hooks):
    value = normalised(model(corrupted_prompt))
value.backward()
normalised(model.run_with_hooks(corrupted_prompt, bwd_hooks=hooks)).backward()
assert len(seen) == 2
assert all(torch.equal(gradient, gradients["blocks.2.hook_resid_pre"]) for gradient in seen)

# %% gradients in the cache
cache, fwd, bwd = model.get_caching_hooks(lambda name: name.endswith("resid_pre"), incl_bwd=True)
with model.hooks(fwd_hooks=fwd, bwd_hooks=bwd):
    normalised(model(corrupted_prompt)).backward()
assert torch.equal(cache["blocks.2.hook_resid_pre_grad"], gradients["blocks.2.hook_resid_pre"])

# %% TransformerLens's own patching
with torch.no_grad():
    found = patching.get_act_patch_resid_pre(model, corrupted_prompt, clean_cache, normalised)
    assert found.shape == (n_layers, clean_prompt.n_pos)
    assert torch.allclose(found[:, positions], patched, atol=1e-4)
    assert patching.get_act_patch_attn_head_out_all_pos(model, corrupted_prompt, clean_cache, normalised).max() > 0.1

# %% what a prompt of tokens has
assert clean_prompt.shape == (1, clean_prompt.n_pos)
assert len(clean_prompt) == 1
assert clean_prompt.ndim == 2

# %% weights
assert model.W_E.shape == (model.cfg.d_vocab, d_model)
assert model.W_U.shape == (d_model, model.cfg.d_vocab)
assert model.W_Q.shape == (n_layers, n_heads, d_model, model.cfg.d_head)
assert model.W_O.shape == (n_layers, n_heads, model.cfg.d_head, d_model)
assert torch.equal(model.blocks[3].attn.W_O, model.W_O[3])

# %% circuits of heads
assert model.OV.shape[:2] == (n_layers, n_heads)
result = clean_cache["z", 3][0, -1, 1] @ model.W_O[3, 1]
assert torch.allclose(clean_cache.stack_head_results(layer=4, pos_slice=-1)[3 * n_heads + 1, 0], result, atol=1e-4)

# %% loss and return types
with torch.no_grad():
    logits, loss = model(clean_prompt, return_type="both")
    assert torch.equal(logits, clean_logits)
    assert loss.isfinite()
    assert torch.allclose(model(clean_prompt, return_type="loss"), loss)
    assert model(clean_prompt, return_type=None) is None

# %% text alone
tokens = model.to_tokens("Which digit is shown when six is spoken?", prepend_bos=False)
assert model.to_str_tokens(tokens[0])[-1] == "?"
assert model(tokens).shape == (1, tokens.shape[1], model.cfg.d_vocab)
assert model.tokenizer.decode(tokens[0]) == "Which digit is shown when six is spoken?"
