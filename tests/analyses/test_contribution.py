"""Modality contribution: cuts and swaps equal to those made by hand, tables and the index over samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import hooked_av as av
from hooked_av.analyses.bootstrap import bootstrap_interval
from hooked_av.analyses.flow.contribution import CONDITIONS
from hooked_av.errors import InputsError
from hooked_av.tiny.samples import read_samples

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = av.HookedAVTransformer.from_pretrained("tiny-av")
SAMPLES = read_samples()
OTHER = SAMPLES[-1].clip


def case(number, task):
    sample = SAMPLES[number]
    inputs = MODEL.prepare(sample.clip, question=sample.question)
    swapped = av.media_swaps(MODEL, sample.clip, OTHER, question=sample.question)
    return av.Case(inputs, sample.answer, id=f"film {number}", task=task, swapped=swapped)


CASES = [case(0, "seeing"), case(2, "seeing"), case(1, "hearing"), case(9, "hearing")]


@pytest.fixture(scope="module")
def found():
    return av.modality_contribution(MODEL, iter(CASES))


def p_of(inputs, answer, **how):
    with torch.no_grad():
        return float(MODEL(inputs, **how)[0, -1].double().softmax(-1)[answer])


def test_cuts_equal_cuts_made_by_hand(found):
    block = lambda scores, hook: torch.full_like(scores, -torch.inf)  # noqa: E731
    for number, one in enumerate(CASES):
        for condition, name in (("audio cut", "audio"), ("video cut", "video"), ("both cut", "av")):
            own = set(one.inputs.spans[name])
            later = [row for row in range(min(own), one.inputs.n_pos) if row not in own]
            inputs = one.inputs.with_span("later", later)
            with torch.no_grad():
                logits = MODEL.run_with_hooks(
                    inputs, fwd_hooks=[(f"blocks.*.attn.hook_attn_scores@later<-{name}", block)]
                )[0, -1]
            p = float(logits.double().softmax(-1)[found.answer_ids[number]])
            column = found.conditions.index(condition)
            assert found.p_answer[number, column] == pytest.approx(p, rel=1e-3, abs=1e-6)
            assert found.best_ids[number, column] == logits.argmax()
            assert found.probability_drop[number, column] == pytest.approx(found.p_answer_base[number] - p, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning")
def test_every_cut_has_a_random_cut_of_its_size(found):
    assert found.settings["controls"] == {"draws": 1, "spread": "entries", "seed": 0}
    drawn = av.Controls(2, "rows", seed=3)
    one = CASES[2]
    twice = av.modality_contribution(MODEL, one, controls=drawn)
    for condition, name in (("audio cut", "audio"), ("video cut", "video"), ("both cut", "av")):
        own = set(one.inputs.spans[name])
        inputs = one.inputs.with_span("later", [row for row in range(min(own), one.inputs.n_pos) if row not in own])
        column, drops = twice.conditions.index(condition), []
        for draw in range(2):
            spec = drawn.of([av.block_attention(keys=name, queries="later")], one.id, draw)
            drops.append(twice.p_answer_base[0] - p_of(inputs, twice.answer_ids[0], interventions=spec))
            p = twice.control_p_answer[0, draw, column]
            assert twice.p_answer_base[0] - p == pytest.approx(drops[-1], abs=1e-5)
        assert twice.control_drop[0, column] == pytest.approx(np.mean(drops), abs=1e-5)
        row = twice.summary().set_index("condition").loc[condition]
        assert row.control_drop == twice.control_drop[0, column]
    for condition in ("silence", "other clip"):
        assert np.isnan(twice.control_p_answer[..., twice.conditions.index(condition)]).all()
        assert (twice.control_best_ids[..., twice.conditions.index(condition)] == -1).all()
    none = av.modality_contribution(MODEL, one.inputs, controls=0)
    assert none.control_p_answer.shape == (1, 0, 3)
    assert none.summary().control_drop.isna().all()
    assert found.control_drop[:, :3].std() > 0.01  # there is something to compare


def test_swaps_are_the_same_question_about_other_media(found):
    assert found.conditions == tuple(CONDITIONS)
    film = SAMPLES[0].clip
    by_hand = {
        "silence": film.silenced(),
        "black frames": film.blanked(),
        "silence and black frames": film.silenced().blanked(),
        "other sound": film.with_audio(OTHER),
        "other frames": film.with_frames(OTHER.frames, OTHER.fps),
        "other clip": OTHER,
    }
    for name, clip in by_hand.items():
        p = p_of(MODEL.prepare(clip, question=SAMPLES[0].question), found.answer_ids[0])
        assert found.p_answer[0, found.conditions.index(name)] == pytest.approx(p, rel=1e-4, abs=1e-6)


def test_tiny_av_needs_what_the_question_is_about(found):
    index = found.index().set_index(["task", "kind"])["index"]
    assert index["seeing", "cut"] > 0.5
    assert index["hearing", "cut"] < -0.5


def test_attention_is_that_of_the_whole_pattern(found):
    assert found.attention.shape == (len(CASES), MODEL.cfg.n_layers, len(found.rows), len(found.modalities))
    for number, one in enumerate(CASES):
        _, cache = MODEL.run_with_cache(one.inputs, names_filter="blocks.*.attn.hook_pattern")
        spans, everything = one.inputs.spans, set(range(one.inputs.n_pos))
        parts = {"audio": set(spans["audio"]), "video": set(spans["video"])}
        parts["text"] = everything - parts["audio"] - parts["video"]
        for row, rows in enumerate(("question", "last")):
            for column, modality in enumerate(("audio", "video", "text")):
                assert (found.rows[row], found.modalities[column]) == (rows, modality)
                assert found.token_share[number, column] == len(parts[modality]) / one.inputs.n_pos
                for layer in range(MODEL.cfg.n_layers):
                    pattern = (
                        cache["pattern", layer][0].double().numpy()[:, list(spans[rows])][..., sorted(parts[modality])]
                    )
                    assert found.attention[number, layer, row, column] == pytest.approx(
                        pattern.sum(axis=-1).mean(), abs=1e-5
                    )
    np.testing.assert_allclose(found.attention.sum(axis=-1), 1, atol=1e-5)
    assert found.attention[:, :, 1, :2].std() > 0.01  # there is something to compare


def test_attention_is_shown_by_task_and_beside_each_condition(found, tmp_path):
    table = found.attention_mass()
    assert len(table) == 2 * MODEL.cfg.n_layers * 2 * 3
    row = table.set_index(["task", "layer", "rows", "modality"]).loc["hearing", 4, "last", "audio"]
    values = found.attention[2:, 4, 1, 0]
    assert row.attention == values.mean()
    assert (row.low, row.high) == pytest.approx(tuple(bootstrap_interval(values)))
    assert row.token_share == found.token_share[2:, 0].mean()
    frame = found.to_frame().set_index(["id", "condition"])
    mean = found.attention[1].mean(axis=0)  # over layers
    assert frame.loc[(CASES[1].id, "silence"), "attention_question"] == pytest.approx(mean[0, 0])
    assert frame.loc[(CASES[1].id, "other frames"), "attention_last"] == pytest.approx(mean[1, 1])
    assert frame.loc[(CASES[1].id, "both cut"), "attention_last"] == pytest.approx(mean[1, :2].sum())
    again = av.analyses.ModalityContribution.load(found.save(tmp_path / "attention.safetensors"))
    assert again.attention_mass().equals(table)


def test_pictures_count_as_video_and_open_cuts_count():
    picture = av.Clip.from_image(SAMPLES[0].clip.read_frames([0])[0])
    inputs = MODEL.prepare(picture, question="Which digit is shown?")
    with MODEL.intervene(av.block_attention(keys="image", queries="last", layers=[2])):
        cut = av.modality_contribution(MODEL, inputs)
    assert cut.attention[0, 2, 1, 1] == 0
    assert (cut.attention[0, [1, 3], 1, 1] > 0).all()


def test_tables_are_means_over_the_samples_of_a_task(found, tmp_path):
    summary = found.summary().set_index(["task", "condition"])
    assert len(summary) == 2 * len(CONDITIONS)
    row, column = summary.loc["hearing", "silence"], found.conditions.index("silence")
    drops = found.probability_drop[2:, column]
    assert row.probability_drop == drops.mean()
    assert (row.probability_drop_low, row.probability_drop_high) == tuple(bootstrap_interval(drops))
    right = (found.answer_ids == found.gold_ids)[2:].astype(float)
    assert row.accuracy_drop == (right - (found.best_ids[2:, column] == found.gold_ids[2:])).mean()
    assert (row.n_samples, row.modality, row.kind) == (2, "audio", "blank")
    video, audio = (found.probability_drop[2:, found.conditions.index(f"{m} cut")].mean() for m in ("video", "audio"))
    index = found.index().set_index(["task", "kind"]).loc["hearing", "cut"]
    assert index["index"] == pytest.approx((video - audio) / (video + audio))
    assert index.low <= index["index"] <= index.high
    frame = found.to_frame()
    assert len(frame) == found.best_ids.size
    again = av.analyses.ModalityContribution.load(found.save(tmp_path / "contribution.safetensors"))
    assert again.to_frame().equals(frame)


def test_a_missing_modality_has_no_condition():
    sample = SAMPLES[0]
    mute = sample.clip.without_audio()
    swapped = av.media_swaps(MODEL, mute, question=sample.question)
    assert list(swapped) == ["black frames"]
    silent = av.Case(MODEL.prepare(mute, question=sample.question), sample.answer, task="seeing", swapped=swapped)
    alone = av.modality_contribution(MODEL, silent)
    assert alone.conditions == ("video cut", "black frames")
    assert alone.index()["index"].isna().all()
    assert np.isnan(alone.attention[..., 0]).all()
    assert not np.isnan(alone.attention[..., 1:]).any()
    assert set(alone.attention_mass().modality) == {"video", "text"}
    np.testing.assert_allclose(alone.attention[..., 1:].sum(axis=-1), 1, atol=1e-5)
    both = av.modality_contribution(MODEL, [CASES[0], silent])
    summary = both.summary().set_index("condition")
    counts = both.attention_mass().groupby("modality").n_samples.unique()
    assert (counts["audio"].tolist(), counts["video"].tolist()) == ([1], [2])
    assert (summary.loc["audio cut", "n_samples"], summary.loc["video cut", "n_samples"]) == (1, 2)
    assert np.isnan(both.probability_drop[1, both.conditions.index("audio cut")])
    assert np.isnan(both.accuracy_drop[1, both.conditions.index("audio cut")])
    assert len(both.to_frame()) == len(CONDITIONS) + 2


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputsError, match="no modality to contribute"):
        av.modality_contribution(MODEL, MODEL.prepare(question="Which digit?"))
    odd = replace(CASES[0], swapped={"silense": CASES[0].inputs})
    with pytest.raises(InputsError, match=r"unknown name(.|\n)*expected: silence"):
        av.modality_contribution(MODEL, odd)
    wrong = replace(CASES[0], answer="nine")
    assert av.modality_contribution(MODEL, wrong).skipped == ()
    with pytest.raises(InputsError, match="no sample is left"):
        av.modality_contribution(MODEL, wrong, only_correct=True)


def test_there_is_no_index_where_one_modality_was_not_measured():
    """Of sounds alone, and of sounds and of pictures without a sample that has both."""
    sample = SAMPLES[1]
    clips = sample.clip.without_video(), sample.clip.without_audio()
    cases = [av.Case(MODEL.prepare(clip, question=sample.question), sample.answer) for clip in clips]
    for some in (cases[:1], cases):
        index = av.modality_contribution(MODEL, some).index()
        assert set(index.n_samples) == {0}
        assert index["index"].isna().all()
