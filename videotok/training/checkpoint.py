"""A checkpoint of a training run: one safetensors file, never pickle."""

import json
from pathlib import Path

from diffusers import ModelMixin
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from codec import replacing


def save_checkpoint(
    path: Path, step: int, model: ModelMixin, optimizer: Optimizer, average: EMAModel, record: dict
) -> None:
    """Writes the run after `step` steps, whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{index}": tensor for index, tensor in enumerate(average.shadow_params)}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    header = {"step": step, "average_steps": average.optimization_step, "record": record}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"videotok": json.dumps(header)})


def load_checkpoint(
    path: Path, model: ModelMixin, optimizer: Optimizer, schedule: LambdaLR, average: EMAModel, record: dict
) -> tuple[int, dict]:
    """Puts everything back; returns the steps done and the run's record.

    Raises:
        ValueError: the checkpoint belongs to another plan or another model.
    """
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["videotok"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    for key in ("plan", "parameters"):
        if header["record"][key] != record[key]:
            raise ValueError(
                f"{path} was made with {key} {header['record'][key]}, this run has {record[key]}; use another --out"
            )
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    average.shadow_params = [
        tensors[f"average.{index}"].to(shadow.device) for index, shadow in enumerate(average.shadow_params)
    ]
    average.optimization_step = header["average_steps"]
    state = optimizer.state_dict()
    state["state"] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            state["state"].setdefault(int(index), {})[field] = tensor
    optimizer.load_state_dict(state)
    schedule.last_epoch = header["step"]
    for group, highest, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = highest * factor(header["step"])
    return header["step"], header["record"]
