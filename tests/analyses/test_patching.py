"""Patching: oracles that cost nothing, tables equal to plain hooks; on tiny-av, and on a random SALMONN."""

from functools import cache

import numpy as np
import pytest
import torch
from support import every_result
from support.patching import tiny

import hooked_av as av
from hooked_av.errors import ArgumentError, InputsError

pytestmark = pytest.mark.usefixtures("one_thread")
ROUNDING = 1e-4  # of a logit: replays and full passes multiply matrices of other shapes


def salmonn():
    rng = np.random.default_rng(0)
    clips = [
        av.Clip.from_arrays(rng.integers(0, 255, (8, 56, 56, 3), np.uint8), 4, rng.uniform(-0.5, 0.5, 32_000), 16_000)
        for _ in range(2)
    ]
    return av.random_salmonn(n_layers=3), *clips, "Which digit do you hear?"


@pytest.fixture(scope="module", params=[tiny, salmonn], ids=["tiny-av", "salmonn"])
def case(request):
    model, clip, other, question = request.param()
    arguments = {"sampling": av.Sampling(max_pixels=56 * 56)} if request.param is salmonn else {}
    pair = av.make_pair(model, clip, "audio", other=other, question=question, **arguments)
    answers = ("five", "two") if request.param is tiny else furthest_apart(model, pair)
    return model, {"clean": pair.clean, "corrupt": pair.corrupt, "answer": answers[0], "alternative": answers[1]}


def furthest_apart(model, pair):
    """Texts of one token that two runs of a random model tell apart best."""
    with torch.no_grad():
        clean, corrupt = (model(inputs, logits_at="last")[0, -1] for inputs in (pair.clean, pair.corrupt))
    order = (clean - corrupt).argsort(descending=True).tolist()
    return next(filter(None, map(plain(model), order))), next(filter(None, map(plain(model), order[::-1])))


def plain(model):
    """The text of a token, if it is one that comes back as the same token."""

    def text_of(token):
        text = model.to_string(token)
        return text if text.strip().isascii() and text.strip() and model.to_tokens(text).tolist() == [[token]] else None

    return text_of


@pytest.fixture(scope="module")
def tiny_pair():
    model, clip, other, question = tiny()
    pair = av.make_pair(model, clip, "audio", other=other, question=question)
    return model, {"clean": pair.clean, "corrupt": pair.corrupt}


def close(table):
    """What rounding of the logits makes of an effect; the contrast of a random model is small."""
    return max(1e-5, ROUNDING / abs(table.metric_clean - table.metric_corrupt))


def measure(model, logits, answers):
    first, second = (model.to_single_token(answer) for answer in answers)
    return float(logits[0, -1, first] - logits[0, -1, second])


def slow_effect(model, pair, hooks):
    """The effect of plain hooks (name, function) in a full pass of the corrupt prompt."""
    clean, corrupt = (
        measure(model, run(model, pair[name])[0], (pair["answer"], pair["alternative"]))
        for name in ("clean", "corrupt")
    )
    with torch.no_grad():
        patched = measure(
            model, model.run_with_hooks(pair["corrupt"], fwd_hooks=hooks), (pair["answer"], pair["alternative"])
        )
    return (patched - corrupt) / (clean - corrupt)


def cached(model, inputs):
    return run(model, inputs)[1]


@cache
def run(model, inputs):
    """Logits and every activation of a prompt without a patch."""
    with torch.no_grad():
        return model.run_with_cache(inputs)


def writes(values, rows, head=None):
    """A plain hook that writes some rows (of one head)."""

    def hook(tensor, hook):
        tensor = tensor.clone()
        if head is None:
            tensor[:, rows] = values[:, rows]
        else:
            tensor[:, rows, head] = values[:, rows, head]
        return tensor

    return hook


# --- what costs nothing ----------------------------------------------------------------------------------------------


def test_all_rows_at_layer_0_recover_everything(case):
    model, pair = case
    table = av.patch_spans(model, **pair, spans=["text|boundary|av"], components=["resid_pre"])
    assert set(pair["corrupt"].spans.resolve("text|boundary|av")) == set(range(pair["corrupt"].n_pos))
    assert table.effects[0, 0, 0] == pytest.approx(1, abs=close(table))
    after = av.patch_spans(model, **pair, spans=["text|boundary|av"], components=["resid_post"])
    np.testing.assert_allclose(after.effects, 1, atol=close(table))  # the whole stream, after any layer


