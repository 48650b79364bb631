"""A user's own intervention acts in passes, replays and generation as ours do; one that says nothing is refused."""

from dataclasses import dataclass

import pytest
import torch

import hooked_av as av
from hooked_av.decoder.cuts import AnyCut, Cut
from hooked_av.errors import InterventionError
from hooked_av.interventions.intervention import Edit, cut_between

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = av.random_omni(n_layers=3)
INPUTS = MODEL.prepare(question="Which of the two digits do you hear first?")
LAST = INPUTS.n_pos - 1


@dataclass(frozen=True)
class ReadNearby(av.interventions.Intervention):
    """Each token of a span reads only itself and the tokens right before it."""

    queries: str
    width: int
    layers: tuple[int, ...]

    def cuts(self, run, cfg):
        rows = run.positions(self.queries)
        far = [(row, torch.arange(int(row) - self.width + 1)) for row in rows[0] if row >= self.width]
        return [(layer, Cut(row.view(1, 1), keys[None])) for layer in self.layers for row, keys in far]


@dataclass(frozen=True, eq=False)
class Stripes(AnyCut):
    """A cut of a form of its own: every second key."""

    def blocked(self, rows, keys):
        return ((rows[..., None] - keys[:, None]) % 2 == 1).expand(*rows.shape, keys.shape[1])

    def of(self, row):
        return self


@dataclass(frozen=True)
class Striped(av.interventions.Intervention):
    layer: int

    def cuts(self, run, cfg):
        return [(self.layer, run.once("stripes", Stripes))]


@dataclass(frozen=True)
class Halve(Edit):
    """Rows of a span become half of what they are."""

    mixes_rows = False

    def new(self, point, rows):
        return rows / 2


@dataclass(frozen=True)
class Sort(Edit):
    """Rows of a span change places, so each depends on another."""

    def new(self, point, rows):
        return rows.flip(1)


@dataclass(frozen=True)
class Forget(av.interventions.Intervention):
    """Two spans leave, one after the other."""

    layer: int

    def leaves(self, run):
        return [(self.layer, "system"), (self.layer + 1, "question - last")]


OWN = {
    "cuts": ReadNearby("question", 3, (0, 2)),
    "cuts of the last row": ReadNearby("last", 4, (1,)),
    "a cut of its own": Striped(1),
    "an edit of single rows": Halve("blocks.*.hook_mlp_out", "question"),
    "an edit that mixes rows": Sort("blocks.1.hook_resid_mid", "question"),
    "an edit that needs rows which nobody reads": Sort("blocks.2.hook_mlp_out", "question|last"),
    "leaves": Forget(1),
}


def full(*specs):
    with torch.no_grad():
        return MODEL(INPUTS, interventions=list(specs), logits_at="last")[0, 0]


@pytest.mark.parametrize("spec", OWN.values(), ids=OWN.keys())
def test_a_replay_of_it_equals_a_full_pass(spec):
    found = MODEL.baseline(INPUTS).run([spec, [spec, "system->last@2"]])
    assert found.full_passes == ()
    for logits, wanted in zip(found.logits, (full(spec), full(spec, "system->last@2")), strict=True):
        assert torch.allclose(logits, wanted, atol=1e-4)
        assert not torch.allclose(wanted, full(), atol=1e-3), "it does something"


def test_what_a_cut_of_its_own_cuts_is_what_specs_cut():
    rows = INPUTS.spans["question"].positions
    same = [
        av.block_attention(keys=f"far{row}", queries=f"row{row}", layers=[0, 2]) for row in rows.tolist() if row >= 3
    ]
    inputs = INPUTS
    for row in rows.tolist():
        inputs = inputs.with_span(f"row{row}", [row]).with_span(f"far{row}", range(row - 2))
    with torch.no_grad():
        wanted = MODEL(inputs, interventions=same, logits_at="last")[0, 0]
    assert torch.equal(full(ReadNearby("question", 3, (0, 2))), wanted)


@pytest.mark.parametrize("spec", OWN.values(), ids=OWN.keys())
def test_it_goes_through_every_door(spec):
    answer = MODEL.generate(INPUTS, max_new_tokens=2, stop_tokens=(), interventions=spec, keep="logits")
    assert torch.allclose(answer.logits[0, 0], full(spec), atol=1e-4)
    wanted = full(spec)
    with MODEL.intervene(spec):
        assert torch.equal(full(), wanted)
    assert av.interventions.from_json(av.interventions.to_json(spec)) == [spec]
    assert spec == type(spec)(**vars(spec))
    assert len({spec, type(spec)(**vars(spec))}) == 1


@dataclass(frozen=True)
class Nothing(av.interventions.Intervention):
    layer: int = 0

    def cut(self, run, cfg):  # meant to be `cuts`
        return []


class Loose(av.interventions.Intervention):
    def cuts(self, run, cfg):
        return [(0, cut_between(run, queries="last", keys="system"))]


@dataclass(frozen=True)
class Wrong(av.interventions.Intervention):
    given: tuple = ()

    def cuts(self, run, cfg):
        return self.given


@dataclass(frozen=True)
class Unwritten(Edit):
    pass


DOORS = {
    "a pass": lambda spec: MODEL(INPUTS, interventions=spec),
    "a cache": lambda spec: MODEL.run_with_cache(INPUTS, names_filter="hook_embed", interventions=[spec]),
    "a block": lambda spec: MODEL.intervene(spec).__enter__(),
    "a replay": lambda spec: MODEL.baseline(INPUTS).run([spec]),
    "a generation": lambda spec: MODEL.generate(INPUTS, max_new_tokens=1, interventions=spec),
    "a begun pass": lambda spec: MODEL.begin(INPUTS, interventions=spec),
    "JSON": av.interventions.to_json,
    "a random cut": av.block_random,
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Nothing(), r"Nothing does nothing(.|\n)*cuts\(self, run, cfg\)(.|\n)*write one: def cuts"),
        (Loose(), r"Loose is no value(.|\n)*@dataclass\(frozen=True\)"),
        (Nothing, "not an intervention(.|\n)*Nothing, the class"),
    ],
    ids=["nothing", "no value", "the class"],
)
def test_a_spec_that_could_never_act_is_refused_at_every_door(door, spec, said):
    with pytest.raises(InterventionError, match=said):
        door(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Wrong(((7, Stripes()),)), "no such layers"),
        (Wrong(((0, "system->last"),)), r"Wrong.cuts gives what is no cut(.|\n)*got: +str"),
        (Unwritten("blocks.0.hook_mlp_out", "last"), r"does not say what rows become(.|\n)*def new"),
    ],
    ids=["layer", "cut", "new"],
)
def test_what_it_says_is_checked(spec, said):
    with pytest.raises(InterventionError, match=said):
        MODEL(INPUTS, interventions=spec)
    assert not any(point.is_hooked for point in MODEL.hook_dict.values())


def test_a_kind_is_one_class_and_an_unknown_one_is_named():
    with pytest.raises(InterventionError, match=r"two interventions are of kind 'ablate'(.|\n)*specs.Ablate"):

        class Mine(av.interventions.Intervention):
            kind = "ablate"

    with pytest.raises(InterventionError, match=r"none is of kind 'ablat'(.|\n)*ablate(.|\n)*import the module"):
        av.interventions.from_json('[{"kind": "ablat"}]')
