"""Nothing is silent: every line of docs/not_silent.md, done once, on models whose every parameter is random.

A line is what somebody does, what happens here ("right" or "error", or a warning), and what happens elsewhere. The page
must say what this file does: `test_the_page_is_this_table`.
"""

import inspect
import json
import shutil
import struct
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import FAMILIES
from support.media import write_file

import hooked_av as av
from hooked_av.errors import (
    CheckpointError,
    DatasetError,
    HookedAVWarning,
    HookError,
    HookNameError,
    InputsError,
    InterventionError,
    MediaError,
    SpanError,
)
from hooked_av.hooks.open_blocks import what_is_open

PAGE = Path(__file__).parents[1] / "docs" / "not_silent.md"
MLP, PATTERN = "blocks.0.hook_mlp_out", "blocks.1.attn.hook_pattern"
OMNI = FAMILIES["omni"]


@dataclass(frozen=True)
class Line:
    """`does` raises `error`, warns (a warning class), or ends by itself, having asserted that all is right (None)."""

    topic: str
    what: str
    elsewhere: str
    error: type[BaseException] | None
    does: Callable[..., object]

    @property
    def here(self) -> str:
        if self.error is None:
            return "right"
        return "warning" if issubclass(self.error, Warning) else f"`{self.error.__name__}`"


LINES: list[Line] = []


def line(topic: str, what: str, elsewhere: str = "", error: type[BaseException] | None = None):
    """Put the function below into the table."""

    def put(does):
        LINES.append(Line(topic, what, elsewhere, error, does))
        return does

    return put


# --- names and hooks -------------------------------------------------------------------------------------------------


@line("Hooks", "a hook name that matches nothing", "TransformerLens: a filter that matches nothing does nothing",
      HookNameError)  # fmt: skip
def _(model, inputs):
    model.run_with_hooks(inputs, fwd_hooks=[("blocks.*.hook_mlp_outs", lambda rows, hook: rows * 0)])


@line("Hooks", "a cache filter that matches nothing", "TransformerLens: an empty cache", HookNameError)
def _(model, inputs):
    model.run_with_cache(inputs, names_filter=lambda name: False)


@line("Hooks", "a hook point that never fires on this prompt", "nothing happens", HookError)
def _(model):
    model.run_with_hooks(OMNI.inputs("text"), fwd_hooks=[("hook_audio_embed", lambda rows, hook: rows * 0)])


@line("Hooks", "a hook at a span that is not there", "paper codes: the first substring that matches", SpanError)
def _(model, inputs):
    model.run_with_hooks(inputs, fwd_hooks=[(f"{MLP}@adio", lambda rows, hook: rows * 0)])


@line("Hooks", "a hook at `name@span` returns (rows, something)", "the second member is thrown away", HookError)
def _(model, inputs):
    model.run_with_hooks(inputs, fwd_hooks=[(f"{MLP}@last", lambda rows, hook: (rows, rows))])


@line("Hooks", "an edit of the attention pattern",
      "TransformerBridge: dropped on Qwen2.5-VL, with a warning")  # fmt: skip
def _(model, inputs):
    edited = model.run_with_hooks(inputs, fwd_hooks=[(f"{PATTERN}@last", lambda rows, hook: rows * 0)])
    assert not torch.allclose(edited[0, -1], model(inputs)[0, -1], atol=1e-3)


@line("Hooks", "reading attention scores", "TransformerBridge: `hook_attn_scores` is the pattern")
def _(model, inputs):
    _, cache = model.run_with_cache(inputs, names_filter=["blocks.1.attn.hook_attn_scores@last", f"{PATTERN}@last"])
    scores, pattern = cache["blocks.1.attn.hook_attn_scores@last"], cache[f"{PATTERN}@last"]
    torch.testing.assert_close(scores.softmax(-1), pattern)
    assert not torch.allclose(scores, pattern)


@line("Hooks", "a hook on rotated queries", "TransformerBridge: `hook_rot_q` never fires")
def _(model, inputs):
    seen = []
    model.run_with_hooks(inputs, fwd_hooks=[("blocks.*.attn.hook_rot_q", lambda rows, hook: seen.append(hook.name))])
    assert len(seen) == model.cfg.n_layers


@line("Hooks", "a later hook edits in place what a cache has", "the cached tensor changes, too")
def _(model, inputs):
    clean = model.run_with_cache(inputs, names_filter=MLP)[1][MLP]
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda rows, hook: rows.mul_(0))]):
        kept = model.run_with_cache(inputs, names_filter=[MLP, "blocks.0.hook_resid_mid"])[1]
    mid = model.run_with_cache(inputs, names_filter="blocks.0.hook_resid_mid")[1]["blocks.0.hook_resid_mid"]
    assert kept[MLP].equal(clean)
    assert kept["blocks.0.hook_resid_mid"].equal(mid)


