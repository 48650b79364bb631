"""Cases and their bootstrap intervals."""

import numpy as np
import pytest
import torch

import hooked_av as av
from hooked_av.analyses import bootstrap
from hooked_av.analyses.bootstrap import bootstrap_interval
from hooked_av.analyses.cases import as_cases
from hooked_av.prompt.inputs import stack_inputs


@pytest.fixture(scope="module")
def inputs():
    return av.random_omni(n_layers=2).prepare(question="Which digit do you hear?")


def test_one_prompt_is_one_case(inputs):
    (case,) = as_cases(inputs)
    assert (case.inputs, case.answer, case.id) == (inputs, None, "0")


def test_cases_are_taken_one_by_one(inputs):
    taken = []

    def stream():
        for number in range(3):
            taken.append(number)
            yield av.Case(inputs, id=f"case {number}")

    cases = as_cases(stream())
    assert next(cases).id == "case 0"
    assert taken == [0]


@pytest.mark.parametrize("given", [[], "text", 3, {}])
def test_what_is_no_case_is_refused(given):
    with pytest.raises(av.errors.InputsError, match="nothing to analyse"):
        list(as_cases(given))


def test_a_batch_is_its_prompts(inputs):
    longer = av.AVInputs.from_tokens(torch.arange(40)[None])
    cases = list(as_cases(stack_inputs([inputs, longer], pad_token_id=0)))
    assert [case.id for case in cases] == ["0", "1"]
    assert [case.inputs.n_pos for case in cases] == [inputs.n_pos, 40]
    assert torch.equal(cases[0].inputs.input_ids, inputs.input_ids)


def test_a_batch_among_cases_is_refused(inputs):
    batch = stack_inputs([inputs, inputs], pad_token_id=0)
    for given in ([inputs, batch], av.Case(batch)):
        with pytest.raises(av.errors.InputsError, match="a batch of 2 prompts"):
            list(as_cases(given))


def test_intervals_cover_the_mean_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval(rng.normal(1.0, 2.0, size=40), seed, n_resamples=400)
        hits += bool(low <= 1.0 <= high)
    assert 0.88 <= hits / 200 <= 0.99


def test_intervals_leave_missing_values_out():
    values = np.array([[1.0, np.nan], [3.0, 5.0], [2.0, 5.0]])
    low, high = bootstrap_interval(values)
    assert (low[1], high[1]) == (5.0, 5.0)
    assert 1.0 <= low[0] < 2.0 < high[0] <= 3.0


@pytest.mark.parametrize("axes", [(), (1,), (3,), (9, 1, 8)])
@pytest.mark.parametrize("n", [1, 3, 40, 257])
def test_resamples_are_those_drawn_one_by_one(n, axes, monkeypatch):
    rng = np.random.default_rng(n)
    values = rng.normal(size=(n, *axes)) * 10.0 ** rng.integers(-3, 4, (n, *axes))
    monkeypatch.setattr(bootstrap, "GATHERED", 5 * values.size)  # several blocks, the last one shorter
    for missing in (0, 0.3):
        values[rng.random(values.shape) < missing] = np.nan
        drawing, wanted = np.random.default_rng(7), []
        for _ in range(23):
            sample = values[drawing.integers(0, n, n)]
            n_known = (~np.isnan(sample)).sum(axis=0)
            wanted.append(np.nan_to_num(sample).sum(axis=0) / np.where(n_known == 0, np.nan, n_known))
        np.testing.assert_array_equal(bootstrap.resampled_means(values, 7, 23), np.array(wanted))


def test_one_sample_has_no_interval():
    assert np.isnan(bootstrap_interval(np.ones((1, 3)))).all()
