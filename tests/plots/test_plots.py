"""Figures, by their data: curves equal the arrays they show, lanes hold every token once, nothing rests on colour."""

import warnings
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb

import hooked_av as av
from hooked_av.errors import InputsError
from hooked_av.plots.lens import MAX_COLUMNS, plot_logit_lens
from hooked_av.plots.strip.layout import MAX_VECTOR_CELLS, plot_layout
from hooked_av.plots.strip.segments import BOX_GAP, MAX_BOXES, Segment, flow, lane_cells, segments
from hooked_av.plots.style import LOOKS, Drawing, look_of, svg_text

OKABE_ITO = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000"}
# "several" mixes clips with and without sound on purpose
pytestmark = [
    pytest.mark.filterwarnings("ignore:videos with and without sound:hooked_av.HookedAVWarning"),
    pytest.mark.usefixtures("one_thread"),
]
SMALL = av.Sampling(max_pixels=784 * 12)


@pytest.fixture(scope="module")
def model():
    return av.random_omni(n_layers=2)


def film(seconds=3.0, *, sound=True, fps=4):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (int(seconds * fps), 60, 90, 3), dtype=np.uint8)
    wave = rng.uniform(-0.5, 0.5, int(16_000 * seconds)) if sound else None
    return av.Clip.from_arrays(frames, fps, wave, 16_000 if sound else None)


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


MEDIA = ["film", "film without sound", "sound", "image", "text", "several"]


@pytest.fixture(scope="module", params=MEDIA)
def inputs(model, request):
    return model.prepare(media(request.param), question="What moves?", options=["a dog", "a cat"], sampling=SMALL)


@pytest.fixture(scope="module")
def film_inputs(model):
    return model.prepare(film(), question="What moves?", sampling=SMALL)


# --- layout ----------------------------------------------------------------------------------------------------------


def test_segments_hold_every_token_once_and_in_order(inputs):
    order = segments(inputs)
    assert [p for s in order for p in range(s.start, s.stop)] == list(range(inputs.n_pos))
    assert all(one.span != two.span for one, two in pairwise(order))


def test_segments_are_parts_of_the_spans_they_are_named_after(inputs):
    for segment in segments(inputs):
        assert set(range(segment.start, segment.stop)) <= set(inputs.spans[segment.span]), segment
    named = {segment.span for segment in segments(inputs)}
    assert {"question", "option_a", "option_b", "last", "system", "assistant"} <= named
    assert ("boundary" in named) == ("boundary" in inputs.spans)


def test_lanes_hold_every_media_token_once(inputs):
    items = inputs.spans.places.items
    for item in range(max(1, items.max() + 1)):
        lanes = lane_cells(inputs, item)
        drawn = sorted(cell.position for cells in lanes.values() for cell in cells)
        assert drawn == np.flatnonzero(items == item).tolist()
        for modality, cells in lanes.items():
            assert {cell.position for cell in cells} <= set(inputs.spans[modality])


def test_cells_fill_their_time_without_overlap(film_inputs):
    seconds, grid = film_inputs.spans.places.seconds, film_inputs.spans.places.cells
    lanes = lane_cells(film_inputs)
    assert len(lanes["video"]) > len({cell.group for cell in lanes["video"]}) > 1
    for cell in [*lanes["audio"], *lanes["video"]]:
        start, stop = seconds[cell.position]
        assert start - 1e-9 <= cell.left
        assert cell.left + cell.width <= stop + 1e-9
    for group in {cell.group for cell in lanes["video"]}:
        cells = [cell for cell in lanes["video"] if cell.group == group]
        start, stop = seconds[cells[0].position]
        assert sum(cell.width * cell.height for cell in cells) == pytest.approx(stop - start)
        assert len({(cell.left, cell.bottom) for cell in cells}) == len(cells)
        rows = {cell.position: round((1 - cell.bottom) / cell.height) - 1 for cell in cells}
        columns = {cell.position: round((cell.left - start) / cell.width) for cell in cells}
        assert all((rows[p], columns[p]) == tuple(grid[p, 1:]) for p in rows)


