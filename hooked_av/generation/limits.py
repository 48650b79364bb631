"""Limits of a generation: the positions that a model has, and memory."""

from hooked_av.errors import InputsError
from hooked_av.forward.passes import RunningModel
from hooked_av.hooks.cache import check_budget
from hooked_av.prompt.inputs import AVInputs


def check_size(model: RunningModel, prompt: AVInputs, n_new: int, keeps_logits: bool, max_bytes: int | None) -> None:
    """Refuse answers that would leave the model's positions, or whose keys and values (and logits) would not fit.

    Errors: `InputsError`, `MemoryBudgetError`; both say how many tokens would do.
    """
    first, n_ctx = int(prompt.positions_after(1).max()), model.decoder.cfg.n_ctx
    if first + n_new > n_ctx:
        raise InputsError(
            "an answer as long as this would leave the positions that the model was made for",
            expected=f"positions 0 to {n_ctx - 1} (max_position_embeddings)",
            got=f"max_new_tokens={n_new} behind a prompt up to position {first - 1}",
            next_step=f"max_new_tokens up to {n_ctx - first} fits" if first < n_ctx else "take a shorter prompt",
        )
    fixed, each = generation_bytes(model, prompt, keeps_logits)

    def fits(free: int) -> str:
        most = (free - fixed) // each
        return f"max_new_tokens up to {most} fits" if most > 0 else "take a shorter prompt, or a smaller batch"

    check_budget(f"a generation of {n_new} tokens", fixed + each * n_new, model.device, max_bytes, fits)


def generation_bytes(model: RunningModel, prompt: AVInputs, keeps_logits: bool) -> tuple[int, int]:
    """What a generation keeps of the prompt, and of each token: keys and values, and float32 logits if they are kept.

    While a layer's keys and values get longer, there are two of them.
    """
    cfg, size = model.decoder.cfg, model.decoder.embed.weight.element_size()
    row = prompt.batch * (cfg.n_layers + 1) * 2 * cfg.n_key_value_heads * cfg.d_head * size
    # kept ones are stacked at the end
    return row * prompt.n_pos, row + (2 * prompt.batch * cfg.d_vocab * 4 if keeps_logits else 0)