def test_rows_that_do_not_differ_change_exactly_nothing(case):
    model, pair = case
    table = av.patch_spans(model, **pair, spans=["system", "question"])
    assert (table.effects[:, 0] == 0).all()  # before any media
    assert table.effects[0, 1, 0] == 0  # text has not read anything yet
    assert table.effects[0, 1, -1] != 0


def test_a_patch_into_the_last_layer_matters_at_last_only(case):
    model, pair = case
    table = av.patch_spans(model, **pair, spans=["audio", "last"], components=["mlp_out"])
    assert table.effects[0, 0, -1] == 0
    assert table.effects[0, 1, -1] != 0


# --- equal to plain hooks --------------------------------------------------------------------------------------------


def test_a_table_of_spans_equals_plain_hooks(case):
    model, pair = case
    spans = ["audio", "question", "last", "video|audio"]
    table = av.patch_spans(model, **pair, spans=spans)
    clean = cached(model, pair["clean"])
    for (component, span, layer), effect in np.ndenumerate(table.effects):
        if layer not in (1, model.cfg.n_layers - 1):
            continue
        point = f"blocks.{layer}.hook_{table.components[component]}"
        rows = list(pair["corrupt"].spans.resolve(spans[span]))
        assert effect == pytest.approx(
            slow_effect(model, pair, [(point, writes(clean[point], rows))]), abs=close(table)
        )
    assert np.abs(table.effects).max() > 0.1


def test_a_table_of_heads_equals_plain_hooks(case):
    model, pair = case
    table = av.patch_heads(model, **pair, span="question|last")
    clean, rows = cached(model, pair["clean"]), list(pair["corrupt"].spans.resolve("question|last"))
    for (layer, head), effect in np.ndenumerate(table.effects):
        if layer not in (1, model.cfg.n_layers - 1):
            continue
        point = f"blocks.{layer}.attn.hook_z"
        slow = slow_effect(model, pair, [(point, writes(clean[point], rows, head))])
        assert effect == pytest.approx(slow, abs=close(table))
    assert len(np.unique(table.effects)) > 2


def test_a_table_of_positions_equals_plain_hooks(case):
    model, pair = case
    table = av.patch_positions(model, **pair, span="audio")
    clean = cached(model, pair["clean"])
    assert [rows[0] for rows in table.positions] == list(pair["corrupt"].spans["audio"])
    for place in (0, 7, len(table.positions) - 1):
        for layer in (0, 1):
            point = f"blocks.{layer}.hook_resid_pre"
            slow = slow_effect(model, pair, [(point, writes(clean[point], list(table.positions[place])))])
            assert table.effects[layer, place] == pytest.approx(slow, abs=close(table))


def test_stretches_of_time_hold_every_media_row_once(tiny_pair):
    model, pair = tiny_pair
    table = av.patch_positions(model, **pair, every_seconds=0.5)
    rows = [row for place in table.positions for row in place]
    assert sorted(rows) == list(pair["corrupt"].spans["av"])
    seconds = pair["corrupt"].spans.places.seconds
    for place, (start, stop) in zip(table.positions, table.seconds, strict=True):
        begins = seconds[list(place), 0]
        assert ((begins >= start - 1e-6) & (begins < stop)).all()
    spoken_first = table.to_frame().query("layer == 0").set_index("place").effect
    first, second = (spoken_first[[f"audio {part} s" for part in parts]].sum()
                     for parts in (("0-0.5", "0.5-1"), ("1-1.5", "1.5-2")))  # fmt: skip
    assert first > 0.25
    assert abs(second) < 0.1
    whole = av.patch_positions(model, **pair, every_seconds=1.0).to_frame().query("layer == 0").set_index("place")
    assert whole.effect["audio 0-1 s"] == pytest.approx(1, abs=0.1)
    clean = cached(model, pair["clean"])
    hook = ("blocks.2.hook_resid_pre", writes(clean["blocks.2.hook_resid_pre"], list(table.positions[1])))
    slow = slow_effect(model, pair | dict(zip(("answer", "alternative"), table.answers, strict=True)), [hook])
    assert table.effects[2, 1] == pytest.approx(slow, abs=close(table))


