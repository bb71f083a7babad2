"""What is imported of diffusers: as little as the models need, and the same classes as the whole."""

import importlib.metadata
import subprocess
import sys

import pytest

from motion_vq.diffusers_import import light_diffusers

SLOW = ("transformers", "torch._dynamo", "diffusers.models.unets.unet_1d", "diffusers.loaders.lora_pipeline", "scipy")

QUICK_IMPORT = f"""
import sys
import unet3d.detokenizer, videotok.pipeline, videotok.keyframes.tokenizer, videotok.cli.decode
found = [name for name in {SLOW!r} if name in sys.modules]
sys.exit(f"imported: {{found}}" if found else 0)
"""

SAME_CLASSES = """
from unet3d.diffusion import UNetSpatioTemporalConditionModel as ours
from diffusers import UNetSpatioTemporalConditionModel as theirs
from diffusers.models.unets import UNet1DModel
from diffusers.loaders import lora_base, lora_pipeline
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.utils.import_utils import _package_map
assert ours is theirs
from diffusers.loaders import unet
for name in ("LORA_WEIGHT_NAME", "LORA_WEIGHT_NAME_SAFE", "UNET_NAME", "TEXT_ENCODER_NAME"):
    assert getattr(unet, name) == getattr(lora_pipeline, name), name
deferred, real = unet._func_optionally_disable_offloading, lora_base._func_optionally_disable_offloading
assert deferred is not real and deferred(_pipeline=None) == real(_pipeline=None)
assert "torch" in _package_map and _package_map["torch"] == ["torch"]
"""


@pytest.mark.parametrize("code", [QUICK_IMPORT, SAME_CLASSES], ids=["quick import", "same classes"])
def test_only_what_models_need_is_imported(code: str) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_stand_ins_are_removed_even_where_a_module_cannot_be_imported() -> None:
    read, before = importlib.metadata.packages_distributions, sys.modules.get("diffusers.hooks")
    with light_diffusers("diffusers.models.no_such_model"):
        # imports inside are plain ones then
        assert sys.modules.get("diffusers.hooks") is before
        assert sys.modules.get("torch._dynamo", "missing") is not None
    assert importlib.metadata.packages_distributions is read
