"""Manifests, results folders and command lines that cannot be used as they are."""

import json
import re
import shutil
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner

import hooked_av as av
from bad import Bad
from hooked_av.cli import analyses as commands
from hooked_av.cli.main import main
from hooked_av.errors import HookedAVError

GOOD = {"id": "a", "question": "Which digit?"}
SAMPLES = [av.Sample(name, (), "Which digit is this?") for name in "abc"]
TABLE, OTHER, FAILED = "samples/000000.parquet", "samples/000001.parquet", "failed/000001.json"
_PARTS = r"Error: (.*)\n  expected: (.*)\n  got:      (.*)\n  next:     (.*)"


# ---- Manifests -------------------------------------------------------------------------------------------------------


def _line(**change: object) -> str:
    return json.dumps(GOOD | change)


def _file(name: str, content: str | bytes):
    def make(at):
        path = at.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    return make


def _folder(at):
    (at.folder / "m.jsonl").mkdir()
    return at.folder / "m.jsonl"


def _read(at, path):
    return av.datasets.read_manifest(path)


_ROWS: dict[str, tuple[str, str]] = {
    "a field twice in a row": ('{"id": "a", "question": "What?", "question": "Who?"}', "'question' stands twice"),
    "a field twice in an item": ('{"id": "a", "question": "What?", "media": {"file": "a", "file": "b"}}',
                                 "'file' stands twice"),
    "an unknown field": (_line(answr="six"), "unknown field 'answr': expected answer"),
    "NaN as a start": ('{"id": "a", "question": "What?", "media": {"file": "a", "start": NaN}}', "NaN is not JSON"),
    "an endless stop": ('{"id": "a", "question": "What?", "media": {"file": "a", "stop": Infinity}}',
                        "Infinity is not JSON"),
    "a start beyond all floats": ('{"id": "a", "question": "What?", "media": {"file": "a", "start": 1e999}}',
                                  "0 <= start < stop, got start=inf"),
    "a start of 310 digits": (_line(media={"file": "a.mp4", "start": 10**309}), "0 <= start < stop, got start=1000"),
    "a start in quotes": (_line(media={"file": "a.mp4", "start": "1"}), "got start='1'"),
    "a stop before the start": (_line(media={"file": "a.mp4", "start": 2, "stop": 1}), "start=2, stop=1"),
    "a start that is true": (_line(media={"file": "a.mp4", "start": True}), "got start=True"),
    "a queried item in quotes": (_line(media="a.mp4", queried_item="0"), "a whole number below 1"),
    "a queried item that is not there": (_line(media="a.mp4", queried_item=1), "a whole number below 1"),
    "an id of nothing": (_line(id=""), "id: expected a text or whole number, got ''"),
    "an id of blanks": (_line(id="  "), "id: expected a text or whole number, got '  '"),
    "an id that is a fraction": (_line(id=1.0), "id: expected a text or whole number, got 1.0"),
    "an id of 5000 digits": ('{"id": ' + "9" * 5000 + ', "question": "What?"}', "expected JSON"),
    "no id": ('{"question": "What?"}', "id: expected a text or whole number, got None"),
    "no question": ('{"id": "a"}', "question: expected a text, got None"),
    "half of a character in a question": (r'{"id": "a", "question": "Which \ud800?"}', "half of a character"),
    "half of a character in an id": (r'{"id": "\udfff", "question": "Which?"}', "half of a character"),
    "half of a character in an item": (r'{"id": "a", "question": "What?", "media": [{"text": "\ud800"}]}',
                                       "half of a character"),
    "a file name with a zero in it": (_line(media="a\0b.mp4"), "media, item 0: expected a file"),
    "a row that never ends": ("[" * 5 + "1" + "]" * 4, "the file is one list"),
    "a row that is deeper than any stack": ('{"id": ' + "[" * 100_000 + "}", "expected JSON"),
    "a row that is a number": ("7", "expected an object with id"),
    "a question of a million characters for a number": (_line(answer=["x" * 1_000_000]), "answer: expected a text"),
    "the same id as text and as number": (f"{_line(id=1)}\n{_line(id='1')}", "id '1' stands 2 times"),
    "a hundred thousand bad rows": ('{"id": "a"}\n' * 100_000, "and 99,993 more"),
    "one list of all rows": (f"[{_line()},\n{_line(id='b')}]", "the file is one list: write one object a line"),
    "rows with commas between them": (f"{_line()},\n{_line(id='b')}", "expected JSON"),
    "nothing but blank lines": ("\n\r\n \n", "the file holds no row"),
}  # fmt: skip
_FILES = {
    "latin-1": ("m.jsonl", _line(question="x").replace("x", "Größe").encode("latin-1"), "save it as UTF-8"),
    "UTF-16": ("m.jsonl", _line().encode("utf-16"), "save it as UTF-8"),
    "an empty file": ("m.jsonl", b"", "the file holds no row"),
    "nothing but a mark of the byte order": ("m.jsonl", b"\xef\xbb\xbf", "the file holds no row"),
    "another suffix": ("m.txt", _line(), "expected: a file name.jsonl or name.csv"),
    "a CSV with a column twice": ("m.csv", "id,id,question\na,b,What?\n", "a column stands twice"),
    "a CSV with an unknown column": ("m.csv", "id,questoin\na,What?\n", "unknown field 'questoin'"),
    "a CSV row of other length": ("m.csv", "id,question\na,What, then?\n", "expected 2 cells, got 3"),
    "a CSV cell without an end": ("m.csv", f'id,question\na,"{"x" * 200_000}', "field larger than field limit"),
    "a CSV list with a field twice": ("m.csv", 'id,media,question\na,"[{""file"": ""b"", ""file"": ""c""}]",What?\n',
                                      "'file' stands twice"),
}  # fmt: skip
_GIVEN = {
    "samples: none": ((), "no sample"),
    "samples: an id twice": ((SAMPLES[0], SAMPLES[0]), "id 'a' stands 2 times"),
    "samples: no id": ((av.Sample("", (), "What?"),), "sample 0: id: expected a text"),
    "samples: no question": ((av.Sample("a", (), " "),), "sample 0: question: expected a text"),
    "samples: half of a character": ((av.Sample("a", (), "\ud800"),), "half of a character"),
    "samples: one option": ((av.Sample("a", (), "What?", ("one",)),), "2 to 26 different texts"),
}
MANIFESTS = [
    *(Bad(f"manifest: {name}", _read, says, _file("m.jsonl", text)) for name, (text, says) in _ROWS.items()),
    *(Bad(f"manifest: {name}", _read, says, _file(file, text)) for name, (file, text, says) in _FILES.items()),
    Bad("manifest: a folder", _read, "got:      a folder", _folder),
    Bad("manifest: not there", lambda at, _: _read(at, at.folder / "none.jsonl"), "got:      no file"),
    Bad("manifest: a name no file can have", lambda at, _: _read(at, f"{'x' * 300}.jsonl"), "no such manifest"),
    Bad("manifest: a zero in its name", lambda at, _: _read(at, "a\0.jsonl"), "no such manifest"),
    *(Bad(name, lambda at, _, given=given: _lens(at, given), says) for name, (given, says) in _GIVEN.items()),
]


