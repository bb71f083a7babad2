"""The published sizes give what the reference's own code gave, stored by `python -m benchmarks.parity`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import parity_cases as cases
from benchmarks.parity_language import CONFIG, our_language

STORED = load_file(Path(__file__).parent / "data" / "parity.safetensors")
OURS = {
    "motion": cases.our_motion,
    "keyframes": cases.our_keyframes,
    "condition": cases.our_condition,
    "video": cases.our_video,
    "language": our_language,
}
CONFIGS = {**cases.REDUCED, "language": CONFIG}


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_agrees_with_the_reference(name: str):
    found = {f"{name}.{key}": cases.thinned(value) for key, value in OURS[name](CONFIGS[name]).items()}
    assert found.keys() == {key for key in STORED if key.startswith(f"{name}.")}
    for key, value in found.items():
        theirs = STORED[key]
        if value.is_floating_point():
            assert (value - theirs).abs().max() <= 1e-4 * theirs.abs().max(), key
        else:
            assert torch.equal(value, theirs), key
