"""Patching over a dataset: every sample against itself with its media changed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from hooked_av.analyses.metric import Metric
from hooked_av.analyses.patching.pairs import make_pair
from hooked_av.analyses.patching.spans import COMPONENTS, SpanPatching, patch_spans
from hooked_av.datasets.manifest import SampleCase
from hooked_av.errors import DatasetError

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer


def patch_media(
    model: "HookedAVTransformer",
    case: SampleCase,
    *,
    corruption: Literal["silence", "black_frames"] = "silence",
    spans: str | Sequence[str] | None = None,
    components: str | Sequence[str] = COMPONENTS,
    metric: Metric = "logit_difference",
) -> SpanPatching:
    """In which span and layer does what a sample's media say become the answer?

    The corrupt prompt is the sample with its first clip silenced or blanked (`make_pair`); rows of the clean run are
    patched into it (`patch_spans`).

    Args:
        corruption: what happens to the clip.
        spans: rows that are patched together (None: those of `patch_spans`).
        components: short names of what is patched.
        metric: what is measured of the clean answer, as for `patch_spans`.

    Errors: `DatasetError` for a case that comes from no manifest; those of `make_pair` and `patch_spans`, such as
    `InputsError` where the changed media lead to the same answer.

    >>> import hooked_av as av
    >>> from hooked_av.datasets.manifest import read_manifest
    >>> from hooked_av.tiny.samples import FOLDER
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_manifest(FOLDER / "manifest.jsonl")[1]
    >>> patched = patch_media(model, sample.prepare(model), spans=["audio"], components=["resid_pre"])
    >>> round(float(patched.effects[0, 0, 0]), 3)
    1.0
    """
    sample = case.sample
    if sample is None:
        raise DatasetError(
            "this case has no media to change",
            expected="a case of a manifest's sample (sample.prepare(model))",
            got=f"case {case.id!r} without a sample",
            next_step="make a pair yourself: av.make_pair and av.patch_spans",
        )
    asked = {"question": sample.question, "options": sample.options, **case.arguments}
    pair = make_pair(model, sample.clips(), corruption, **asked)
    return patch_spans(model, clean=pair.clean, corrupt=pair.corrupt, spans=spans, components=components, metric=metric)