# ---- Folders of results ----------------------------------------------------------------------------------------------


def _lens(here, samples=tuple(SAMPLES), name: str = "lens", **more):
    return av.run_dataset(here.model, samples, name, out=here.folder / "out", **more)


def _merge(at, _):
    return av.datasets.merge(at.folder / "out")


def _again(at, _):
    return _lens(at)


def _damaged(damage):
    """A folder of three results, one of them a failure, that something has happened to."""

    def make(at):
        out = at.folder / "out"
        _lens(at)
        (out / OTHER).unlink()
        failure = {"sample": "b", "task": "", "group": "", "kind": "MediaError", "reason": "no such file"}
        (out / FAILED).write_text(json.dumps(failure))
        damage(out)

    return make


def _rest(path: str, share: float):
    """Only the beginning of a file is left."""
    return lambda out: (out / path).write_bytes((content := (out / path).read_bytes())[: int(len(content) * share)])


def _copied(path: str, other: str):
    return lambda out: shutil.copy(out / path, out / other)


def _text(path: str, content: str):
    return lambda out: (out / path).write_text(content)


def _made_a_folder(path: str):
    def damage(out: Path):
        (out / path).unlink(missing_ok=True)
        (out / path).mkdir()

    return damage


def _made_a_file(path: str):
    def damage(out: Path):
        shutil.rmtree(out / path)
        (out / path).write_text("")

    return damage


