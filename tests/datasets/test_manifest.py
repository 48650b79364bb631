"""Manifests: two formats that say the same, and rows that cannot be used."""

import json
from pathlib import Path

import pandas as pd
import pytest

import hooked_av as av
from hooked_av.datasets.manifest import MediaItem, Sample, checked_samples, manifest_hash, read_manifest

ROWS = [
    {"id": "whole", "media": "film.mp4", "question": "Which digit is shown, first?", "answer": "six", "task": "visual"},
    {"id": "two", "media": ["a b.wav", "c.png"], "question": "Same?", "options": ["yes", "no"], "answer": "no"},
    {"id": "part", "media": [{"file": "film.mp4", "start": 1, "stop": 2.5}, {"text": "and"}, {"file": "c.png"}],
     "question": "What is „shown“?\nSay it.", "options": ["one, two", "three"], "answer": "A", "alternative": "B",
     "group": "binding", "queried_item": 1},
    {"id": "text", "question": "Which?"},
]  # fmt: skip


def jsonl(folder: Path, rows: list, name: str = "m.jsonl") -> Path:
    path = folder / name
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def good(**change) -> dict:
    return {"id": "good", "media": ["a.mp4"], "question": "What?"} | change


def faults_of(path: Path) -> str:
    with pytest.raises(av.errors.DatasetError) as caught:
        read_manifest(path)
    return str(caught.value)


def test_what_a_row_says_is_what_the_sample_is(tmp_path):
    whole, two, part, text = read_manifest(jsonl(tmp_path, ROWS))
    assert whole == Sample("whole", (MediaItem("film.mp4"),), ROWS[0]["question"], (), "six", task="visual",
                           folder=tmp_path)  # fmt: skip
    assert two.options == ("yes", "no")
    assert part.media == (MediaItem("film.mp4", 1.0, 2.5), "and", MediaItem("c.png"))
    assert (part.group, part.alternative, part.queried_item) == ("binding", "B", 1)
    assert part.to_row()["queried_item"] == 1
    assert whole.queried_item is None
    assert text.media == ()


@pytest.mark.parametrize("lists", [json.dumps, "|".join], ids=["json", "bars"])
def test_csv_says_the_same_as_jsonl(tmp_path, lists):
    simple = [row for row in ROWS if row["id"] != "part"] if lists == "|".join else ROWS
    cells = [
        row | {name: lists(row[name]) for name in ("media", "options") if isinstance(row.get(name), list)}
        for row in simple
    ]
    pd.DataFrame(cells).to_csv(tmp_path / "m.csv", index=False, encoding="utf-8-sig")
    samples = read_manifest(tmp_path / "m.csv")
    assert samples == read_manifest(jsonl(tmp_path, simple))
    assert len(samples) == len(simple)