def test_the_figure_draws_those_lanes_and_segments(inputs):
    figure = plot_layout(inputs)
    axes = {one.get_label(): one for one in figure.axes}
    for modality, cells in lane_cells(inputs).items():
        (collection,) = [c for c in axes[modality].collections if isinstance(c, PatchCollection)]
        corners = [path.vertices[:4].min(axis=0).tolist() for path in collection.get_paths()]
        assert corners == [[cell.left, cell.bottom] for cell in cells]
    order = segments(inputs)
    bars = [(bar.get_x(), bar.get_width(), bar.get_label()) for bar in axes["scale"].patches]
    assert bars == [(s.start, s.stop - s.start, s.span) for s in order]
    written = [text.get_text() for text in axes["order"].texts]
    assert [name for s in order for name in (s.span, s.positions)] == written[: 2 * len(order)]
    assert [bar.get_label() for bar in axes["order"].patches] == [s.span for s in order]


@pytest.mark.parametrize(
    ("name", "lanes"),
    [
        ("film", ["frames", "waveform", "audio", "video"]),
        ("film without sound", ["frames", "video"]),
        ("sound", ["waveform", "audio"]),
        ("image", ["image"]),
        ("text", []),
    ],
)
def test_only_lanes_that_exist_are_drawn(model, name, lanes):
    figure = plot_layout(model.prepare(media(name), question="What moves?", sampling=SMALL))
    assert [axes.get_label() for axes in figure.axes] == [*lanes, "scale", "order"]
    timed = [axes for axes in figure.axes if axes.get_label() in ("frames", "waveform", "audio", "video")]
    assert [axes.get_xlabel() for axes in timed] == [""] * (len(timed) - 1) + ["time in the clip, seconds"] * bool(
        timed
    )
    assert len({axes.get_xlim() for axes in timed}) <= 1


def test_frames_stand_where_their_groups_begin(film_inputs):
    figure = plot_layout(film_inputs)
    frames = next(axes for axes in figure.axes if axes.get_label() == "frames")
    lefts = [image.get_extent()[0] for image in frames.images]
    rights = [image.get_extent()[1] for image in frames.images]
    video = film_inputs.spans["video"].positions
    starts = np.unique(film_inputs.spans.places.seconds[video, 0])
    assert len(lefts) > 1
    assert set(lefts) <= set(starts)
    assert all(right <= left for right, left in zip(rights, [*lefts[1:], frames.get_xlim()[1]], strict=True))


def test_frames_of_a_long_clip_are_large_enough_to_see(model):
    inputs = model.prepare(film(40.0, sound=False, fps=2), question="What?", sampling=av.Sampling(max_pixels=784))
    assert len(lane_cells(inputs)["video"]) >= 40  # too many groups to show each
    frames = next(axes for axes in plot_layout(inputs).axes if axes.get_label() == "frames")
    heights = [image.get_extent()[3] - image.get_extent()[2] for image in frames.images]
    assert len(heights) >= 4
    assert min(heights[:-1]) > 0.8
    assert f"{len(heights)} shown" in [text.get_text() for text in frames.texts]


def test_the_waveform_keeps_every_peak(model):
    wave = np.zeros(160_000)
    wave[77_777] = 0.9
    clip = av.Clip.from_arrays(waveform=wave, sampling_rate_hz=16_000)
    figure = plot_layout(model.prepare(clip, question="What?"))
    (drawn,) = figure.axes[0].collections
    peak = drawn.get_paths()[0].vertices
    assert peak[:, 1].max() == pytest.approx(0.9)
    assert peak[peak[:, 1].argmax(), 0] == pytest.approx(77_777 / 16_000, abs=0.01)


def test_a_second_item_is_drawn_in_its_own_time(model):
    inputs = model.prepare(media("several"), question="What moves?", sampling=SMALL)
    figure = plot_layout(inputs, item=3)
    assert [axes.get_label() for axes in figure.axes] == ["frames", "video", "scale", "order"]
    assert figure.axes[0].get_xlim() == pytest.approx((0, 2.0))


