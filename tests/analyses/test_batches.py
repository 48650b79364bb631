"""An analysis of one prompt refuses a batch with the loop that does it; the loop gives what the prompts alone give."""

import numpy as np
import pytest
from support import every_result

import hooked_av as av
from hooked_av.errors import InputsError

ANALYSES = {
    "av.logit_lens": lambda model, one: av.logit_lens(model, one, tokens=["five"]).token_probabilities,
    "av.answer_trace": lambda model, one: av.answer_trace(model, one, ["five", "one"]).probabilities,
    "av.direct_logit_attribution": lambda model, one: av.direct_logit_attribution(model, one, "five", "one").sources,
    "av.media_lens": lambda model, one: av.media_lens(model, one).top_logits,
    "model.baseline": lambda model, one: model.baseline(one).logits,
    "for one in": lambda model, one: av.find_sinks(model, one).received,
}


@pytest.fixture(scope="module")
def batch():
    model = every_result.model()
    text = model.prepare(question="Which digit is shown first?")
    return model.batch([text, *(case.inputs for case in every_result.cases()[:2])])


@pytest.mark.parametrize("name", ANALYSES)
def test_a_batch_is_refused_with_the_loop(name, batch):
    with pytest.raises(InputsError) as refused:
        ANALYSES[name](every_result.model(), batch)
    assert name in refused.value.next_step
    assert "for one in inputs.prompts" in refused.value.next_step


@pytest.mark.parametrize("name", ANALYSES)
def test_the_loop_gives_what_the_prompts_alone_give(name, batch):
    for one, case in zip(batch.prompts[1:], every_result.cases(), strict=False):
        found, alone = (ANALYSES[name](every_result.model(), inputs) for inputs in (one, case.inputs))
        assert np.array_equal(np.asarray(found), np.asarray(alone), equal_nan=True)