@pytest.mark.parametrize(
    "receiver, heads", [("attn.hook_q", None), ("attn.hook_k", None), ("attn.hook_v", [0]), ("hook_mlp_out", None)]
)
def test_a_path_equals_two_passes_with_everything_else_frozen(tiny_pair, receiver, heads):
    model, pair = tiny_pair
    pair = {**pair, "answer": "five", "alternative": "two"}
    at, span = model.cfg.n_layers - 2, "audio|question|last"
    point = f"blocks.{at}.{receiver}"
    table = av.patch_path(model, **pair, receiver=point, receiver_heads=heads, span=span)
    after = at if receiver == "hook_mlp_out" else at - 1
    assert np.isfinite(table.effects[: after + 1]).all()
    assert np.isnan(table.effects[after + 1 :]).all()
    sizes = np.nan_to_num(np.abs(table.effects))
    strongest = tuple(map(int, np.unravel_index(sizes.argmax(), sizes.shape)))
    assert sizes.max() > 10 * close(table)
    clean, corrupt = cached(model, pair["clean"]), cached(model, pair["corrupt"])
    rows = list(pair["corrupt"].spans.resolve(span))
    for layer, head in [strongest, (after, 0)]:
        received = path_value(model, pair, clean, corrupt, (layer, head, rows), point)
        some = heads if heads is not None else [None]
        hooks = [(point, writes(received, rows, one)) for one in some]
        assert table.effects[layer, head] == pytest.approx(slow_effect(model, pair, hooks), abs=close(table))


def path_value(model, pair, clean, corrupt, sender, receiver):
    """The receiver's value in a corrupt run whose heads and MLPs are frozen, all but the sender."""
    layer, head, rows = sender
    found = {}
    hooks = []
    for block in range(model.cfg.n_layers):
        z, mlp_out = f"blocks.{block}.attn.hook_z", f"blocks.{block}.hook_mlp_out"
        hooks.append((z, lambda tensor, hook, name=z: corrupt[name].clone()))
        if mlp_out == receiver:
            hooks.append((mlp_out, lambda tensor, hook: found.update(value=tensor.clone())))
        else:
            hooks.append((mlp_out, lambda tensor, hook, name=mlp_out: corrupt[name].clone()))
    sends = f"blocks.{layer}.attn.hook_z"
    hooks.append((sends, writes(clean[sends], rows, head)))
    if receiver not in [name for name, _ in hooks] or "attn" in receiver:
        hooks.append((receiver, lambda tensor, hook: found.update(value=tensor.clone())))
    with torch.no_grad():
        model.run_with_hooks(pair["corrupt"], fwd_hooks=hooks)
    return found["value"]


def test_the_direct_path_to_the_logits_equals_a_frozen_pass(case):
    model, pair = case
    table = av.patch_path(model, **pair, receiver="logits")
    clean, corrupt = cached(model, pair["clean"]), cached(model, pair["corrupt"])
    for sender in [(0, 1), (model.cfg.n_layers - 1, 0)]:
        hooks = []
        for block in range(model.cfg.n_layers):
            for name in (f"blocks.{block}.attn.hook_z", f"blocks.{block}.hook_mlp_out"):
                hooks.append((name, lambda tensor, hook, name=name: corrupt[name].clone()))
        sends = f"blocks.{sender[0]}.attn.hook_z"
        hooks.append((sends, writes(clean[sends], [pair["corrupt"].n_pos - 1], sender[1])))
        assert table.effects[sender] == pytest.approx(slow_effect(model, pair, hooks), abs=close(table))
    elsewhere = av.patch_path(model, **pair, receiver="logits", span="question")
    assert (elsewhere.effects == 0).all()


def test_back_patching_equals_plain_hooks(case):
    model, pair = case
    clean, rows = cached(model, pair["clean"]), list(pair["corrupt"].spans["question"])
    table = av.back_patch(model, **pair, span="question")
    assert (np.isfinite(table.effects) == np.tri(model.cfg.n_layers, k=-1, dtype=bool)).all()
    for source, target in [(1, 0), (model.cfg.n_layers - 1, 1)]:
        late = clean[f"blocks.{source}.hook_resid_post"]
        slow = slow_effect(model, pair, [(f"blocks.{target}.hook_resid_post", writes(late, rows))])
        assert table.effects[source, target] == pytest.approx(slow, abs=close(table))


def test_back_patching_within_one_prompt(tiny_pair):
    model, pair = tiny_pair
    table = av.back_patch(model, clean=pair["clean"], span="question|last")
    assert np.isnan(table.effects).all()
    assert table.metric_clean == pytest.approx(table.metric_corrupt)
    own = cached(model, pair["clean"])
    rows = list(pair["clean"].spans.resolve("question|last"))
    hook = writes(own["blocks.5.hook_resid_post"], rows)
    with torch.no_grad():
        patched = model.run_with_hooks(pair["clean"], fwd_hooks=[("blocks.2.hook_resid_post", hook)])
    assert table.metric_patched[5, 2] == pytest.approx(measure(model, patched, table.answers), abs=1e-3)


