"""Placement: where a model computes, which is not always where its weights lie"""

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """The device that a model's inputs belong on.

    accelerate's offloading leaves weights on the `meta` device between calls and moves them in for each: then it is the
    one that they are moved to. diffusers' own offloading says so itself, by `model.device`.
    """
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for part in getattr(hook, "hooks", (hook,)):
            device = getattr(part, "execution_device", None)
            if device is not None:
                return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    told = getattr(model, "device", None)
    if isinstance(told, torch.device):
        return told
    return next(model.parameters()).device
