"""Checkpoints of a training run, and the half-precision weights that a finished run exports.

A checkpoint is one safetensors file: weights, averaged weights and optimizer state of everything that is trained, with
the step count and the run's record in its header. It holds no random-number state: what a step does depends on the
seed and the step alone (see videotok.training.trainer).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from codec import atomic_path
from videotok.io_utils import read_json, write_json

Model = TypeVar("Model", bound=ModelMixin)

COMPARED = ("plan", "parameters")
"""Entries of the record that must be equal for a run to continue from a checkpoint."""


@dataclass
class TrainState:
    """What training changes: a module, its optimizer, and the moving average of its weights."""

    module: nn.Module
    optimizer: Optimizer
    average: EMAModel | None = None
    """None: no average is kept."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return everything to be restored, by name."""
        found = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        if self.average is not None:
            found |= {f"average.{index}": tensor for index, tensor in enumerate(self.average.shadow_params)}
        return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}

    def restore(self, tensors: Mapping[str, torch.Tensor], steps: int) -> None:
        """Load what `tensors()` returned after `steps` steps."""
        self.module.load_state_dict(_below("module", tensors))
        state = self.optimizer.state_dict()
        state["state"] = {}
        for name, tensor in _below("optimizer", tensors).items():
            index, _, field = name.partition(".")
            state["state"].setdefault(int(index), {})[field] = tensor
        self.optimizer.load_state_dict(state)
        if self.average is not None:
            found = _below("average", tensors)
            self.average.shadow_params = [
                found[str(index)].to(shadow.device) for index, shadow in enumerate(self.average.shadow_params)
            ]
            self.average.optimization_step = steps


def save_checkpoint(path: Path, step: int, states: Mapping[str, TrainState], record: dict[str, Any]) -> None:
    """Write a run after `step` steps, atomically.

    Args:
        path: the file.
        step: number of finished steps.
        states: what is trained, by name (`model`, and `discriminator` if there is one).
        record: what run.json says so far.
    """
    tensors = {f"{part}.{name}": tensor for part, state in states.items() for name, tensor in state.tensors().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"videotok": json.dumps({"step": step, "record": record})})


def load_checkpoint(
    path: Path, states: Mapping[str, TrainState], record: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
    """Restore `states` from a checkpoint; return the number of finished steps and the run's record.

    Raises:
        ValueError: the checkpoint belongs to a run with another plan or to another model.
    """
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["videotok"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    for key in COMPARED:
        if header["record"][key] != json.loads(json.dumps(record[key])):
            raise ValueError(
                f"{path} was made with {key} {header['record'][key]}, this run has {record[key]}; "
                "write to another folder"
            )
    for part, state in states.items():
        state.restore(_below(part, tensors), header["step"])
    return header["step"], header["record"]


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with `prefix` and a dot, under the rest of their names."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def load_best(model_class: type[Model], run: Path) -> Model:
    """Return the model with the best weights of a run.

    Raises:
        FileNotFoundError: `run` has no weights yet.
    """
    if not (run / "best" / "config.json").is_file():
        raise FileNotFoundError(f"{run} has no weights yet; they are written at the first validation of a training run")
    return model_class.from_pretrained(run / "best")


def export_weights(model: ModelMixin, record: Mapping[str, Any], folder: Path) -> int:
    """Write a model in float16, with the record of its training beside it; return the size of the weights in bytes.

    Args:
        model: changed to float16 in place.
        record: run.json of its run.
        folder: made if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(folder)
    _remove_name_or_path(folder / "config.json")
    write_json(folder / "run.json", record)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _remove_name_or_path(config: Path) -> None:
    """Remove the folder that diffusers recorded as the origin of the weights: it exists on this machine only."""
    values = read_json(config)
    values.pop("_name_or_path", None)
    write_json(config, values)