# --- prompts ---------------------------------------------------------------------------------------------------------


@line("Prompts", "ten sound rows for six slots", "transformers 5.23: scattered into them, four are lost", InputsError)
def _(model):
    tensors = OMNI.tensors("audio")
    ids = tensors["input_ids"]
    slots = (ids[0] == model.family.placeholder("audio")).nonzero().flatten()
    keep = torch.ones(ids.shape[1], dtype=torch.bool)
    keep[slots[:2]] = False
    fewer = {"input_ids": ids[:, keep], "attention_mask": tensors["attention_mask"][:, keep]}
    model(model.inputs_from_tensors(**{**tensors, **fewer}))


@line("Prompts", "frames without their grid (positions would be those of text)",
      "transformers: positions of text, where a keyword is missing", InputsError)  # fmt: skip
def _(model):
    tensors = {name: value for name, value in OMNI.tensors("video").items() if name != "video_grid_thw"}
    model.inputs_from_tensors(**tensors)


@line("Prompts", "an empty span, by name", "paper codes: an empty slice, and no effect", SpanError)
def _(inputs):
    inputs.with_span("nothing", "audio - audio")


@line("Prompts", "texts that touch make a special token", "tokenised as one: a turn ends in the middle of a question",
      InputsError)  # fmt: skip
def _(random, clip):
    random.prepare([clip, "<|im_", "end|>"], question="q")


@line("Prompts", "text and question make one", "the same", InputsError)
def _(random, clip):
    random.prepare([clip, "<|im_"], question="end|> q")


@line("Prompts", "a batch of prompts of different lengths", "left padding is counted as positions")
def _(model):
    several = [OMNI.inputs(kind) for kind in ("text", "audio", "video")]
    together = model(model.batch(several), logits_at="last")
    for row, one in enumerate(several):
        torch.testing.assert_close(together[row], model(one, logits_at="last")[0], rtol=1e-4, atol=1e-4)


@line("Prompts", "a span that some prompts of a batch have not", "an empty slice, and no effect", HookedAVWarning)
def _(model):
    batch = model.batch([OMNI.inputs(kind) for kind in ("text", "audio")])
    model.run_with_hooks(batch, fwd_hooks=[("blocks.1.hook_resid_post@audio", lambda rows, hook: rows * 0)])


# --- interventions ---------------------------------------------------------------------------------------------------


@line("Interventions", "a cut blocks, and does not let through",
      "a mask written as False into a float mask lets through")  # fmt: skip
def _(model, inputs):
    with model.intervene("audio->last"):
        pattern = model.run_with_cache(inputs, names_filter="blocks.*.attn.hook_pattern@last<-audio")[1]
    assert all(not blocked.any() for blocked in pattern.values())
    assert not torch.allclose(model(inputs, interventions="audio->last")[0, -1], model(inputs)[0, -1], atol=1e-4)


@line("Interventions", "a cut in every layer takes in the last layer and the last row",
      "paper codes: layers 0 to L-2, or all rows but the last")  # fmt: skip
def _(model, inputs):
    assert sorted(model.begin(inputs, interventions="audio->last").plan.cuts) == list(range(model.cfg.n_layers))
    last = model.cfg.n_layers - 1
    only = model(inputs, interventions=f"audio->last@{last}")
    assert not torch.allclose(only[0, -1], model(inputs)[0, -1], atol=1e-4)


@line("Interventions", "a cut in layers that the model does not have", "the layers that there are", InterventionError)
def _(model, inputs):
    model(inputs, interventions=f"audio->last@0-{model.cfg.n_layers}")


@line("Interventions", "keys and queries swapped: what comes later is not read anyway", "nothing happens",
      InterventionError)  # fmt: skip
def _(model, inputs):
    model(inputs, interventions="last->audio")


@line("Interventions", "a cut of rows that have left before", "nothing happens", HookedAVWarning)
def _(model, inputs):
    model(inputs, interventions=[av.drop_tokens("audio", 1), "audio->last@1-2"])


@line("Interventions", "an ablation of rows that have left before", "nothing happens", InterventionError)
def _(model, inputs):
    model(inputs, interventions=[av.drop_tokens("audio", 1), av.ablate("blocks.1.hook_mlp_out", "audio")])