def test_inputs_without_their_clips_are_drawn_too(model, film_inputs):
    tensors = {"input_ids": film_inputs.input_ids, "use_audio_in_video": True, **film_inputs.features}
    figure = plot_layout(model.inputs_from_tensors(**tensors))
    assert [axes.get_label() for axes in figure.axes] == ["audio", "video", "scale", "order"]


def test_boxes_never_overlap_and_a_long_order_keeps_every_position():
    order = [Segment(("audio", "video")[n % 2], 50 * n, 50 * n + 50) for n in range(200)]
    boxes = flow(order, 9.3)
    assert len(boxes) <= MAX_BOXES
    assert [p for box in boxes for p in range(box.segment.start, box.segment.stop)] == list(range(10_000))
    for one, two in pairwise(boxes):
        assert two.line == one.line + 1 or two.left >= one.left + one.width + BOX_GAP - 1e-9
    assert max(box.left + box.width for box in boxes) <= 9.3
    assert any("more" in box.segment.span for box in boxes)


@pytest.mark.parametrize("name", ["film", "several"])
def test_no_two_texts_of_the_layout_overlap(model, name):
    inputs = model.prepare(media(name), question="What moves?", options=["a dog", "a cat"], sampling=SMALL)
    figure = plot_layout(inputs)
    svg_text(figure)  # lays everything out
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for i, box in enumerate(boxes):
        for j in range(i):
            assert not box.overlaps(boxes[j]), (texts[i].get_text(), texts[j].get_text())


def test_many_tokens_become_pixels_so_that_the_file_stays_small(model):
    clip = av.Clip.from_arrays(np.zeros((8, 700, 700, 3), np.uint8), fps=4)
    inputs = model.prepare(clip, question="What?", sampling=av.Sampling(fps=4.0, max_pixels=784 * 500))
    assert len(inputs.spans["video"]) > MAX_VECTOR_CELLS
    figure = plot_layout(inputs)
    assert figure.axes[1].collections[0].get_rasterized()
    assert len(svg_text(figure)) < 600_000


def test_a_batch_is_refused(model, film_inputs):
    with pytest.raises(InputsError, match="a batch has spans for each row"):
        plot_layout(model.batch([film_inputs, film_inputs]))


# --- curves and lens -------------------------------------------------------------------------------------------------


TWO = ("audio → question", "video → question")


def curves(answer=" three", pathways=TWO, window=3):
    """Of one sample, as `knockout_curves` gives it."""
    shape = (1, len(pathways), 9)
    p = np.random.default_rng(1).uniform(0, 1, shape)
    none = np.full((1, 0, *shape[1:]), np.nan)
    return av.analyses.InformationFlow(
        answer_ids=np.zeros(1, np.int64), gold_ids=np.full(1, -1), alternative_ids=np.ones(1, np.int64),
        log_p_answer_base=np.log([0.75]), log_p_gold_base=np.full(1, np.nan), log_p_alternative_base=np.log([0.2]),
        ids=("0",), tasks=("",), token_texts=((0, answer), (1, " two")), log_p_answer=np.log(p),
        log_p_gold=np.full(shape, np.nan), log_p_alternative=np.log(p / 3), best_ids=np.zeros(shape, np.int64),
        control_log_p_answer=none, control_log_p_gold=none, control_log_p_alternative=none,
        control_best_ids=none.astype(np.int64), windows=np.zeros((9, 2), np.int64), pathways=pathways, window=window,
    )  # fmt: skip


def test_curves_are_the_arrays():
    result = curves()
    figure = result.plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(TWO)
    for axes, change in zip(figure.axes, result.change_percent, strict=True):
        (line,) = [line for line in axes.lines if line.get_label() == "this pathway cut"]
        assert np.array_equal(line.get_ydata(), change)
        assert np.array_equal(line.get_xdata(), np.arange(9))
    assert figure.get_supylabel() == "change of answer\nprobability, %"
    assert figure.get_supxlabel() == "layer (centre of the window that is cut)"
    assert not figure.legends  # nothing stands beside the curves
    for said in ("clean answer “␣three”", "3 layers", "p = 0.75"):
        assert said in figure.get_suptitle()