def test_the_hash_is_that_of_what_is_said(tmp_path):
    samples = read_manifest(jsonl(tmp_path, ROWS))
    (tmp_path / "elsewhere").mkdir()
    again = read_manifest(
        jsonl(tmp_path / "elsewhere", ["", *reversed([dict(reversed(r.items())) for r in ROWS[::-1]])])
    )
    assert manifest_hash(samples) == manifest_hash(again)
    for field, other in [("media", "b.mp4"), ("question", "Who?"), ("answer", "seven"), ("task", "x"), ("id", "new")]:
        changed = read_manifest(jsonl(tmp_path, [ROWS[0] | {field: other}, *ROWS[1:]]))
        assert manifest_hash(changed) != manifest_hash(samples), field
    assert manifest_hash(samples[::-1]) != manifest_hash(samples)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (good(id=""), "id: expected a text or whole number, got ''"),
        (good(id=None), "id: expected a text or whole number, got None"),
        (good(id=True), "id: expected a text or whole number, got True"),
        (good(question=" "), "question: expected a text, got ' '"),
        (good(answr="six"), "unknown field 'answr': expected answer"),
        (good(answer=6), "answer: expected a text, got 6"),
        (good(media=3), "media: expected a file"),
        (good(media=0), "media: expected a file"),
        (good(media=[""]), "media, item 0: expected a file"),
        (good(media=["a.mp4", {"path": "b"}]), "media, item 1: expected a file"),
        (good(media={"file": "a.mp4", "start": 2, "stop": 1}), "0 <= start < stop, got start=2, stop=1"),
        (good(media={"file": "a.mp4", "start": -1}), "0 <= start < stop, got start=-1"),
        (good(media={"file": "a.mp4", "start": "1"}), "0 <= start < stop, got start='1'"),
        (good(options=["one"]), "options: expected none, or 2 to 26 different texts"),
        (good(options=["one", "one"]), "options: expected none, or 2 to 26 different texts"),
        (good(options=[1, 2]), "options: expected a list of texts, got [1, 2]"),
        (good(options="one"), "options: expected a list of texts, got 'one'"),
        (good(options=["one", "two"], answer="three"), "answer: expected one of ['one', 'two'], or its letter"),
        (good(options=["one", "two"], answer="C"), "answer: expected one of"),
        (good(options=["B", "A"], answer="A"), "answer: expected one of ['B', 'A']"),  # a letter and another's text
        (good(options=["one", "two"], alternative="three"), "alternative: expected one of"),
        (good(queried_item=1), "queried_item: expected a whole number below 1 (the files in media), got 1"),
        (good(queried_item="0"), "queried_item: expected a whole number below 1"),
        (good(queried_item=True), "queried_item: expected a whole number below 1"),
        (good(media=["a.mp4", {"text": "b"}], queried_item=1), "below 1 (the files in media), got 1"),
        (["a", "list"], "expected an object with id, media"),
        ('{"id": ', "expected JSON, got '{\"id\": '"),
    ],
)
def test_a_bad_row_is_told_with_its_line(tmp_path, row, said):
    message = faults_of(jsonl(tmp_path, [good(id="first"), row]))
    assert "1 fault\n" in message
    assert "line 2: " in message
    assert said in message


def test_all_bad_rows_are_told_at_once(tmp_path):
    rows = [good(question=""), good(id="fine"), "", good(id="b", options=["x"]), good(id="fine"), good(id="fine")]
    message = faults_of(jsonl(tmp_path, rows))
    assert "3 faults" in message
    assert "line 1: question" in message
    assert "line 4: options" in message
    assert "id 'fine' stands 3 times" in message
    assert "nothing has been run" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,media,questoin\na,b.mp4,What?\n", "line 1: unknown field 'questoin': expected question"),
        ("id,id,question\na,b,What?\n", "line 1: a column stands twice"),
        ("id,media,question\na,b.mp4,What, then?\n", "line 2: expected 3 cells, got 4"),
        ('id,media,question\na,"[""b.mp4""",What?\n', "line 2: media: expected JSON, got"),
        ('id,media,question\na,b.mp4,"What\nis it?"\n\nb,b.mp4,\n', "line 5: question: expected a text"),
        ("id,media,question\n", "the file holds no row"),
        ("", "the file holds no row"),
    ],
)
def test_a_bad_csv_is_told_with_its_line(tmp_path, text, said):
    (tmp_path / "m.csv").write_text(text, encoding="utf-8")
    assert said in faults_of(tmp_path / "m.csv")


def test_other_encodings_and_other_files_are_refused(tmp_path):
    (tmp_path / "m.csv").write_bytes("id,media,question\na,b.mp4,Größe?\n".encode("latin-1"))
    assert "save it as UTF-8" in faults_of(tmp_path / "m.csv")
    assert "no such manifest" in faults_of(tmp_path / "none.jsonl")
    assert "name.jsonl or name.csv" in faults_of(jsonl(tmp_path, ROWS, "m.txt"))


def test_samples_without_a_file_need_ids_of_their_own():
    sample = Sample("a", (), "What?")
    assert checked_samples(iter([sample])) == (sample,)
    with pytest.raises(av.errors.DatasetError, match="'a' stands 2 times"):
        checked_samples([sample, sample])
    with pytest.raises(av.errors.DatasetError, match="no sample"):
        checked_samples([])
