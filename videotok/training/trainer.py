"""The training loop of all models: keyframe tokenizer, motion tokenizer, video detokenizer, language model.

    Batches.from_step ──► task.loss ──► backward, clip, AdamW, moving average ──┬─► checkpoint.safetensors, run.json
                                                                               └─► task.validate ──► best/

What a step does depends on the seed and the step alone: data, noise and dropout are seeded by the step. A run that was
killed and resumed therefore ends exactly where an uninterrupted one would have (unless it is limited by time). Under
`accelerate launch` each process takes its share of every batch and gradients are averaged.
"""

import atexit
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
import torch.distributed
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast, send_to_device
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from videotok.io_utils import write_json
from videotok.models import choose_device
from videotok.training.checkpoint import TrainState, load_checkpoint, save_checkpoint

Figures = dict[str, float]
Loss = Callable[[Any, float], tuple[Tensor, Figures]]


class Trainable(Protocol):
    """A torch module that can be saved (`save_pretrained`), such as any model of diffusers or transformers."""

    def save_pretrained(self, folder: Any) -> Any:
        """Write the weights and their config to a folder."""
        ...


class Task(Protocol):
    """What a model is trained for: a plain class beside the model.

    A batch is whatever `StepBatches` yields, a dict of tensors or an object with `to(device)`.
    """

    @property
    def model(self) -> Any:
        """The module to train (`Trainable`). Parameters with `requires_grad=False` stay as they are. Buffers that the
        loss updates itself (codebooks) are those of the first process when there are several; it has to gather what
        they depend on (`motion_vq.vector_quantizer.reduce_over_processes`)."""
        ...

    def initialize(self, batches: Iterable[Any]) -> None:
        """Set initial values that come from data (PCA, k-means). Called once, before the first step of a new run."""
        ...

    def loss(self, batch: Any, progress: float) -> tuple[Tensor, Figures]:
        """Return the loss [] of a batch and figures to show; `progress` goes from 0 to 1 over the run."""
        ...

    def validate(self, batches: Iterable[Any]) -> Figures:
        """Return figures of the model in eval mode; see `criterion` of `train`."""
        ...


@runtime_checkable
class AdversarialTask(Task, Protocol):
    """A task with a discriminator, which has an optimizer of its own.

    A step is one of the model (`loss`, in which the task keeps the discriminator's parameters out of the gradient),
    then one of the discriminator (`discriminator_loss`, on what the task kept of the model's step). Training in phases
    is one run after another: each has its own task and plan, and starts from the weights of the run before.
    """

    @property
    def discriminator(self) -> nn.Module:
        """The second module to train."""
        ...

    def discriminator_loss(self, batch: Any, progress: float) -> tuple[Tensor, Figures]:
        """Return the discriminator's loss [] on the batch that `loss` has just seen, and figures to show."""
        ...


class StepBatches(Protocol):
    """The training data, one batch a step."""

    def from_step(self, step: int, workers: int, process: int = 0, num_processes: int = 1) -> Iterator[Any]:
        """Yield the batches of the steps from `step` on, prepared by `workers` processes.

        Of each batch only the share of `process` among `num_processes`. A batch depends on the seed and its step alone.
        """
        ...