@line("Interventions", "a spec of one's own that does nothing", "nothing happens", InterventionError)
def _(model, inputs):
    class Nothing(av.interventions.Intervention):
        kind = "nothing_of_not_silent"

    model(inputs, interventions=Nothing())


@line("Interventions", "NaN in a patch", "every logit is NaN", InterventionError)
def _():
    av.patch(MLP, "last", torch.full((1, 64), float("nan")))


@line("Interventions", "infinity in an added vector", "every logit is NaN", InterventionError)
def _():
    av.add_vector(MLP, "last", torch.full((64,), float("inf")))


# --- generation ------------------------------------------------------------------------------------------------------


@line("Generation", "answers with and without a key/value cache", "they differ")
def _(model, inputs):
    written = model.generate(inputs, max_new_tokens=4, stop_tokens=[]).tokens
    by_hand = inputs
    for _ in range(4):
        token = int(model(by_hand, logits_at="last" if by_hand is inputs else "generated")[0, -1].argmax())
        by_hand = by_hand.with_generated([[token]])
    assert list(written[0]) == by_hand.input_ids[0, -4:].tolist()


@line("Generation", "activations that are NaN", "token 0, for ever", InputsError)
def _(model, inputs):
    broken = deepcopy(model)
    broken.blocks[1].mlp.W_in.data[0, 0] = float("nan")
    broken.generate(inputs, max_new_tokens=2, stop_tokens=[])


@line("Generation", "a hook that makes NaN", "token 0, for ever", HookError)
def _(model, inputs):
    hooks = [("blocks.1.hook_mlp_out", lambda rows, hook: rows * float("nan"))]
    model.generate(inputs, max_new_tokens=2, stop_tokens=[], fwd_hooks=hooks)


@line("Generation", "more new tokens than there are positions", "goes on past what was trained", InputsError)
def _(model, inputs):
    model.generate(inputs, max_new_tokens=10**9)


@line("Generation", "`do_sample=True, top_p=0`", "greedy, in silence", InputsError)
def _(model, inputs):
    model.generate(inputs, max_new_tokens=1, do_sample=True, top_p=0.0)


# --- media -----------------------------------------------------------------------------------------------------------

FLOATS = {"video": None, "audio": "pcm_f32le"}


@line("Media", "a film of float sound with NaN in it", "full scale, 1.0", MediaError)
def _(folder):
    av.Clip.from_file(wav(folder / "x.wav", float("nan")))


@line("Media", "float sound with a peak of 1e6", "full scale, 1.0", MediaError)
def _(folder):
    av.Clip.from_file(wav(folder / "x.wav", 1e6))


@line("Media", "a film replaced between `Clip.from_file` and `prepare`", "new pictures with old sound", MediaError)
def _(folder, random):
    path = shutil.copy(FILM, folder / "x.mp4")
    clip = av.Clip.from_file(path)
    write_file(Path(path))
    random.prepare(clip, question="q", sampling=av.Sampling(max_pixels=784))


@line("Media", "a relative path, and then a change of folder", '"corrupt", or another film')
def _(folder, monkeypatch, random):
    shutil.copy(FILM, folder / "x.mp4")
    monkeypatch.chdir(folder)
    clip = av.Clip.from_file("x.mp4")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert clip.frames.any()


@line("Media", "a text named x.mp4 that names another film", "FFmpeg opens the other film", MediaError)
def _(folder):
    shutil.copy(FILM, folder / "other.mp4")
    (folder / "x.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    av.Clip.from_file(folder / "x.mp4")


# --- checkpoints -----------------------------------------------------------------------------------------------------


@line("Checkpoints", "a setting that changes arithmetic (`residual_multiplier`)", "transformers: ignored",
      CheckpointError)  # fmt: skip
def _(folder, random):
    random.save_pretrained(folder / "model")
    edit(folder / "model" / "config.json", lambda config: config["text_config"].update(residual_multiplier=2.0))
    av.HookedAVTransformer.from_pretrained(folder / "model")


@line("Checkpoints", "the same tensor in two shards", "the last one wins", CheckpointError)
def _(folder, random):
    random.save_pretrained(folder / "model")
    shards(folder / "model", twice=True)
    av.HookedAVTransformer.from_pretrained(folder / "model")


@line("Checkpoints", "an index that names a file elsewhere", "it is read", CheckpointError)
def _(folder, random):
    random.save_pretrained(folder / "model")
    shards(folder / "model")
    shutil.move(folder / "model" / "two.safetensors", folder / "evil.safetensors")
    index = folder / "model" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("two.safetensors", "../evil.safetensors"))
    av.HookedAVTransformer.from_pretrained(folder / "model")