def _flipped(out: Path):
    """Some bytes in the middle of the data are others."""
    content = bytearray((out / TABLE).read_bytes())
    content[400:416] = b"\0" * 16
    (out / TABLE).write_bytes(content)


def _renamed(out: Path):
    """A column has another name, in the end of the file."""
    content = (out / TABLE).read_bytes()
    assert content.count(b"layer") > 1
    (out / TABLE).write_bytes(content.replace(b"layer", b"lager"))


def _settings(**change: object):
    def damage(out: Path):
        path = out / "settings.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return damage


_DAMAGES = {
    "a table of another sample": (_copied("samples/000002.parquet", TABLE), f"{TABLE}: the table of sample 'c'"),
    "a copied table in a free place": (_copied(TABLE, OTHER), f"{OTHER}: the table of sample 'a'"),
    "a table beyond the last place": (_copied(TABLE, "samples/000007.parquet"), "no place among the 3 samples"),
    "a column of another name": (_renamed, f"{TABLE}: damaged: the names"),
    "half of a table": (_rest(TABLE, 0.5), f"{TABLE}: no whole table"),
    "a table without its last bytes": (_rest(TABLE, 0.99), f"{TABLE}: no whole table"),
    "an empty table": (_rest(TABLE, 0), f"{TABLE}: no whole table"),
    "a text as a table": (_text(TABLE, "notes" * 50), f"{TABLE}: no whole table"),
    "a folder as a table": (_made_a_folder(TABLE), f"{TABLE}: a folder"),
    "a stray table": (_copied(TABLE, "samples/1a.parquet"), "samples/1a.parquet: no place"),
    "a table with another number of zeros": (_copied(TABLE, "samples/0.parquet"), "samples/0.parquet: no place"),
    "a failure that is no JSON": (_text(FAILED, "{"), f"{FAILED}: JSONDecodeError"),
    "an empty failure": (_text(FAILED, ""), f"{FAILED}: JSONDecodeError"),
    "a failure with other fields": (_text(FAILED, '{"sample": "b"}'), f"{FAILED}: not what a run has written"),
    "a failure that is a list": (_text(FAILED, "[]"), f"{FAILED}: not what a run has written"),
    "a failure of another sample": (
        _text(FAILED, '{"sample": "c", "task": "", "group": "", "kind": "x", "reason": "y"}'),
        f"{FAILED}: of sample 'c' in the place of 'b'",
    ),
    "a folder as a failure": (_made_a_folder(FAILED), f"{FAILED}: a folder"),
    "a stray failure": (_text("failed/x.json", "{}"), "failed/x.json: no place"),
    "settings that are no JSON": (_text("settings.json", "{"), "settings.json cannot be read"),
    "empty settings": (_text("settings.json", ""), "settings.json cannot be read"),
    "settings that are a list": (_text("settings.json", "[]"), "settings.json cannot be read"),
    "a folder as settings": (_made_a_folder("settings.json"), "settings.json cannot be read"),
}
_ONLY_AGAIN = {
    "settings of another version": (_settings(hooked_av="0.0.1"), "expected: hooked_av='0.0.1'"),
    "settings of other weights": (_settings(weights="other"), "expected: weights='other'"),
    "settings of another manifest": (_settings(manifest="other"), "expected: manifest='other'"),
    "settings of a study": (_settings(samples=4), "begun with other settings"),
}
_ONLY_MERGE = {
    "a flipped bit in a table": (_flipped, f"{TABLE}: damaged"),
    "a study": (_settings(samples=4), "without the ids of its samples"),
    "ids that are no texts": (_settings(samples=[1, 2, 3]), "without the ids of its samples"),
    "tables of other settings": (_settings(weights="other"), "not made with the settings of its folder"),
    "a folder as results.parquet": (_made_a_folder("results.parquet"), "results.parquet"),
    "no table at all": (lambda out: shutil.rmtree(out / "samples"), "0 finished, 1 failed, 2 missing: a, c"),
    "a missing sample": (lambda out: (out / FAILED).unlink(), "2 finished, 0 failed, 1 missing: b"),
}


