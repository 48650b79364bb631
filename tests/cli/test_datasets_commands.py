"""Commands over datasets do what the functions do, and their errors are messages."""

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from support.datasets import same, whole_run, write_manifests

import hooked_av as av
from hooked_av.cli import analyses as commands
from hooked_av.cli import main as cli
from hooked_av.datasets import run as datasets
from hooked_av.datasets.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> av.HookedAVTransformer:
    return av.HookedAVTransformer.from_pretrained("tiny-av")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    return write_manifests(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(model, here, tmp_path_factory) -> Path:
    return whole_run(model, here, tmp_path_factory.mktemp("whole") / "lens")


def test_commands_do_what_the_functions_do(model, here, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(commands, "load_model", lambda name: model)
    common = ["--manifest", str(here / "good.jsonl"), "--out"]

    def say(*words: str) -> str:
        done = CliRunner().invoke(cli.main, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "shard 2/2: 2 of 2 samples finished" in say("lens", *common, str(tmp_path / "lens"), "--top-k", "3",
                                                       "--shard", "2/2")  # fmt: skip
    say("lens", *common, str(tmp_path / "lens"), "--top-k", "3")
    assert "4 of 4 samples; 0 failed, 0 missing" in say("merge", str(tmp_path / "lens"))
    same(tmp_path / "lens" / "results.parquet", whole)

    one = ["--shard", "1/4"]
    asked = ["--pathway", "audio->last", "--window", "3", "--controls", "2:rows", "--follow", "gold"]
    say("flow", *common, str(tmp_path / "flow"), *asked, *one)
    flow = pd.read_parquet(tmp_path / "flow" / "samples")
    case = read_manifest(here / "good.jsonl")[0].prepare(model)
    by_call = {"pathways": "audio->last", "window": 3, "follow": "gold", "controls": av.Controls(2, "rows")}
    wanted = av.information_flow(model, case, **by_call, only_correct=False).to_frame()
    pd.testing.assert_frame_equal(flow[wanted.columns], wanted, check_dtype=False)
    by_call["pathways"] = ["audio->last"]
    run = av.run_dataset(model, here / "good.jsonl", "flow", out=tmp_path / "flow", shard="1/4", **by_call)
    assert (run.n_new, run.n_finished) == (0, 1)  # the same folder from Python

    say("sweep", *common, str(tmp_path / "sweep"), "--cut", "audio->last@2-5", "--cut", "video->last", *one)
    assert pd.read_parquet(tmp_path / "sweep" / "samples")["cut"].tolist() == ["audio->last@2-5", "video->last"]

    asked = ["--corruption", "silence", "--span", "audio", "--component", "resid_pre"]
    say("patch", *common, str(tmp_path / "patch"), *asked, *one)
    patched = pd.read_parquet(tmp_path / "patch" / "samples")
    assert patched["effect"].iloc[0] == pytest.approx(1, abs=1e-3)  # all of what differs, before the first layer
    assert patched["effect"].iloc[-1] < 0.8  # by then part of it has been read

    say("discard", *common, str(tmp_path / "discard"), "--span", "video", "--repeats", "1", *one)
    dropped = pd.read_parquet(tmp_path / "discard" / "samples")
    assert dropped["layer"].tolist() == list(range(model.cfg.n_layers))
    assert dropped["agreement"].iloc[-1] == 1


def test_command_errors_are_messages(here, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "load_model", lambda name: pytest.fail("the model was loaded"))
    (tmp_path / "m.jsonl").write_text('{"id": "a"}\n')
    for words, said in [
        (["lens", "--manifest", "m.jsonl", "--out", "out"], "line 1: question: expected a text"),
        (["lens", "--manifest", "none.jsonl", "--out", "out"], "no such manifest"),
        (["flow", "--manifest", str(here / "good.jsonl"), "--out", "out", "--pathway", "audio"], "not a route"),
        (["flow", "--manifest", str(here / "good.jsonl"), "--out", "out", "--pathway", "a->b@1"], "have no layers"),
        (["flow", "--manifest", str(here / "good.jsonl"), "--out", "out", "--controls", "many"], "a number of draws"),
        (["sweep", "--manifest", str(here / "good.jsonl"), "--out", "out"], "Missing option '--cut'"),
        (["merge", "nowhere"], "no folder of results"),
    ]:
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(cli.main, words)
        assert done.exit_code in (1, 2), words
        assert said in done.output, done.output
        assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("as_a_user")
def test_controls_of_no_known_spread_are_refused(here):
    words = ["flow", "--manifest", str(here / "good.jsonl"), "--out", "out", "--controls", "1:row"]
    assert "'entries' or 'rows'" in CliRunner().invoke(cli.main, words).output


def test_every_command_is_an_analysis_and_says_what_it_takes():
    for entry in commands.COMMANDS:
        assert entry.name in datasets.ANALYSES
        assert "--manifest" in CliRunner().invoke(cli.main, [entry.name, "--help"]).output
