"""Drills say what is true of their scene, probes are told the truth about tokens, Muon makes orthogonal updates."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import some_digits

from hooked_av.tiny.architecture import untrained
from hooked_av.tiny.curriculum import Classroom, Lesson
from hooked_av.tiny.digits import NAMES
from hooked_av.tiny.drills import MAX_QUERIES, VERBS, draw_drills
from hooked_av.tiny.muon import Muon, orthogonal
from hooked_av.tiny.packing import UNLEARNED, packed_logits, packed_pass
from hooked_av.tiny.probes import AFTER_BLOCKS, OTHER, OWN, PLACE, Probes
from hooked_av.tiny.questions import NUMBERS, ORDINALS, SCENES, draw_scene
from hooked_av.tiny.scenes import Item, Scene

pytestmark = pytest.mark.usefixtures("one_thread")
STREAM = {verb.strip(): stream for stream, verb in VERBS.items()}


@pytest.fixture(scope="module")
def model():
    return untrained(0)


def queries_of(drill):
    """What is given before each learned word, and the word."""
    found, given_words = [], []
    for word, learned, _ in drill.words:
        if learned:
            found.append((given_words, word.strip()))
            given_words = []
        else:
            given_words.append(word.strip())
    return found


def place_of(scene: Scene, word: str) -> int:
    return ORDINALS.index(word) if len(scene.items) == 1 else NUMBERS.index(word) - 1


def digit_at(scene: Scene, stream: str, place: int) -> int:
    return getattr(scene.clip, stream)[place] if len(scene.items) == 1 else getattr(scene.items[place], stream)[0]


def true_answer(form: str, scene: Scene, said: list[str], options: tuple[str, ...]) -> str:
    """The answer to a drill's query, worked out from the words alone."""
    if form in ("drill, lookup", "drill, item lookup"):
        return NAMES[digit_at(scene, STREAM[said[1]], place_of(scene, said[0]))]
    if form in ("drill, letters", "drill, item letters"):
        return "ABCD"[options.index(NAMES[digit_at(scene, STREAM[said[1]], place_of(scene, said[0]))])]
    if form == "drill, place":
        return ORDINALS[getattr(scene.clip, STREAM[said[0]]).index(NAMES.index(said[1]))]
    if form == "drill, which item":
        rows = [getattr(item, STREAM[said[0]]) for item in scene.items]
        return NUMBERS[rows.index((NAMES.index(said[1]),)) + 1]
    if form == "drill, beside":
        return NAMES[
            getattr(scene.clip, STREAM[said[2]])[getattr(scene.clip, STREAM[said[0]]).index(NAMES.index(said[1]))]
        ]
    if form == "drill, sum":
        place = place_of(scene, said[0])
        return NUMBERS[scene.clip.shown[place] + scene.clip.spoken[place]]
    if form in ("drill, same", "drill, items same"):
        verbs = [at for at, word in enumerate(said) if word in STREAM]
        one, other = (digit_at(scene, STREAM[said[at]], place_of(scene, said[at - 1])) for at in verbs)
        given_digits = [said[at + 1] for at in verbs if at + 1 < len(said) and said[at + 1] in NAMES]
        if form == "drill, same":
            assert {STREAM[said[at]] for at in verbs} == {"shown", "spoken"}
            assert all(word in (NAMES[one], NAMES[other]) for word in given_digits)
        return "yes" if one == other else "no"
    assert form == "drill, count", form
    return NUMBERS[getattr(scene.clip, STREAM[said[0]]).count(NAMES.index(said[1]))]


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(list(SCENES)), seed=st.integers(0, 2**32), n=st.integers(2, 4))
def test_every_learned_word_of_a_drill_is_true_of_its_scene(kind, seed, n):
    rng = np.random.default_rng(seed)
    scene = draw_scene(kind, rng, n)
    drills = draw_drills(scene, rng)
    assert len(drills) >= 3
    for drill in drills:
        if drill.form == "drill, copy":
            words = [word.text for word in drill.words]
            assert words[: len(words) // 2] == words[len(words) // 2 :]
            continue
        queries = queries_of(drill)
        assert 1 <= len(queries) <= MAX_QUERIES
        for word in drill.words:
            if word.pair is not None:
                assert word.text in (NUMBERS[sum(word.pair)], "yes" if word.pair[0] == word.pair[1] else "no")
        for said, word in queries:
            assert word == true_answer(drill.form, scene, said, drill.options), (drill.form, said)


def test_yes_and_no_are_equally_frequent_in_drills():
    answers = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        for kind in ("paired", "paired items"):
            answers += [
                w for d in draw_drills(draw_scene(kind, rng), rng) if "same" in d.form for _, w in queries_of(d)
            ]
    assert answers.count("yes") == answers.count("no") > 100


def test_marks_say_what_every_media_token_holds(model):
    clip = Scene((Item((3, 8), (5, 1)),))
    items = Scene((Item((4,), (2,)), Item((7,), is_still=True), Item(spoken=(9,))))
    classroom = Classroom(model, Lesson(), 0)
    for scene, wanted in (
        (clip, {"video": [(3, UNLEARNED, 0), (8, UNLEARNED, 1)], "audio": [(5, 3, 0), (1, 8, 1)]}),
        (items, {"video": [(4, UNLEARNED, 0)], "audio": [(2, 4, 0), (9, UNLEARNED, 2)], "image": [(7, UNLEARNED, 1)]}),
    ):
        packed = classroom._scene(scene, ())
        for modality, seconds in wanted.items():
            at = packed.shared_ids == model.family.placeholder(modality)
            rows = packed.marks[:, at].T.reshape(len(seconds), -1, 3)
            for second, told in zip(rows, seconds, strict=True):
                assert {tuple(row) for row in second.tolist()} == {told}
        text = ~torch.isin(
            packed.shared_ids, torch.tensor([model.family.placeholder(m) for m in ("audio", "video", "image")])
        )
        assert (packed.marks[:, text] == UNLEARNED).all()


def drill_batch(model):
    classroom = Classroom(model, Lesson(scenes=3, drills_share=1.0), 0)
    return classroom.batch(5, some_digits())


@torch.no_grad()
def test_a_pass_in_parts_gives_the_same_logits(model):
    batch = drill_batch(model)
    _, logits = packed_pass(model, batch, AFTER_BLOCKS)
    assert torch.equal(logits, packed_logits(model, batch))


def test_probes_learn_what_the_stream_tells(model):
    """With the marks written into the residual stream, the probes' loss falls to zero; with others, it does not."""
    batch = drill_batch(model)
    probes = Probes(model)
    told = batch.marks.clamp(min=0)
    letters = probes._option_letters(batch.input_ids[:, batch.n_shared :])
    assert (letters != UNLEARNED).sum() >= 3
    resid = torch.zeros(*batch.input_ids.shape, model.cfg.d_model)
    directions = torch.nn.functional.normalize(model.decoder.embed(probes.words), dim=-1)
    resid[:, : batch.n_shared] += 5 * directions[told[OWN]]
    resid[:, : batch.n_shared, :10] += 5 * torch.nn.functional.one_hot(told[OTHER], 10)
    resid[:, : batch.n_shared, 10:14] += 5 * torch.nn.functional.one_hot(told[PLACE], 4)
    resid[:, batch.n_shared :, 14:18] += 5 * torch.nn.functional.one_hot(letters.clamp(min=0), 4)
    late = torch.zeros_like(resid)
    rows, pairs = torch.arange(len(late))[:, None], batch.pairs.clamp(min=0)
    assert (batch.pairs != UNLEARNED).sum() >= 10
    late[rows, batch.told_rows, :10] = 5.0 * torch.nn.functional.one_hot(pairs[..., 0], 10)
    late[rows, batch.told_rows, 10:20] = 5.0 * torch.nn.functional.one_hot(pairs[..., 1], 10)
    resids = [resid.detach(), late]
    optimiser = torch.optim.Adam(probes.parameters(), lr=0.1)
    before = probes(model, resids, batch).item()
    for _ in range(150):
        optimiser.zero_grad()
        loss = probes(model, resids, batch)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * before
    for number in (0, 1):
        others = [resid.roll(1, dims=0) if i == number else resid for i, resid in enumerate(resids)]
        assert probes(model, others, batch).item() > loss.item() + 1


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 24, 8), (2, 8, 24)])
def test_updates_of_muon_are_about_orthogonal(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert ((values > 0.5) & (values < 1.3)).all()


def test_muon_fits_a_matrix():
    torch.manual_seed(0)
    wanted, matrix = torch.randn(12, 20), torch.nn.Parameter(torch.zeros(12, 20))
    optimiser = Muon([matrix], lr=0.1)
    for step in range(200):
        optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        optimiser.zero_grad()
        (matrix - wanted).square().sum().backward()
        optimiser.step()
    assert (matrix - wanted).norm() < 0.2 * wanted.norm()