@dataclass(frozen=True)
class Plan:
    """Everything besides data and code that decides the result of a run."""

    steps: int
    """Optimizer steps at most."""
    batch_size: int
    """Items (pictures, clips, rows) a step, over all processes."""
    learning_rate: float
    """The highest one: linear warm-up to it, then a cosine down to zero."""
    warmup_steps: int = 200
    weight_decay: float = 0.01
    """Of matrices and kernels; biases, norms and `no_weight_decay` have none."""
    gradient_norm: float = 1.0
    """Longer gradients are clipped to this norm."""
    average_decay: float | None = 0.999
    """Decay of the exponential moving average of the weights, which is what is validated and kept. None: no average."""
    precision: Literal["no", "bf16"] = "no"
    """Of the forward pass (autocast); weights stay float32."""
    seed: int = 0
    save_every: int = 500
    """Steps between checkpoints; each comes with a validation."""
    max_seconds: float | None = None
    """Time limit of the run, over all its resumptions. The learning rate then reaches zero when either limit is met,
    so that the result depends on the speed of the machine."""
    betas: tuple[float, float] = (0.9, 0.98)
    """Of AdamW."""
    discriminator_learning_rate: float | None = None
    """Of an `AdversarialTask`; `learning_rate` if None."""
    compile: bool = False
    """Compile the networks' blocks with torch.compile, which takes a minute or more before the first step."""

    def learning_rate_factor(self, step: int, progress: float) -> float:
        """Return the factor, 0 to 1, on the highest learning rate at a step (from 0) and a progress (0 to 1)."""
        if step < self.warmup_steps:
            return step / self.warmup_steps
        warm = min(self.warmup_steps / self.steps, progress)
        share = (progress - warm) / max(1 - warm, 1e-9)
        return 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def train(
    task: Task,
    batches: StepBatches,
    validation: Sequence[Any],
    plan: Plan,
    out: Path,
    *,
    resume: bool = False,
    workers: int = 0,
    criterion: str | None = "psnr",
    weights_folder: Path | None = None,
    no_weight_decay: Sequence[nn.Parameter] = (),
    facts: dict[str, Any] | None = None,
    device: str = "auto",
    report: Callable[[int, Figures], None] = lambda step, figures: None,
) -> dict[str, Any]:
    """Train a task's model and return the record that is also written to `out/run.json`.

    Writes below `out`: `best/` (weights, as save_pretrained writes them), `checkpoint.safetensors` (all that a resumed
    run needs) and `run.json` (plan, data, validations, seconds, items per second).

    Args:
        task: what to train, and its loss.
        batches: the training data.
        validation: batches for `task.validate`; if empty there is no validation.
        plan: how long and how.
        out: folder of the run; made if it does not exist.
        resume: continue from the checkpoint in `out`, if there is one.
        workers: processes that prepare batches.
        criterion: figure of `task.validate` that decides which weights are kept, the higher the better. None, or no
            validation: the latest weights are kept.
        weights_folder: where the kept weights are written; `out/best` if None.
        no_weight_decay: parameters without weight decay, besides biases and norms.
        facts: about the data, for run.json.
        device: where to train: `auto` (the fastest there is, or what `accelerate launch` says), `cpu`, `cuda`, `mps`.
        report: called after every step with the step (from 1) and its figures: loss, those of the task,
            `items_per_second`, and `validation …` where there was a validation.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False.
        ValueError: the checkpoint was made by another plan or model.
        ModelError: there is no such device.
        FloatingPointError: a loss has no finite gradient.
    """
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{out} already holds a run; resume it, or write to another folder")
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(task, batches, plan, no_weight_decay, checkpoint.exists(), device)
    record: dict[str, Any] = {
        "plan": asdict(plan),
        "data": facts or {},
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "validation": [],
    }
    start = 0
    if checkpoint.exists():
        start, record = load_checkpoint(checkpoint, run.states, record)
    record["processes"] = run.accelerator.num_processes
    clock = _Clock(plan, run.accelerator, record.get("seconds", 0.0))

    progress = clock.progress(start)
    for step, batch in enumerate(run.batches_from(start, workers) if progress < 1 else (), start):
        figures = run.step(batch, step, progress)
        progress = clock.progress(step + 1)
        figures["items_per_second"] = (step + 1 - start) * plan.batch_size / clock.training_seconds
        if (step + 1) % plan.save_every == 0 or progress >= 1:
            with clock.paused():
                found = run.validate(validation, criterion, weights_folder or out / "best", record["validation"])
            record["validation"].append({"step": step + 1, "loss": figures["loss"], **found})
            record |= {"seconds": clock.seconds, "items_per_second": figures["items_per_second"]}
            run.save(checkpoint, step + 1, record)
            figures |= {f"validation {name}": value for name, value in found.items()}
        if run.accelerator.is_main_process:
            report(step + 1, figures)
        if progress >= 1:
            break
    return record