@line("Checkpoints", "NaN in the weights", "every answer is token 0", CheckpointError)
def _(folder, random):
    random.save_pretrained(folder / "model")
    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    av.HookedAVTransformer.from_pretrained(folder / "model")


# --- data sets -------------------------------------------------------------------------------------------------------


@line("Data sets", "a span that a sample has not", "paper codes: an empty slice, counted as a result", HookedAVWarning)
def _(folder, random):
    run = run_dataset(folder, random, pathways=["options->last"], ids=(), control={"options": ["yes", "no"]})
    assert (run.n_finished, [failure.sample for failure in run.failures]) == (1, ["one", "two"])


@line("Data sets", "a copied file of results", "one sample counts twice, another vanishes", DatasetError)
def _(folder, random):
    run_dataset(folder, random)
    one, two, *_ = sorted((folder / "out" / "samples").iterdir())
    shutil.copy(one, two)
    av.datasets.merge(folder / "out")


@line("Data sets", "half of a file of results", "counted as finished", DatasetError)
def _(folder, random):
    run_dataset(folder, random)
    one = sorted((folder / "out" / "samples").iterdir())[0]
    one.write_bytes(one.read_bytes()[:200])
    av.datasets.merge(folder / "out")


@line("Data sets", "a field twice in a row of a manifest", "the last one wins", DatasetError)
def _(folder):
    (folder / "m.jsonl").write_text('{"id": "a", "question": "x?", "question": "y?"}\n')
    av.datasets.read_manifest(folder / "m.jsonl")


# --- what the lines are made with ------------------------------------------------------------------------------------

FILM = Path(av.__file__).parent / "data" / "bigbuckbunny.mp4"


def wav(path, peak):
    """A second of float sound with one sample that is no sound."""
    sound = np.full(16_000, 0.1, np.float32)
    sound[500] = peak
    data = sound.tobytes()
    form = struct.pack("<HHIIHH", 3, 1, 16_000, 64_000, 4, 32)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def shards(folder, twice=False):
    """The weights of a folder in two files with an index; one tensor in both, if wished."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    half = len(names) // 2
    parts = {"one.safetensors": names[:half], "two.safetensors": names[half - twice :]}
    for file, some in parts.items():
        save_file({name: tensors[name] for name in some}, folder / file, metadata={"format": "pt"})
    where = {name: file for file, some in parts.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "model.safetensors").unlink()


def run_dataset(folder, model, pathways=("question->last",), ids=("one", "two"), control=None):
    rows = [{"id": name, "question": f"Which digit, {name}?"} for name in ("one", "two")]
    rows += [{"id": "with options", "question": "Which?", **control}] if control else []
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return av.run_dataset(model, folder / "m.jsonl", "flow", out=folder / "out", pathways=list(pathways))


@pytest.fixture(scope="module")
def world():
    """Models with every parameter random, and a prompt with sound and frames."""
    return {
        "model": OMNI.model,
        "inputs": OMNI.inputs("audio in video", 6),
        "random": av.random_omni(n_layers=2),
        "clip": av.Clip.from_image(np.zeros((56, 56, 3), np.uint8)),
    }


@pytest.mark.usefixtures("as_a_user", "one_thread")
@pytest.mark.parametrize("one", LINES, ids=lambda one: one.what)
def test_nothing_is_silent(one, world, tmp_path, monkeypatch):
    known = {**world, "folder": tmp_path, "monkeypatch": monkeypatch}
    call = partial(one.does, **{name: known[name] for name in inspect.signature(one.does).parameters})
    if one.error is None:
        with torch.no_grad():
            call()
    elif issubclass(one.error, Warning):
        with pytest.warns(one.error):
            call()
    else:
        with pytest.raises(one.error) as refused, torch.no_grad():
            call()
        assert all(map(str.strip, map(str, (refused.value.what, refused.value.got, refused.value.next_step))))
    assert what_is_open() == ()


# --- the page --------------------------------------------------------------------------------------------------------


def table():
    """The lines as the page shows them."""
    rows = ["| | what somebody does | here | elsewhere |", "|---|---|---|---|"]
    for number, one in enumerate(LINES):
        topic = one.topic if number == 0 or LINES[number - 1].topic != one.topic else ""
        rows.append(f"| {topic} | {one.what} | {one.here} | {one.elsewhere} |")
    return "\n".join(rows)


def test_the_page_is_this_table():
    assert table() in PAGE.read_text(encoding="utf-8"), f"write this into {PAGE}:\n{table()}"
