"""What a notebook says of a model: ten lines, in place of torch's tree of some hundred modules."""

from hooked_av.forward.passes import RunningModel


def card(model: RunningModel) -> str:
    """Who the model is, how large, where it is, and where its hooks are listed.

    >>> import hooked_av as av
    >>> print(av.random_omni(n_layers=2))  # doctest: +ELLIPSIS
    HookedAVTransformer 'random_omni(2, seed=0)', family qwen2_5_omni
      decoder      2 layers, d_model 64, 4 heads of 16 (2 key/value), d_mlp 128
      vocabulary   ... tokens, up to ... positions
      ...
    """
    cfg, n_parameters = model.cfg, sum(parameter.numel() for parameter in model.parameters())
    heads = f"{cfg.n_heads} heads of {cfg.d_head} ({cfg.n_key_value_heads} key/value)"
    lasting = sum(bool(point.fwd_hooks or point.bwd_hooks) for point in model.hook_dict.values())
    rows = {
        "decoder": f"{cfg.n_layers} layers, d_model {cfg.d_model}, {heads}, d_mlp {cfg.d_mlp}",
        "vocabulary": f"{cfg.d_vocab:,} tokens, up to {cfg.n_ctx:,} positions",
        "encoders": ", ".join(model.encoders) or "none",
        "weights": f"{n_parameters:,} parameters, {str(cfg.dtype).removeprefix('torch.')} on {model.device}",
        "attention": f"{model.attn_implementation}, positions {cfg.positional_embedding_type}",
        "hooks": f"list(model.hook_dict): {len(model.hook_dict)} names, {lasting} with hooks (docs/hooks.md)",
        "open": f"{len(model.open_interventions)} interventions (model.intervene)",
        "begin": "model.prepare(clip, question=...), model.run_with_cache, model.generate",
        "modules": "print(torch.nn.Module.__repr__(model))",
    }
    title = f"{type(model).__name__} {cfg.model_name!r}, family {model.family.name}"
    return "\n".join([title, *(f"  {name:<12} {said}" for name, said in rows.items())])
