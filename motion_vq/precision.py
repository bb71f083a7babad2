"""The precision in which ids are decided: float64, also where a model's weights are kept in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def double_precision(*modules: nn.Module) -> Iterator[None]:
    """Inside, modules with float32 weights compute in float64; others are left as they are.

    The weights are cast in place and back, which loses nothing. They move to the CPU where their device has no float64
    (Apple's GPUs). No other thread may use the modules meanwhile.
    """
    weight = next(modules[0].parameters())
    if weight.dtype != torch.float32:
        yield
        return
    device = weight.device
    try:
        for module in modules:
            module.to(device=torch.device("cpu") if device.type == "mps" else device, dtype=torch.float64)
        yield
    finally:
        for module in modules:
            module.to(device=device, dtype=torch.float32)


def as_double(values: Tensor) -> Tensor:
    """Return values in float64; on the CPU where their device has none (Apple's GPUs)."""
    return (values.cpu() if values.device.type == "mps" else values).double()