class _Objective(nn.Module):
    """A module and its loss as one module: DistributedDataParallel and autocast work on `forward`."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.module = module
        self._loss = loss

    def forward(self, batch: Any, progress: float) -> tuple[Tensor, Figures]:
        return self._loss(batch, progress)


@dataclass
class _Part:
    """One trained module: its objective as accelerate prepared it, its state, its highest learning rate."""

    objective: nn.Module
    state: TrainState
    learning_rate: float


class _Run:
    """What a run consists of, on this process."""

    def __init__(
        self,
        task: Task,
        batches: StepBatches,
        plan: Plan,
        no_weight_decay: Sequence[nn.Parameter],
        is_resumed: bool,
        device: str,
    ) -> None:
        self._task, self._batches, self._plan = task, batches, plan
        # a loss need not use every parameter at every step
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        chosen = choose_device(device)  # refused before accelerate takes another one
        if chosen.index and chosen.type == "cuda":  # accelerate takes the current one
            torch.cuda.set_device(chosen)
        self.accelerator = Accelerator(mixed_precision=plan.precision, cpu=device == "cpu", kwargs_handlers=[unused])
        if plan.batch_size < self.accelerator.num_processes:
            raise ValueError(
                f"`batch_size` (={plan.batch_size}) must be at least the number of processes "
                f"(={self.accelerator.num_processes})"
            )
        if self.accelerator.num_processes > 1:
            atexit.register(_leave_process_group)
        task.model.to(self.accelerator.device)
        torch.manual_seed(plan.seed)
        if not is_resumed:
            task.initialize(send_to_device(batch, self.accelerator.device) for batch in batches.from_step(0, 0))
        self._parts = {"model": self._part(task.model, task.loss, plan.learning_rate, no_weight_decay)}
        if isinstance(task, AdversarialTask):
            rate = plan.discriminator_learning_rate or plan.learning_rate
            no_decay = tuple(task.discriminator.parameters())
            self._parts["discriminator"] = self._part(
                task.discriminator, task.discriminator_loss, rate, no_decay, averaged=False
            )

    @property
    def states(self) -> dict[str, TrainState]:
        """What a checkpoint holds."""
        return {name: part.state for name, part in self._parts.items()}

    def batches_from(self, step: int, workers: int) -> Iterator[Any]:
        """Yield this process's share of the batches, on its device."""
        found = self._batches.from_step(step, workers, self.accelerator.process_index, self.accelerator.num_processes)
        device = self.accelerator.device
        # from pinned memory a copy to CUDA runs beside the CPU
        return (send_to_device(batch, device, non_blocking=device.type == "cuda") for batch in found)

    def step(self, batch: Any, step: int, progress: float) -> Figures:
        """Do one optimizer step of every part; return its figures."""
        # other noise in every step and process
        torch.manual_seed(self._plan.seed * 1_000_003 + step + self.accelerator.process_index * 999_999_937)
        figures: Figures = {}
        for name, part in self._parts.items():
            loss, found = self._optimize(part, batch, step, progress)
            figures |= {"loss" if name == "model" else f"{name}_loss": loss, **found}
        return figures

    def validate(
        self, batches: Sequence[Any], criterion: str | None, folder: Path, earlier: Sequence[Figures]
    ) -> Figures:
        """Return figures of the averaged weights; write the weights if they are the best so far.

        Only the first process works, the others wait.
        """
        model, average = self._task.model, self._parts["model"].state.average
        figures: Figures = {}
        if self.accelerator.is_main_process:
            if average is not None:
                average.store(model.parameters())
                average.copy_to(model.parameters())
            model.eval()
            if batches:
                with torch.no_grad():
                    figures = self._task.validate(send_to_device(batch, self.accelerator.device) for batch in batches)
            before = [entry[criterion] for entry in earlier if criterion in entry]
            if not figures or criterion is None or figures[criterion] >= max(before, default=-math.inf):
                model.save_pretrained(folder)
            if average is not None:
                average.restore(model.parameters())
        self.accelerator.wait_for_everyone()
        return figures

    def save(self, checkpoint: Path, step: int, record: dict[str, Any]) -> None:
        """Write the checkpoint and, beside it, run.json; the first process only, the others wait."""
        if self.accelerator.is_main_process:
            save_checkpoint(checkpoint, step, self.states, record)
            write_json(checkpoint.with_name("run.json"), record)
        # a process that stops here and is started again must find the same checkpoint as the first one
        self.accelerator.wait_for_everyone()

    def _part(
        self,
        module: nn.Module,
        loss: Loss,
        learning_rate: float,
        no_decay: Sequence[nn.Parameter],
        averaged: bool = True,
    ) -> _Part:
        plan = self._plan
        objective = _Objective(module.to(self.accelerator.device), loss)
        if plan.compile:
            _compile_blocks(module)
        groups = _parameter_groups(module, plan.weight_decay, no_decay)
        optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=plan.betas, fused=True)
        objective, optimizer = self.accelerator.prepare(objective, optimizer)
        average = None
        if averaged and plan.average_decay is not None:
            average = EMAModel(module.parameters(), decay=plan.average_decay, use_ema_warmup=True, power=0.75)
        return _Part(objective, TrainState(module, optimizer, average), learning_rate)

    def _optimize(self, part: _Part, batch: Any, step: int, progress: float) -> tuple[float, Figures]:
        """Do one optimizer step of a part; return its loss and figures."""
        module, optimizer, average = part.state.module, part.state.optimizer, part.state.average
        for group in optimizer.param_groups:
            group["lr"] = part.learning_rate * self._plan.learning_rate_factor(step, progress)
        part.objective.train()
        loss, figures = part.objective(batch, progress)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(module.parameters(), self._plan.gradient_norm)
        if norm is None or not torch.isfinite(norm):
            raise FloatingPointError(
                f"loss {loss.item()} at step {step} has no finite gradient; lower the learning rate"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.step(module.parameters())
        return loss.item(), figures


class _Clock:
    """How long a run has taken, and how far it is."""

    def __init__(self, plan: Plan, accelerator: Accelerator, seconds_before: float) -> None:
        self._plan, self._accelerator = plan, accelerator
        self._start = self._training_start = time.monotonic()
        self._seconds_before = seconds_before

    @property
    def seconds(self) -> float:
        """Of the whole run, the part before it was resumed included."""
        return self._seconds_before + time.monotonic() - self._start

    @property
    def training_seconds(self) -> float:
        """Since this process began or resumed the run, without validations."""
        return time.monotonic() - self._training_start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what happens meanwhile out of `training_seconds`."""
        start = time.monotonic()
        yield
        self._training_start += time.monotonic() - start

    def progress(self, steps: int) -> float:
        """Return how far the run is after `steps` steps, 0 to 1; the same value on all processes."""
        progress = steps / self._plan.steps
        if self._plan.max_seconds is None:
            return progress
        progress = max(progress, min(self.seconds / self._plan.max_seconds, 1.0))
        if self._accelerator.num_processes == 1:
            return progress
        return cast(Tensor, broadcast(torch.tensor(progress, device=self._accelerator.device))).item()


def _compile_blocks(module: nn.Module) -> None:
    """Compile the blocks of a model's stacks, each kind of block once.

    Not the whole loss: it looks at numbers, which ends a compiled graph, and PyTorch 2.13 fails at the selection.
    """
    for stack in module.modules():
        if isinstance(stack, nn.ModuleList):
            for block in stack:
                block.compile()


def _leave_process_group() -> None:
    """End the connections to other processes; while Python ends, their threads could abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _parameter_groups(module: nn.Module, weight_decay: float, no_decay: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: weight decay for matrices and kernels only."""
    exempt = {id(parameter) for parameter in no_decay}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2 and id(p) not in exempt]
    others = [p for p in trained if p.ndim < 2 or id(p) in exempt]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
