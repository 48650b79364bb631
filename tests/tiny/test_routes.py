"""Routes of tiny-av's kind: what is cut in training is what the package's own cuts take away, in every layer."""

import re
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from support.tiny import some_digits
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

import hooked_av as av
from hooked_av.errors import CheckpointError
from hooked_av.families import checkpoint
from hooked_av.families.checkpoint import PACKAGED, PACKAGED_FOLDER, Checkpoint, shard_files
from hooked_av.tiny.architecture import untrained
from hooked_av.tiny.cases import held_out_cases
from hooked_av.tiny.curriculum import Classroom, Lesson
from hooked_av.tiny.drills import draw_drills
from hooked_av.tiny.evaluation import EVALUATION_SEED, _parts, make_exam, take_under
from hooked_av.tiny.held_out import packaged_digits
from hooked_av.tiny.packaging import ENCODERS, pack
from hooked_av.tiny.packing import BEFORE_ITEMS, END, UNLEARNED, drill_slot, packed_logits
from hooked_av.tiny.questions import draw_scene
from hooked_av.tiny.recipes import beginning_of, recipe_of
from hooked_av.tiny.routes import ASKED, BEHIND, ITEMS, MODEL_NAMES, ROUTES, UNCUT
from hooked_av.tiny.truth import CUT_NAMES, truth_of, wilson_interval

pytestmark = pytest.mark.usefixtures("one_thread")
CUTS = [UNCUT, *({BEHIND}, {ASKED}, {ITEMS}, {BEHIND, ASKED})]


@pytest.fixture(scope="module")
def model():
    return untrained(0)


def answers_packed(model, family: str, options: bool, cuts) -> torch.Tensor:
    exam = make_exam(family, 4, options)
    found = []
    for part, rng in _parts(exam):
        batch = Classroom(model, Lesson(), EVALUATION_SEED).packed(
            exam.scenes[part], exam.questions[part], some_digits(), rng
        )
        logits = packed_logits(model, replace(batch, cuts=frozenset(cuts)))
        found += [
            row[at]
            for row, forms in zip(logits, batch.forms, strict=True)
            for at, form in enumerate(forms)
            if form == exam.form
        ]
    return torch.stack(found)


def answers_alone(model, family: str, options: bool, cuts) -> torch.Tensor:
    """Prompt by prompt, with the package's interventions."""
    found = []
    for case in held_out_cases(model, family, 4, options=options, digits=some_digits()):
        inputs = with_parts(case.inputs) if ITEMS in cuts else case.inputs
        found.append(model(inputs, logits_at="last", interventions=cuts_of(inputs, cuts))[0, -1])
    return torch.stack(found)


def with_parts(inputs: av.AVInputs) -> av.AVInputs:
    """With spans part0, part1, ...: an item each, and the marks before it."""
    media = inputs.spans["media"].positions
    n_items = sum(bool(re.fullmatch(r"item\d+", name)) for name in inputs.spans)
    ends = [int(inputs.spans[f"item{n}"].positions[-1]) + 1 for n in range(n_items - 1)]
    for number, (begin, end) in enumerate(pairwise([int(media[0]), *ends, int(media[-1]) + 1])):
        inputs = inputs.with_span(f"part{number}", range(begin, end))
    return inputs


def cuts_of(inputs: av.AVInputs, cuts) -> list[av.interventions.Intervention]:
    parts = [name for name in inputs.spans if name.startswith("part")]
    items = [f"{key}->{query}" for key, query in combinations(parts, 2)]
    return [av.block_attention(cut) for cut in (*sorted(cuts - {ITEMS}), *items)]


@torch.no_grad()
@pytest.mark.parametrize(("cuts", "options"), [*((cuts, False) for cuts in CUTS), ({BEHIND}, True)])
def test_packed_cuts_are_those_of_prompts(model, cuts, options):
    packed, alone = (of(model, "shown in item", options, cuts) for of in (answers_packed, answers_alone))
    assert (packed - alone).abs().max() < 3e-5
    if cuts:
        uncut = answers_packed(model, "shown in item", options, UNCUT)
        assert (packed - uncut).abs().max() > 1e-3


