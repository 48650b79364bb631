"""Prompts and numbers of the published class (data/salmonn2plus), for the parts that stand alone."""

import json

from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig

from hooked_av.families.salmonn.layout import SalmonnTokens
from support.salmonn import FOLDER

CONFIG = json.loads((FOLDER / "config.json").read_text())
TENSORS = load_file(FOLDER / "cases.safetensors")
CASES = sorted({key.split(".")[0] for key in TENSORS})
TOKENS = SalmonnTokens.from_config(Qwen2_5_VLConfig.from_dict(CONFIG))


def case_tensors(case):
    return {key.split(".")[1]: tensor for key, tensor in TENSORS.items() if key.split(".")[0] == case}