def test_curves_differ_without_their_colours():
    names = ("audio → question", "video → question", "image → question", "av → question")
    figure = curves(pathways=names, window=1).plot()
    assert len({axes.lines[-1].get_marker() for axes in figure.axes}) == 4
    assert "each layer alone" in figure.get_suptitle()


def test_two_readers_of_one_span_have_panels_of_their_own():
    names = ("audio → question", "video → question", "audio → last", "video → last")
    panels = {axes.get_title(loc="left"): axes for axes in curves(pathways=names, window=1).plot().axes}
    assert tuple(panels) == names
    colours = {name: axes.lines[-1].get_color() for name, axes in panels.items()}
    assert colours["audio → last"] == colours["audio → question"] == look_of("audio").colour


def grey(colour):
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def test_colours_are_okabe_and_itos_and_audio_and_video_differ_in_grey():
    assert {look.colour for look in LOOKS.values()} <= OKABE_ITO
    assert abs(grey(look_of("audio").colour) - grey(look_of("video").colour)) > 0.2
    looks = [(look.hatch, look.colour == "#000000") for look in LOOKS.values()]
    assert len(set(looks)) == len(looks)  # in strips, hatches alone tell spans apart (boundary is black)


def lens(n_layers=3, n_positions=1, n_ranks=4):
    rng = np.random.default_rng(2)
    shape = (n_layers, n_positions, n_ranks)
    p = -np.sort(-rng.dirichlet(np.ones(n_ranks + 1), size=shape[:2])[..., :n_ranks], axis=-1).astype(np.float32)
    texts = tuple(
        tuple(tuple(f" t{layer}.{pos}.{rank}" for rank in range(n_ranks)) for pos in range(n_positions))
        for layer in range(n_layers)
    )
    zero = np.zeros((n_layers, n_positions, 0), np.float32)
    return av.analyses.LogitLens(
        top_ids=np.zeros(shape, np.int64),
        top_logits=p,
        top_probabilities=p,
        token_probabilities=zero,
        token_ranks=zero.astype(np.int64),
        positions=np.arange(n_positions) + 7,
        top_texts=texts,
        tokens=(),
        settings={"convention": "final_norm"},
    )


def test_lens_of_one_position_shows_its_best_tokens():
    result = lens()
    axes = result.plot().axes[0]
    assert np.array_equal(axes.images[0].get_array(), result.top_probabilities[:, 0])
    assert axes.images[0].origin == "lower"
    written = {(round(t.get_position()[0] + 0.46), t.get_position()[1]): t.get_text() for t in axes.texts[::2]}
    assert written == {(r, layer): f"␣t{layer}.0.{r}" for r in range(4) for layer in range(3)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("best tokens of position 7", "layer")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["best", "2nd", "3rd", "4th"]
    assert "final norm" in axes.get_title(loc="left")


def test_lens_of_several_positions_shows_the_best_of_each_and_at_most_twelve():
    result = lens(n_positions=20)
    axes = plot_logit_lens(result).axes[0]
    assert np.array_equal(axes.images[0].get_array(), result.top_probabilities[:, -MAX_COLUMNS:, 0])
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(p) for p in range(15, 27)]
    assert [t.get_text() for t in axes.texts[: 2 * MAX_COLUMNS : 2]] == [f"␣t0.{p}.0" for p in range(8, 20)]


def test_any_token_can_be_drawn():
    result = curves(answer="你好\n\x00 שלום")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of glyphs that the font has not
        svg_text(result.plot())


# --- style -----------------------------------------------------------------------------------------------------------


def test_figures_are_vector_reproducible_and_leave_no_trace(film_inputs):
    before = dict(mpl.rcParams)
    first, second = (svg_text(plot_layout(film_inputs)) for _ in range(2))
    assert first == second
    assert dict(mpl.rcParams) == before
    root = ElementTree.fromstring(first)
    assert root.tag.endswith("svg")
    assert "<image" not in svg_text(curves().plot())


def test_a_notebook_shows_a_figure_as_svg():
    figure = curves().plot()
    assert isinstance(figure, Drawing)
    assert "<svg" in figure._repr_svg_()
