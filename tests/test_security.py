"""What a checkpoint or a text from outside cannot do: run code, open a connection, or become part of a page."""

import ast
import json
import pickle
import re
import socket
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from bad.checkpoints import OMNI, SALMONN
from test_package import ROOT, TREES

import hooked_av as av
from hooked_av.cli.demo import Origin, run_demo
from hooked_av.cli.report import render_report
from hooked_av.errors import CheckpointError, HookedAVWarning
from hooked_av.model.random import random_omni
from hooked_av.plots.page import _environment
from hooked_av.plots.style import svg_text
from hooked_av.study import run
from hooked_av.study.page import render_study

pytestmark = pytest.mark.usefixtures("one_thread")
EVIL = "</script></svg><script>alert('1')</script><img src=http://x onerror=alert(1)> ]]> & \"x\" {{ 7 * 7 }}"


# --- code ----------------------------------------------------------------------------------------------------------


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}


def imported(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


READS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy", "code"}
RUNS_CODE = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"}
READS_PICKLES = re.compile(r"(^|\.)(load_state_dict_from_url|hub\.load|unpickle|read_pickle|from_pickle)$")


@pytest.mark.parametrize("name", TREES)
def test_no_module_runs_what_it_reads(name):
    tree = TREES[name]
    assert not {module.split(".")[0] for module in imported(tree)} & READS_CODE
    for function, given in calls(tree):
        assert function not in RUNS_CODE, function
        assert given.get("allow_pickle", "False") == "False", function  # numpy's default too
        assert not READS_PICKLES.search(function), function
        assert given.get("trust_remote_code", "False") == "False", function
        assert given.get("shell", "False") == "False", function
        assert function != "torch.load" or given.get("weights_only") == "True", "unpickles whatever it is given"


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors", "consolidated.00.pth"])
def test_pickles_are_never_opened(name, tmp_path):
    (tmp_path / "config.json").write_text((SALMONN / "config.json").read_text())
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "went off")))
    with pytest.raises(CheckpointError, match="safetensors"):
        av.HookedAVTransformer.from_pretrained(tmp_path)
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("name", [f"{kind}config.json" for kind in ("", "preprocessor_", "tokenizer_", "generation_")])
def test_code_of_a_checkpoint_is_never_run(name, tmp_path, monkeypatch):
    for path in OMNI.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    kinds = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoFeatureExtractor", "AutoProcessor")
    raw = json.loads((tmp_path / name).read_text()) | {"auto_map": dict.fromkeys(kinds, "evil.Evil")}
    (tmp_path / name).write_text(json.dumps(raw))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'went off')!r}, 'w')\nclass Evil: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks whoever sits at a terminal
    if name == "config.json":
        with pytest.warns(HookedAVWarning, match="never run"):
            av.HookedAVTransformer.from_pretrained(tmp_path)
    else:
        av.HookedAVTransformer.from_pretrained(tmp_path)
    assert not (tmp_path / "went off").exists()


# --- connections ---------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_and_analysed_without_a_connection(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("a connection was opened")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    model = av.HookedAVTransformer.from_pretrained(OMNI)
    inputs = model.prepare(question="Which digit do you hear?")
    av.logit_lens(model, inputs).plot()
    model.baseline(inputs).run(["system->question@0-1"])
    model.generate(inputs, max_new_tokens=2)
    model.save_pretrained(tmp_path / "saved")
    av.HookedAVTransformer.from_pretrained(tmp_path / "saved")


# --- pages ---------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags of a page, its attributes that could run or fetch something, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.risky: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.risky += [(name, value or "") for name, value in attrs if name.startswith("on") or name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


def check_page(page: str, own_scripts: int = 0) -> None:
    found = Tags(page)
    assert EVIL in found.text, "the text is there, as text"
    assert found.tags.count("script") == own_scripts
    assert not [pair for pair in found.risky if pair[0].startswith("on") or "http://x" in pair[1]]


def evil_model():
    model = random_omni(n_layers=2)
    model.decoder.cfg = replace(model.decoder.cfg, model_name=EVIL)
    return model


def test_a_report_shows_texts_as_texts():
    model = evil_model()
    clip = av.Clip.from_arrays(np.zeros((4, 56, 56, 3), np.uint8), fps=4)
    found = run_demo(model, clip, EVIL, origin=Origin(EVIL, False, EVIL, EVIL), sampling=av.Sampling(max_pixels=784))
    check_page(render_report(found))


def test_a_study_shows_texts_as_texts(tmp_path):
    found = run.run_study(evil_model(), ["auditory"], samples=2, out=tmp_path)
    check_page(render_study(found))


def test_a_strip_shows_texts_as_texts():
    inputs = random_omni(n_layers=2).prepare(question="Why?")
    strip = av.token_strip(inputs, heat=[[1.0] * inputs.n_pos], heat_label=EVIL, str_tokens=[EVIL] * inputs.n_pos)
    root = ElementTree.fromstring(strip.svg)
    assert not [node.tag for node in root.iter() if node.tag.endswith(("script", "img"))]
    assert Tags(strip.html).tags.count("img") == 0


def test_a_figure_shows_texts_as_texts():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().set_title(EVIL.replace("$", ""))
    root = ElementTree.fromstring(svg_text(figure))
    assert not [node.tag for node in root.iter() if node.tag.endswith(("script", "img"))]


def test_every_template_escapes():
    environment = _environment()
    assert environment.autoescape is True
    for path in sorted((ROOT / "data").glob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe\b|autoescape", text), path.name
    marked = {name for name, tree in TREES.items() for function, _ in calls(tree) if function.endswith("Markup")}
    assert marked == {"plots.strip.strip"}, "text that counts as escaped already: what a template gave, and no other"