def _with_a_file(name: str):
    def make(at):
        (at.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (at.folder / name).write_text("{}")

    return make


_NEVER_BEGUN = {
    "no such window": ({"name": "flow", "window": 99}, "no such window"),
    "no such span": ({"at": "nope"}, "no span 'nope'"),
    "no token kept": ({"top_k": 0}, "0 of 3 samples could be finished"),
    "more tokens than there are": ({"top_k": 10**9}, "0 of 3 samples could be finished"),
    "no such mode of positions": ({"prepare": {"positions": "foo"}}, "0 of 3 samples could be finished"),
    "no such argument of prepare": ({"prepare": {"smapling": None}}, "0 of 3 samples could be finished"),
    "a question for all": ({"prepare": {"question": "What?"}}, "question cannot be given for all samples"),
    "no such argument": ({"topk": 3}, "these arguments do not fit the analysis"),
    "no such analysis": ({"name": "lense"}, "no analysis 'lense'"),
    "a shard beyond the last": ({"shard": "3/2"}, "no such shard"),
    "a shard before the first": ({"shard": "0/2"}, "no such shard"),
    "a shard of many digits": ({"shard": f"1/{'9' * 5000}"}, "no such shard"),
}
FOLDERS = [
    *(
        Bad(f"{name}, {what}", call, says, _damaged(damage))
        for what, call, table in (
            ("merged", _merge, _DAMAGES | _ONLY_MERGE),
            ("run again", _again, _DAMAGES | _ONLY_AGAIN),
        )
        for name, (damage, says) in table.items()
    ),
    Bad("samples is a file, run again", _again, "cannot write", _damaged(_made_a_file("samples"))),
    *(Bad(f"run: {name}", lambda at, _, given=given: _lens(at, **given), says)
      for name, (given, says) in _NEVER_BEGUN.items()),
    Bad("run: out is a file", _again, "got:      a file", _with_a_file("out")),
    Bad("run: out is below a file", lambda at, _: av.run_dataset(at.model, SAMPLES, "lens", out=at.folder / "x" / "y"),
        "x is a file", _with_a_file("x")),
    Bad("run: out holds other things", _again, "a folder with other things in it", _with_a_file("out/notes.txt")),
    Bad("run: out holds settings of another program", _again, "begun with other", _with_a_file("out/settings.json")),
    Bad("run: out has a name that no folder can have",
        lambda at, _: av.run_dataset(at.model, SAMPLES, "lens", out=at.folder / ("x" * 300)), "cannot write"),
    Bad("merge: an empty folder", _merge, "no settings.json", lambda at: (at.folder / "out").mkdir()),
    Bad("merge: nothing", _merge, "nothing there"),
    Bad("merge: a file", _merge, "no folder of results", _with_a_file("out")),
    Bad("read_flow: the table of one sample", lambda at, _: av.datasets.read_flow(at.folder / "out" / TABLE),
        "without the settings of its results", _damaged(lambda out: None)),
    Bad("read_flow: a folder", lambda at, _: av.datasets.read_flow(at.folder / "out"), "no merged table",
        _damaged(lambda out: None)),
]  # fmt: skip


# ---- Command lines ---------------------------------------------------------------------------------------------------


def say(at, *words: str) -> None:
    """Runs `hooked-av` with the model of the table; raises the error that it shows, if it shows one as it should."""
    with patch.object(commands, "load_model", lambda name: at.model):
        done = CliRunner().invoke(main, [word.replace("HERE", str(at.folder)) for word in words], prog_name="hooked-av")
    shown = re.search(_PARTS, done.stderr, re.DOTALL)
    assert done.exit_code in (1, 2), (done.exit_code, done.output)
    assert "Traceback" not in done.output
    assert not done.stdout
    assert shown, done.output
    what, expected, got, next_step = shown.groups()
    raise HookedAVError(what, expected=expected, got=got, next_step=next_step)


_LENS = ("lens", "--manifest", "HERE/m.jsonl", "--out", "HERE/out")
_FLOW = ("flow", *_LENS[1:])
_COMMANDS = {
    "no such option": (("--nope",), "No such option"),
    "no such command": (("lense",), "No such command 'lense'"),
    "an option of another command": ((*_LENS, "--window", "3"), "No such option"),
    "no manifest": (("lens", "--out", "HERE/out"), "Missing option '--manifest'"),
    "no out": (("lens", "--manifest", "HERE/m.jsonl"), "Missing option '--out'"),
    "a manifest that is not there": (("lens", "--manifest", "HERE/no.jsonl", "--out", "HERE/out"), "no such manifest"),
    "a manifest that is a folder": (("lens", "--manifest", "HERE", "--out", "HERE/out"), "no such manifest"),
    "a pathway of no span": ((*_FLOW, "--pathway", "nope->last"), "no span 'nope'"),
    "a pathway that is no route": ((*_FLOW, "--pathway", "audio"), "not a route"),
    "a pathway with layers": ((*_FLOW, "--pathway", "a->b@1"), "pathways have no layers"),
    "a window of 99 layers": ((*_FLOW, "--window", "99"), "no such window"),
    "a window of no layer": ((*_FLOW, "--window", "0"), "no such window"),
    "many controls": ((*_FLOW, "--controls", "many"), "a number of draws"),
    "another metric": ((*_FLOW, "--metric", "nope"), "'nope'"),
    "positions that the model has not": ((*_LENS, "--positions", "foo"), "0 of 2 samples"),
    "a place that the prompt has not": ((*_LENS, "--at", "nope"), "no span 'nope'"),
    "no token": ((*_LENS, "--top-k", "0"), "top_k from 1"),
    "a number in words": ((*_LENS, "--top-k", "five"), "'five' is not a valid integer"),
    "no frames a second": ((*_LENS, "--fps", "0"), "fps"),
    "frames a second that are no number": ((*_LENS, "--fps", "nan"), "fps"),
    "no pixels": ((*_LENS, "--max-pixels", "-1"), "pixels"),
    "a shard too many": ((*_LENS, "--shard", "3/2"), "no such shard"),
    "out is the manifest": (("lens", "--manifest", "HERE/m.jsonl", "--out", "HERE/m.jsonl"), "got:      a file"),
    "out cannot be made": (("lens", "--manifest", "HERE/m.jsonl", "--out", "HERE/m.jsonl/x"), "cannot write"),
    "a convention that nobody has": ((*_LENS, "--convention", "nope"), "nope"),
    "tokens that are several": ((*_LENS, "--token", "six seven eight"), "0 of 2 samples"),
    "bytes that are no text": ((*_LENS, "--token", "\udcff"), "holds bytes that are no text"),
    "a question of bytes": (("demo", "--question", "\udcff\udcfe"), "--question holds bytes that are no text"),
    "an option of bytes": (("demo", "--option", "a", "--option", "\udcff"), "--options holds bytes that are no text"),
    "a film that is not there": (("demo", "--video", "HERE/no.mp4"), "no such file"),
    "a blank question": (("demo", "--question", " "), "question"),
    "a report below a file": (("demo", "--out", "HERE/m.jsonl/x"), "cannot write a report"),
    "a sweep without cuts": (("sweep", *_LENS[1:]), "Missing option '--cut'"),
    "nothing to merge": (("merge", "HERE"), "no settings.json"),
    "a merge of nothing": (("merge",), "Missing argument 'FOLDER'"),
    "a study of no samples": (("study", "--samples", "0", "--out", "HERE/study"), "is not in the range"),
    "a study of no family": (("study", "--families", "nope", "--out", "HERE/study"), "no such family"),
    "a study of a wide window": (("study", "--window", "99", "--out", "HERE/study"), "no such window"),
    "a study in a file": (("study", "--out", "HERE/m.jsonl"), "cannot write"),
    "no threads": (("train-tiny", "--out", "HERE/t", "--speech", "HERE", "--threads", "0"), "is not in the range"),
    "no speech": (("train-tiny", "--out", "HERE/t", "--speech", "HERE/none"), "no spoken digits"),
    "no questions": (("evaluate-tiny", "--questions", "0"), "is not in the range"),
    "an exam in a file": (("evaluate-tiny", "--out", "HERE/m.jsonl"), "cannot write"),
}
_TWO = f"{_line()}\n{_line(id='b')}\n"
COMMANDS = [
    Bad(f"command: {name}", lambda at, _, words=words: say(at, *words), says, _file("m.jsonl", _TWO))
    for name, (words, says) in _COMMANDS.items()
]
ROWS: list[Bad] = [*MANIFESTS, *FOLDERS, *COMMANDS]