# --- attribution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["spans", "heads", "positions"])
def test_an_estimate_is_the_slope_of_a_tiny_step(case, table):
    model, pair = case
    estimate = av.attribution_patching(model, **pair, table=table)
    clean, corrupt = cached(model, pair["clean"]), cached(model, pair["corrupt"])
    scale = np.abs(estimate.effects).max()
    strongest = int(np.abs(estimate.effects).max(axis=1).argmax())
    for row in {strongest, len(estimate.rows) - 1}:
        for layer in (0, model.cfg.n_layers - 2):
            point, rows, head = meaning(estimate.rows[row], table, layer, pair["corrupt"])
            difference = clean[point] - corrupt[point]

            def at(step, *, point=point, rows=rows, head=head, difference=difference):
                values = corrupt[point] + step * difference
                return slow_effect(model, pair, [(point, writes(values, rows, head))])

            slope = (8 * (at(0.05) - at(-0.05)) - (at(0.1) - at(-0.1))) / 0.6  # to fourth order in the step
            rounding = close(estimate)  # of a slope: that of two effects, ten times smaller than its bound, by the step
            assert estimate.effects[row, layer] == pytest.approx(slope, abs=0.01 * scale + rounding, rel=0.02)


def meaning(name, table, layer, inputs):
    """Hook point, rows and head of a row of the table."""
    if table == "heads":
        return f"blocks.{layer}.attn.hook_z", [inputs.n_pos - 1], int(name.split()[1])
    if table == "positions":
        return f"blocks.{layer}.hook_resid_pre", [int(name.split()[1])], None
    span, _, component = name.partition(" · ")
    return f"blocks.{layer}.hook_{component}", list(inputs.spans[span]), None


@pytest.mark.usefixtures("as_a_user")
def test_estimates_stand_beside_their_exact_tables(tiny_pair):
    model, pair = tiny_pair
    exact = av.patch_spans(model, **pair)
    estimate = av.attribution_patching(model, **pair, exact=exact)
    assert [f"{s} · {c}" for c in exact.components for s in exact.spans] == list(estimate.rows)
    np.testing.assert_array_equal(estimate.exact, exact.effects.reshape(estimate.exact.shape))
    assert estimate.correlation == pytest.approx(np.corrcoef(estimate.effects.ravel(), exact.effects.ravel())[0, 1])
    heads = av.attribution_patching(model, **pair, table="heads", exact=av.patch_heads(model, **pair))
    assert heads.correlation > 0.9
    assert np.isnan(av.attribution_patching(model, **pair, table="heads").correlation)
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(InputsError, match="rows x 8 layers"):
        av.attribution_patching(model, **pair, table="heads", exact=exact)
    with pytest.raises(InputsError, match="one span"):
        av.attribution_patching(model, **pair, table="heads", spans=["audio", "last"])
    with pytest.raises(ArgumentError, match="'spans' or 'heads' or 'positions'"):
        av.attribution_patching(model, **pair, table="rows")


# --- metrics and results ---------------------------------------------------------------------------------------------


def test_the_metric_can_be_the_probability(tiny_pair):
    model, pair = tiny_pair
    table = av.patch_heads(model, **pair, metric="probability")
    with torch.no_grad():
        clean, corrupt = (
            float(model(pair[name], logits_at="last")[0, -1].softmax(-1)[model.to_single_token("five")])
            for name in ("clean", "corrupt")
        )
    assert (table.metric_clean, table.metric_corrupt) == pytest.approx((clean, corrupt), rel=1e-4)
    assert table.settings["metric"] == "probability"


def test_tables_save_load_and_have_a_row_a_patch(tiny_pair, tmp_path):
    model, pair = tiny_pair
    tables = [
        av.patch_heads(model, **pair),
        av.patch_positions(model, **pair, every_seconds=1.0),
        av.patch_path(model, **pair),
        av.back_patch(model, **pair),
        av.attribution_patching(model, **pair, table="heads"),
    ]
    for table in tables:
        again = type(table).load(table.save(tmp_path / "table.safetensors"))
        np.testing.assert_array_equal(again.effects, table.effects)
        assert (again.answers, dict(again.settings)) == (table.answers, dict(table.settings))
        frame = again.to_frame()
        assert len(frame) == table.metric_patched.size
        np.testing.assert_array_equal(frame.effect, table.effects.ravel())
    assert tables[1].to_frame().place.unique()[0] == "audio 0-1 s"


def test_one_span_of_a_table_of_heads_is_given_in_a_list():
    given = {**every_result.pair(), "table": "heads"}
    named = av.attribution_patching(every_result.model(), spans=["last"], **given)
    np.testing.assert_array_equal(named.effects, every_result.made("AttributionPatching").effects)