def test_every_position_of_the_media_belongs_to_an_item(model):
    rng = np.random.default_rng(0)
    scene = draw_scene("items", rng, 3)
    packed = Classroom(model, Lesson(), 0)._scene(scene, ())
    assert sorted(set(packed.items.tolist())) == [BEFORE_ITEMS, 0, 1, 2]
    assert (packed.items.diff() >= 0).all()
    assert (packed.marks[0][packed.items == BEFORE_ITEMS] == UNLEARNED).all()


def test_drills_stand_in_the_question_where_answers_never_read_media(model):
    rng = np.random.default_rng(0)
    drill = draw_drills(draw_scene("free", rng, 3), rng)[0]
    free, cut = drill_slot(model, drill), drill_slot(model, drill, frozenset({BEHIND}))
    assert cut.n_asked == len(cut.tokens)
    assert free.n_asked < len(free.tokens)
    assert [a.target for a in free.answers] == [a.target for a in cut.answers]
    text = model.family.tokenizer.decode(cut.tokens)
    assert text.startswith(drill.request)
    assert "<|im_end|>" not in text


def test_the_end_of_an_answer_is_learned(model):
    classroom = Classroom(model, Lesson(scenes=3, drills_share=0.0, drills_share_later=0.0), 0)
    batch = classroom.batch(1, some_digits())
    ends = torch.tensor([[form == END for form in forms] for forms in batch.forms])
    assert ends.sum() == (batch.targets != UNLEARNED).sum() / 2
    assert set(batch.targets[ends].tolist()) == {model.to_single_token("<|im_end|>")}
    row, at = (int(found[0]) for found in ends.nonzero(as_tuple=True))
    before = batch.input_ids[row, batch.answer_rows[row, at]]
    assert before == batch.targets[row, at - 1]  # the answer itself, which the row has read


def test_probes_are_told_where_the_route_lets_them_know(model):
    for cuts in (UNCUT, frozenset({BEHIND})):
        classroom = Classroom(model, Lesson(scenes=2, drills_share=0.0, drills_share_later=0.0), 0, cuts)
        batch = classroom.batch(1, some_digits())
        learned = batch.targets != UNLEARNED
        asked = torch.cat([torch.zeros_like(batch.shared), batch.asked], dim=1)
        told = asked.gather(1, batch.told_rows)[learned]
        assert told.all() == (BEHIND in cuts)
        assert not asked.gather(1, batch.answer_rows)[learned].any()


@pytest.mark.parametrize("route", ROUTES)
def test_what_a_route_starts_from(route):
    trained = av.HookedAVTransformer.from_pretrained("tiny-av")
    begins = beginning_of(route, 3)
    recipe = recipe_of(route, 3)
    assert (recipe.seed, recipe.cuts) == (3, ROUTES[route].cuts)
    same = {name: torch.equal(value, trained.state_dict()[name]) for name, value in begins.state_dict().items()}
    encoders = [same[name] for name in same if name.startswith("encoders.")]
    decoder = [
        same[name] for name in same if name.startswith("decoder.blocks.") and "ln" not in name and "b_" not in name
    ]
    assert all(encoders) == (route != "free")
    assert all(decoder) == (route == "redundant")
    assert (recipe.audio.steps > 0) == (route == "free")


@torch.no_grad()
def test_the_truth_says_what_falls_under_a_cut(model):
    table = truth_of(model, some_digits(), 6, families=["visual", "shown in item"])
    assert len(table) == 2 * 4 + 2 * 5
    assert set(table["cut"]) == set(CUT_NAMES)
    assert ((table["low"] <= table["right"]) & (table["right"] <= table["high"])).all()
    trained = av.HookedAVTransformer.from_pretrained("tiny-av")
    right, n = take_under(trained, make_exam("visual", 10), some_digits(), [UNCUT, frozenset({BEHIND, ASKED})])
    assert right[0] >= 0.8 * n
    assert right[1] <= 0.4 * n


