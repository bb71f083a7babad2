"""Our models give what the reference's own code gave, stored by `python -m benchmarks.lavit_parity --write`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.lavit_parity_cases import OUR_OUTPUTS, REDUCED, subsample

STORED = load_file(Path(__file__).parent / "data" / "parity.safetensors")


@pytest.mark.parametrize("name", OUR_OUTPUTS)
@torch.no_grad()
def test_outputs_agree_with_the_reference(name: str):
    found = {f"{name}.{key}": subsample(value) for key, value in OUR_OUTPUTS[name](REDUCED[name]).items()}
    assert found.keys() == {key for key in STORED if key.startswith(f"{name}.")}
    for key, value in found.items():
        reference = STORED[key]
        if value.is_floating_point():
            assert (value - reference).abs().max() <= 1e-4 * reference.abs().max(), key
        else:
            assert torch.equal(value, reference), key
