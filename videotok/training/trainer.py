"""A checkpoint of a training run: one safetensors file, never pickle.

The training loop that all three models share.

What a step does depends on the seed and the step alone (data, noise, dropout are seeded by step), so a run that was
killed and resumed ends where an unbroken one would have, and a checkpoint needs no random-number state.

A finished run -> half-precision weights that can ship.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import ModelMixin
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from codec import atomic_path
from videotok.training.dataset import Batches


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
    with atomic_path(path) as temporary:
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


Batch = dict[str, torch.Tensor]


class Task(Protocol):
    """What a room teaches its model; a plain class beside the model."""

    @property
    def model(self) -> ModelMixin:
        """What is trained: all its parameters, and buffers that it keeps itself."""
        ...

    def prepare(self, items: list[dict[str, np.ndarray]], rng: np.random.Generator) -> Batch:
        """Augments items of the cache and stacks them."""
        ...

    def initialise(self, batches: Iterable[Batch]) -> None:
        """Called once before the first step of a new run: starting values that come from data (PCA, k-means)."""
        ...

    def loss(self, batch: Batch, progress: float) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss [] of a batch and figures to show; `progress` goes from 0 to 1 over the run."""
        ...

    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Figures of the model in eval mode; `psnr` (dB, higher is better) decides which weights are kept."""
        ...


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run's result, beside the data and the code."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 200
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    average_decay: float = 0.999
    """Of the exponential moving average of the weights, which is what is validated and kept."""
    precision: Literal["no", "bf16"] = "no"
    """Of the forward pass (autocast); weights stay float32."""
    seed: int = 0
    save_every: int = 500
    """Steps between checkpoints; validation happens there too."""


def train(
    task: Task,
    batches: Batches,
    validation: list[Batch],
    plan: Plan,
    out: Path,
    *,
    resume: bool = False,
    workers: int = 0,
    facts: dict | None = None,
    report: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
) -> dict:
    """Runs `plan` and returns what is written to `out/run.json`.

    Writes below `out`: `best/` (the averaged weights with the highest validation PSNR, as save_pretrained writes them),
    `checkpoint.safetensors` (everything a resumed run needs) and `run.json` (plan, data, validation history).
    `report(step, figures)` is called every step with loss and figures, and with `validation …` figures where validated.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False.
        ValueError: the checkpoint was made by another plan.
    """
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{out} already holds a run; go on with --resume, or choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=plan.precision)
    model = task.model.to(accelerator.device)
    optimizer = torch.optim.AdamW(
        _groups(model, plan.weight_decay), lr=plan.learning_rate, betas=(0.9, 0.98), fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, plan.warmup_steps, plan.steps)
    start, record = 0, {"plan": asdict(plan), "data": facts or {}, "parameters": _count(model), "validation": []}
    if checkpoint.exists():
        average = EMAModel(model.parameters(), decay=plan.average_decay, use_ema_warmup=True, power=0.75)
        start, record = load_checkpoint(checkpoint, model, optimizer, schedule, average, record)
    else:
        torch.manual_seed(plan.seed)
        task.initialise(_on(batch, accelerator.device) for batch in batches.from_step(0, 0))
        average = EMAModel(model.parameters(), decay=plan.average_decay, use_ema_warmup=True, power=0.75)

    began = time.monotonic() - record.get("seconds", 0.0)
    for step, batch in enumerate(batches.from_step(start, workers), start):
        torch.manual_seed(plan.seed * 1_000_003 + step)
        model.train()
        with accelerator.autocast():
            loss, figures = task.loss(_on(batch, accelerator.device), step / plan.steps)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(model.parameters(), plan.gradient_norm)
        if norm is None or not torch.isfinite(norm):
            raise FloatingPointError(
                f"loss {loss.item()} at step {step} has no finite gradient; lower the learning rate"
            )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        average.step(model.parameters())
        figures = {"loss": loss.item(), **figures}
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            found = _validate(task, model, average, validation, accelerator, out, record)
            record["validation"].append({"step": step + 1, "loss": figures["loss"], **found})
            record["seconds"] = time.monotonic() - began
            save_checkpoint(checkpoint, step + 1, model, optimizer, average, record)
            _write_json(out / "run.json", record)
            figures |= {f"validation {name}": value for name, value in found.items()}
        report(step + 1, figures)
    return record


def _validate(
    task: Task,
    model: ModelMixin,
    average: EMAModel,
    batches: list[Batch],
    accelerator: Accelerator,
    out: Path,
    record: dict,
) -> dict[str, float]:
    """Figures of the averaged weights; keeps them if they are the best so far."""
    average.store(model.parameters())
    average.copy_to(model.parameters())
    model.eval()
    with torch.no_grad():
        found = task.validate(_on(batch, accelerator.device) for batch in batches)
    if found["psnr"] >= max((entry["psnr"] for entry in record["validation"]), default=float("-inf")):
        model.save_pretrained(out / "best")
    average.restore(model.parameters())
    return found


def _groups(model: ModelMixin, weight_decay: float) -> list[dict]:
    """Weight decay is for matrices and kernels: biases, norms and embeddings of one row keep their size."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _count(model: ModelMixin) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _on(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def _write_json(path: Path, record: dict) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def export(model_class: type[ModelMixin], run: Path, folder: Path) -> int:
    """Writes the best weights of `run` to `folder` in float16, with the run's record beside them; returns their bytes.

    Raises:
        FileNotFoundError: `run` has validated nothing yet.
    """
    if not (run / "best" / "config.json").is_file():
        raise FileNotFoundError(f"{run} has no weights yet; they appear at the first validation of a training run")
    model = model_class.from_pretrained(run / "best").half()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _forget_origin(folder / "config.json")
    record = json.loads((run / "run.json").read_text())
    with atomic_path(folder / "run.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _forget_origin(config: Path) -> None:
    """Takes out the folder that diffusers says weights were loaded from: it means nothing to whoever gets them."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    with atomic_path(config) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