@torch.no_grad()
def test_plain_questions_of_tiny_av_go_past_the_question_and_lettered_ones_through_it():
    """The ground truth of the shipped weights; the docs have the whole table."""
    trained = av.HookedAVTransformer.from_pretrained("tiny-av")
    table = truth_of(trained, packaged_digits("held_out"), 30, families=["visual", "shown in item"])
    for (_, options), rows in table.groupby(["form", "options"]):
        right, low, high = (rows.set_index("cut")[name] for name in ("right", "low", "high"))
        survives, falls = ("media -> behind the question", "media -> question")[:: 1 if options else -1]
        assert low["nothing"] > 0.75  # 28 of 30
        assert right[survives] >= right["nothing"] - 0.1
        for name in (falls, "both"):
            assert low[name] <= rows["text alone"].iloc[0] + 0.05
            assert high[name] < low["nothing"]
    items = table.set_index(["form", "options", "cut"])["right"]
    for options in (False, True):
        assert items["shown in item", options, "items -> other items"] > 0.85


@torch.no_grad()
def test_redundant_ways_are_each_enough_and_there_is_no_third():
    """The ground truth of tiny-av-redundant: plain questions survive each cut and fall with both."""
    trained = av.HookedAVTransformer.from_pretrained("tiny-av-redundant")
    table = truth_of(trained, packaged_digits("held_out"), 30, families=["visual", "shown in item"])
    for (_, options), rows in table.groupby(["form", "options"]):
        right, low, high = (rows.set_index("cut")[name] for name in ("right", "low", "high"))
        enough = ("nothing", "media -> behind the question", *(() if options else ("media -> question",)))
        assert all(low[name] > 0.6 for name in enough)  # 25 of 30
        assert low["both"] <= rows["text alone"].iloc[0] + 0.05
        assert high["both"] < low["nothing"]
        if options:
            assert right["media -> question"] <= 0.6


def test_variants_of_the_packaged_checkpoint_are_indexes_of_one_folder():
    assert tuple(PACKAGED) == MODEL_NAMES
    assert PACKAGED["tiny-av"] is None
    for name, variant in PACKAGED.items():
        assert name == "-".join(filter(None, ("tiny-av", variant)))
        files = shard_files(Checkpoint(PACKAGED_FOLDER, variant))
        assert [path.name for path in files if "decoder" not in path.name] == [ENCODERS]
    held = {path.name for path in PACKAGED_FOLDER.glob("*.safetensors")}
    assert len(held) == 1 + len(PACKAGED)


def test_a_variant_shares_the_files_of_its_folder(tmp_path, monkeypatch):
    """One folder, two models: the same encoders, each its own decoder; transformers reads them by the same names."""
    trained, other = av.HookedAVTransformer.from_pretrained("tiny-av"), untrained(5)
    other.encoders.load_state_dict(trained.encoders.state_dict())
    pack({None: trained, "two": other}, tmp_path)
    monkeypatch.setattr(checkpoint, "PACKAGED_FOLDER", tmp_path)
    monkeypatch.setattr(checkpoint, "PACKAGED", {"one": None, "two": "two"})
    for name, wanted in (("one", trained), ("two", other)):
        found = av.HookedAVTransformer.from_pretrained(name)
        for parameter, rows in found.state_dict().items():
            assert rows.dtype == torch.float32
            assert torch.equal(rows, wanted.state_dict()[parameter].bfloat16().float()), parameter
    theirs = Thinker.from_pretrained(tmp_path, variant="two")
    assert torch.equal(theirs.lm_head.weight, other.decoder.unembed.weight.bfloat16().float())


def test_models_of_one_folder_have_the_same_encoders(tmp_path):
    with pytest.raises(CheckpointError, match="the same encoders"):
        pack({None: untrained(0), "two": untrained(1)}, tmp_path)
    with pytest.raises(CheckpointError, match="without a variant"):
        pack({"two": untrained(1)}, tmp_path)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (98, 100), (200, 200)])
def test_intervals_are_scipys(count, n):
    wanted = binomtest(count, n).proportion_ci(method="wilson")
    assert wilson_interval(count, n) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
