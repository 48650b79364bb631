"""The token strip by its data: every token is somewhere, heat is where it was measured, the page stays small."""

import base64
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_rgb
from support.strip import SMALL, SVG, data_of, film

import hooked_av as av
from hooked_av.errors import InputsError, MediaError
from hooked_av.plots.heat import N_SHADES, Heat, shade_colour, shade_numbers
from hooked_av.plots.notebook import picture_html
from hooked_av.plots.strip.lanes import LANE, LEFT, plan_strip
from hooked_av.plots.strip.segments import segments
from hooked_av.plots.strip.strip import MAX_BYTES, MAX_ROWS
from hooked_av.prompt.inputs import AVInputs

# "several" mixes clips with and without sound on purpose
pytestmark = [
    pytest.mark.filterwarnings("ignore:videos with and without sound:hooked_av.HookedAVWarning"),
    pytest.mark.filterwarnings("ignore:the frames sampled are:hooked_av.HookedAVWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def model():
    return av.random_omni(n_layers=2)


def media(name):
    picture = av.Clip.from_image(np.full((60, 90, 3), 99, np.uint8))
    return {
        "film": [film()],
        "film without sound": [film(sound=False)],
        "sound": [film().without_video()],
        "image": [picture],
        "text": [],
        "several": [film(2.0), "and", picture, film(1.0).without_video(), film(2.0, sound=False)],
    }[name]


LANES = {
    "film": ["frames", "sound", "audio tokens", "video tokens"],
    "film without sound": ["frames", "video tokens"],
    "sound": ["sound", "audio tokens"],
    "image": ["image tokens"],
    "text": [],
    "several": ["frames", "sound", "audio tokens", "video tokens", "image tokens", "sound", "audio tokens", "frames",
                "video tokens"],
}  # fmt: skip


@pytest.fixture(scope="module", params=LANES)
def prompt(model, request):
    inputs = model.prepare(media(request.param), question="What moves?", options=["a dog", "a cat"], sampling=SMALL)
    return request.param, inputs


@pytest.fixture(scope="module")
def film_inputs(model):
    return model.prepare(film(), question="What moves?", sampling=SMALL)


def plan(inputs, hot=False, max_units=4_500):
    return plan_strip(inputs, [""] * inputs.n_pos, hot=hot, max_units=max_units)


def lanes_of(inputs, **how):
    return {lane.name: lane for lane in plan(inputs, **how).lanes if lane.name}


def positions_of(lane):
    return [p for unit in lane.units for p in unit.positions.tolist()]


def expanded(runs):
    ends = [run.split("-") for run in runs.split(",")]
    return [p for end in ends for p in range(int(end[0]), int(end[-1]) + 1)]


# --- what is where ---------------------------------------------------------------------------------------------------


def test_lanes_that_exist_are_drawn_and_hold_every_token_once(prompt):
    name, inputs = prompt
    drawn = [lane for lane in plan(inputs).lanes if lane.name]
    assert [lane.name for lane in drawn] == [*LANES[name], "prompt to scale", "prompt in order"]
    for lane in drawn[-2:]:
        assert positions_of(lane) == list(range(inputs.n_pos))
    for modality in ("audio", "video", "image"):
        held = [p for lane in drawn if lane.name == f"{modality} tokens" for p in positions_of(lane)]
        assert sorted(held) == (list(inputs.spans[modality]) if modality in inputs.spans else [])


def test_tokens_stand_at_their_seconds_and_cells(film_inputs):
    places, lanes = film_inputs.spans.places, lanes_of(film_inputs)
    end = max(np.nanmax(places.seconds), 3.0)
    for name in ("audio tokens", "video tokens"):
        for unit in lanes[name].units:
            (position,) = unit.positions
            start, stop = (LEFT + places.seconds[position] / end * LANE).tolist()
            assert start - 1e-6 <= unit.left
            assert unit.left + unit.width <= stop + 1e-6
    video, height = lanes["video tokens"], lanes["video tokens"].height
    n_rows, n_columns = (places.cells.max(axis=0) + 1).tolist()[1:]
    for unit in video.units:
        _, row, column = places.cells[unit.positions[0]].tolist()
        start = LEFT + places.seconds[unit.positions[0], 0] / end * LANE
        assert unit.top == pytest.approx(row * height / n_rows)
        assert unit.left == pytest.approx(start + column * unit.width)
    assert len({round(unit.left, 3) for unit in video.units}) > n_columns


def test_the_script_knows_position_id_second_cell_and_span_of_every_token(film_inputs):
    inputs = film_inputs.with_span("mine", [3, 4])
    data = data_of(av.token_strip(inputs))
    places, ids = inputs.spans.places, inputs.input_ids[0].tolist()
    seen = set()
    for lane in data["lanes"]:
        assert len(base64.b64decode(lane["boxes"])) == 8 * len(lane["units"])
        for runs, token, span, seconds, text, cell in lane["units"]:
            at = expanded(runs)
            seen |= set(at)
            if len(at) > 1:
                continue
            assert data["ids"][token] == ids[at[0]]
            name, _, more = data["spans"][span].partition(", ")
            assert at[0] in inputs.spans[name]
            assert more == ("mine" if at[0] in (3, 4) else "")
            if places.items[at[0]] >= 0:
                start, stop = places.seconds[at[0]]
                assert data["seconds"][seconds] == f"{start:.2f}–{stop:.2f}"
                group, row, column = places.cells[at[0]].tolist()
                assert cell == ("" if group < 0 else f"{group} {row} {column}")
                assert text == -1
            else:
                assert (seconds, cell) == (-1, "")
                assert data["texts"][text].replace("␣", " ").replace("⏎", "\n") == inputs.token_texts[ids[at[0]]]
    assert seen == set(range(inputs.n_pos))


def test_a_users_own_span_is_a_lane_with_its_name(film_inputs):
    inputs = film_inputs.with_span("opening", [3, 4, 9])
    (lane,) = [lane for lane in plan(inputs).lanes if lane.name == "opening"]
    assert [unit.positions.tolist() for unit in lane.stripes] == [[3, 4], [9]]
    assert ">opening<" in av.token_strip(inputs).svg


def test_padding_sound_of_video_salmonn_is_a_lane():
    inputs = av.random_salmonn(n_layers=2).prepare(film(2.0), question="What moves?", sampling=SMALL)
    drawn = lanes_of(inputs)
    assert {"frames", "sound", "audio tokens", "video tokens", "audio_padding"} <= set(drawn)
    held = {p for name in ("audio tokens", "video tokens") for p in positions_of(drawn[name])}
    assert held == set(inputs.spans["av"])
    assert "audio_padding" in data_of(av.token_strip(inputs))["spans"][-1] + "".join(
        data_of(av.token_strip(inputs))["spans"]
    )


# --- pooling and size ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_units", [4_500, 400, 100])
def test_pooled_lanes_keep_every_token_and_say_so(model, max_units):
    clip = av.Clip.from_arrays(np.zeros((16, 280, 420, 3), np.uint8), 4, np.full(64_000, 0.1), 16_000)
    inputs = model.prepare(clip, question="What? " * 300, sampling=av.Sampling(max_pixels=784 * 150))
    found = plan(inputs, max_units=max_units)
    units = [unit for lane in found.lanes for unit in lane.units]
    assert len(units) <= 1.3 * max_units + 30  # what is cut at frame groups and spans may exceed its share a little
    drawn = {lane.name: lane for lane in found.lanes}
    for modality in ("audio", "video"):
        lane = drawn[f"{modality} tokens"]
        assert sorted(positions_of(lane)) == list(inputs.spans[modality])
        assert sum(u.width * u.height for u in lane.units) == pytest.approx(LANE * lane.height, rel=0.02)
        several = max(len(unit.positions) for unit in lane.units)
        assert (f"{several} drawn as one" in lane.detail) == (several > 1)
        assert any(f"{modality} tokens of item 0: up to {several} " in note for note in found.notes) == (several > 1)
    assert any("Prompt in order" in note for note in found.notes)
    for unit in drawn["video tokens"].units:  # no unit spans two groups while rows can still be joined
        assert max_units < 400 or len({int(g) for g in inputs.spans.places.cells[unit.positions, 0]}) == 1


def test_the_largest_strip_is_under_a_megabyte_and_says_what_is_pooled(model):
    clip = film(10.0, fps=4, size=(400, 600))  # noise: pictures that compress badly
    sampling = av.Sampling(max_pixels=784 * 300)
    inputs = model.prepare([clip, "then", clip], question="Why? " * 800, sampling=sampling)
    assert inputs.n_pos > 6_000
    heat = np.random.default_rng(0).normal(size=(64, inputs.n_pos))
    strip = av.token_strip(inputs, heat=heat, heat_label="x" * 500)
    assert 400_000 < len(strip.html.encode()) < MAX_BYTES
    assert len(strip.svg.encode()) < MAX_BYTES
    assert "drawn as one" in strip.svg
    assert "is their mean" in strip.svg
    batch = model.batch([inputs] * (MAX_ROWS + 2))
    assert len(batch._repr_html_().encode()) < MAX_BYTES


def test_more_items_than_are_drawn_are_said(model):
    picture = av.Clip.from_image(np.full((28, 28, 3), 99, np.uint8))
    found = plan(model.prepare([picture] * 10, question="What?"))
    assert [lane.name for lane in found.lanes].count("image tokens") == 8
    assert "Only the first 8 of 10 media items are drawn in time." in found.notes


# --- heat ------------------------------------------------------------------------------------------------------------

HEATS = arrays(
    np.float64, (3, 12), elements=st.floats(-1e6, 1e6, allow_subnormal=False) | st.just(float("nan"))
).filter(lambda values: not np.isnan(values).all())


@settings(deadline=None, max_examples=40)
@given(HEATS, st.lists(st.integers(0, 11), min_size=1, max_size=5, unique=True))
def test_pooled_heat_is_the_mean_of_what_there_is(values, cuts):
    units = np.split(np.arange(12), sorted(set(cuts) - {0}))
    heat = Heat.of(values, 12, "x")
    pooled = heat.pooled(units)
    for layer in range(3):
        for number, unit in enumerate(units):
            known = values[layer, unit][~np.isnan(values[layer, unit])]
            if len(known):
                expected = known.mean() / (heat.peak or 1.0)
                assert float(pooled[layer, number]) == pytest.approx(expected, rel=1e-3, abs=1e-6)
            else:
                assert np.isnan(pooled[layer, number])


def test_heat_of_a_vector_of_layers_and_of_tensors_is_the_same(film_inputs):
    values = torch.linspace(-1, 2, film_inputs.n_pos)
    one = av.token_strip(film_inputs, heat=values)
    assert av.token_strip(film_inputs, heat=values.numpy()).html == one.html
    assert av.token_strip(film_inputs, heat=values.tolist()).html == one.html
    assert "data-layer" in one.svg
    assert 'type="range"' not in one.html
    assert av.token_strip(film_inputs, heat=values.to(torch.bfloat16)[None].requires_grad_()).html.count("range") == 1


def test_the_strip_begins_with_the_strongest_layer_unless_told(film_inputs):
    heat = np.ones((4, film_inputs.n_pos))
    heat[2, 5] = -9
    assert "layer 2 of 0–3" in av.token_strip(film_inputs, heat=heat).svg
    assert "layer 1 of 0–3" in av.token_strip(film_inputs, heat=heat, layer=1).svg


def test_the_picture_has_the_shades_of_the_heat(film_inputs):
    heat = np.full((2, film_inputs.n_pos), np.nan)
    heat[:, film_inputs.spans["audio"].positions] = [[0.01], [8.0]]
    heat[0, film_inputs.spans["video"].positions] = -4.0
    root = ElementTree.fromstring(av.token_strip(film_inputs, heat=heat, layer=0).svg)

    def fills(name):
        (group,) = [g for g in root.iter(f"{SVG}g") if g.get("data-lane") == name]
        return {path.get("fill") for path in group.iter(f"{SVG}path")}

    assert fills("audio tokens") == {shade_colour(1)}
    assert [fill.rpartition("-")[2] for fill in fills("video tokens")] == ["n4)"]
    assert shade_colour(None) in fills("prompt to scale")


def test_shades_grow_darker_so_that_grey_print_tells_them():
    for sign in (1, -1):
        grey = [np.dot(to_rgb(shade_colour(sign * n)), (0.299, 0.587, 0.114)) for n in range(N_SHADES + 1)]
        assert (np.diff(grey) < -0.02).all()
    assert shade_numbers(np.array([1.0, -1.0], np.float16)) == [N_SHADES, -N_SHADES]


BAD_HEATS = {
    "short": (lambda n: np.zeros(n - 1), "heat of another shape"),
    "transposed": (lambda n: np.zeros((n, 3)), "heat of another shape"),
    "three axes": (lambda n: np.zeros((1, 2, n)), "heat of another shape"),
    "a number": (lambda n: 3.0, "heat of another shape"),
    "no layer": (lambda n: np.zeros((0, n)), "heat of another shape"),
    "infinite": (lambda n: np.r_[np.inf, np.zeros(n - 1)], "heat that is infinite"),
    "only nan": (lambda n: np.full(n, np.nan), "heat without a value"),
    "text": (lambda n: ["a"] * n, "no array of numbers"),
    "ragged": (lambda n: [[1.0], [1.0, 2.0]], "heat that is no array"),
    "complex": (lambda n: np.zeros(n, complex), "no array of numbers"),
    "too many layers": (lambda n: np.zeros((1_000, n)), "more layers than a strip holds"),
}


@pytest.mark.parametrize("name", BAD_HEATS)
def test_heat_that_does_not_fit_raises(film_inputs, name):
    make, message = BAD_HEATS[name]
    with pytest.raises(InputsError, match=message):
        av.token_strip(film_inputs, heat=make(film_inputs.n_pos))


def test_layers_rows_and_texts_that_are_not_there_raise(model, film_inputs, tmp_path):
    heat = np.ones((2, film_inputs.n_pos))
    for layer in (2, -1):
        with pytest.raises(InputsError, match="the heat has no such layer"):
            av.token_strip(film_inputs, heat=heat, layer=layer)
    with pytest.raises(InputsError, match="a layer without heat"):
        av.token_strip(film_inputs, layer=0)
    with pytest.raises(InputsError, match="str_tokens does not fit"):
        av.token_strip(film_inputs, str_tokens=["a"])
    batch = model.batch([film_inputs, film_inputs])
    with pytest.raises(InputsError, match=r"a strip shows one prompt(.|\n)*row=0"):
        av.token_strip(batch)
    for row in (2, -1):
        with pytest.raises(InputsError, match="no such row"):
            av.token_strip(batch, row=row)
    for path in ("strip.png", "none/strip.svg"):
        with pytest.raises(InputsError, match="cannot save a token strip"):
            av.token_strip(film_inputs).save(tmp_path / path)


# --- batches, bare inputs, lost files --------------------------------------------------------------------------------


def test_a_row_of_a_batch_is_its_own_strip(model, film_inputs):
    short = model.prepare(question="Who?")
    batch = model.batch([short, film_inputs])
    offset = film_inputs.n_pos - short.n_pos
    assert av.token_strip(batch, row=1).svg == av.token_strip(film_inputs).svg
    data = data_of(av.token_strip(batch, row=0))
    held = {data["spans"][unit[2]] for unit in data["lanes"][0]["units"] if expanded(unit[0])[0] < offset}
    assert held == {"padding"}
    page = batch._repr_html_()
    assert page.count("<svg") == 2
    assert f">{short.n_pos} tokens: " in page  # padding is not counted
    many = model.batch([short] * 5)._repr_html_()
    assert many.count("<svg") == MAX_ROWS
    assert "2 more rows" in many


def test_inputs_without_a_tokenizer_show_ids_unless_texts_are_given():
    inputs = AVInputs.from_tokens(torch.tensor([[5, 60, 700]]))
    assert ">700<" in inputs._repr_html_()
    assert ">␣cat<" in av.token_strip(inputs, str_tokens=["a", "b", " cat"]).svg


def test_a_clip_that_has_gone_is_said_and_the_tokens_are_shown(model, film_inputs, monkeypatch):
    def gone(self, indices):
        raise MediaError("no such file: film.mp4", expected="", got="", next_step="")

    monkeypatch.setattr(av.Clip, "read_frames", gone)
    page = film_inputs._repr_html_()
    assert "The frames cannot be shown: no such file: film.mp4." in page
    assert 'data-lane="video tokens"' in page


def test_a_picture_that_has_gone_is_said_and_its_tokens_are_shown(model, monkeypatch):
    def gone(self, indices):
        raise MediaError("no such file: x.png", expected="", got="", next_step="")

    inputs = model.prepare(media("image"), question="What is it?")
    monkeypatch.setattr(av.Clip, "read_frames", gone)
    found = plan(inputs)
    assert "The picture cannot be shown: no such file: x.png." in found.notes
    (lane,) = (lane for lane in found.lanes if lane.name == "image tokens")
    assert (lane.shots, sorted(positions_of(lane))) == ([], list(inputs.spans["image"]))


def test_more_spans_than_columns_share_them_under_the_name_of_most(model):
    inputs = model.prepare(["a", *media("image")] * 6, question="What?")
    lane = {lane.name: lane for lane in plan(inputs, max_units=40).lanes}["prompt to scale"]
    assert sorted(positions_of(lane)) == list(range(inputs.n_pos))
    assert len(lane.units) <= 10
    whole = [segment for segment in segments(inputs) for _ in range(segment.start, segment.stop)]
    for unit in lane.units:
        names = [whole[p].span for p in unit.positions]
        assert names.count(unit.span) == max(map(names.count, names))


def test_spans_that_are_not_drawn_are_named(film_inputs):
    for number in range(10):
        film_inputs = film_inputs.with_span(f"mine{number}", [number])
    found = plan(film_inputs)
    assert [lane.name for lane in found.lanes if lane.name.startswith("mine")] == [f"mine{n}" for n in range(8)]
    assert "Only 8 of 10 further spans are drawn: not ['mine8', 'mine9']." in found.notes


def test_a_strip_in_a_notebook_is_its_html(model, film_inputs):
    strip = av.token_strip(film_inputs)
    assert strip._repr_html_() == picture_html(strip) == strip.html
    assert model.batch([film_inputs] * 2)._repr_html_().count("<svg") == 2
