"""Next-token training on packed rows of text and video.

As in `videotok.training.trainer`, what a step does depends on the seed and the step alone, so that a run killed
and resumed ends where an unbroken one would have.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel

from codec import atomic_path
from videotok.lm.model import VideoLanguageModel
from videotok.lm.packing import IGNORED, Document, Packed, first_fit, pack
from videotok.lm.tokenizer_extension import embeddings
from videotok.training.trainer import load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run's result, beside the documents and the code."""

    steps: int
    length: int = 1024
    """Tokens of a row."""
    rows: int = 4
    """Rows a step."""
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    weight_decay: float = 0.01
    gradient_norm: float = 1.0
    precision: Literal["no", "bf16"] = "no"
    """Of the forward pass (autocast); weights stay as they are."""
    seed: int = 0
    save_every: int = 500


def train(
    model: VideoLanguageModel,
    documents: Sequence[Document],
    held_back: Sequence[Document],
    plan: Plan,
    out: Path,
    *,
    resume: bool = False,
    report: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
) -> dict[str, Any]:
    """Runs `plan` and returns what is written to `out/run.json`.

    Writes to `out`: the model (`VideoLanguageModel.save_pretrained`), `checkpoint.safetensors` and `run.json`, at every
    `save_every` steps and at the end. Under `accelerate launch` every process takes its share of a step's rows.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False.
        ValueError: the checkpoint was made by another plan; a document is longer than a row; nothing is to be learned.
        FloatingPointError: the loss has no finite gradient.
    """
    checkpoint = out / "checkpoint.safetensors"
    if checkpoint.exists() and not resume:
        raise FileExistsError(f"{out} already holds a run; go on with --resume, or choose another --out")
    if not any(bool(document.is_target.any()) for document in documents):
        raise ValueError("nothing is to be learned: no document has a target")
    out.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=plan.precision)
    optimizer = torch.optim.AdamW(_groups(model, plan.weight_decay), lr=plan.learning_rate, betas=(0.9, 0.98))
    running, optimizer = accelerator.prepare(model, optimizer)
    schedule = get_cosine_schedule_with_warmup(optimizer, plan.warmup_steps, plan.steps)
    count = sum(parameter.numel() for parameter in model.parameters())
    record: dict[str, Any] = {
        "plan": asdict(plan),
        "parameters": count,
        "documents": len(documents),
        "tokens": sum(map(len, documents)),
        "validation": [],
    }
    # the checkpoint of the other trainings, without an average of the weights: it would double a language model
    average, start = EMAModel([]), 0
    if checkpoint.exists():
        start, record = load_checkpoint(checkpoint, model, optimizer, schedule, average, record)  # type: ignore[arg-type]
    began = time.monotonic() - record.get("seconds", 0.0)
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    padding = model.padding
    steps = itertools.islice(_steps(documents, plan), start, plan.steps)
    for step, rows in enumerate(steps, start):
        torch.manual_seed(plan.seed * 1_000_003 + step)
        running.train()
        batch = pack(rows[share] or rows[:1], model.vocabulary, padding).to(accelerator.device)
        loss = running(batch)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(running.parameters(), plan.gradient_norm)
        if norm is None or not torch.isfinite(norm):
            raise FloatingPointError(
                f"loss {loss.item()} at step {step} has no finite gradient; lower the learning rate"
            )
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        figures = {"loss": loss.item()}
        if ((step + 1) % plan.save_every == 0 or step + 1 == plan.steps) and accelerator.is_main_process:
            if held_back:
                figures["validation loss"] = validated(model, held_back, plan)
            record["validation"].append({"step": step + 1, **figures})
            record["seconds"] = time.monotonic() - began
            save_checkpoint(checkpoint, step + 1, model, optimizer, average, record)  # type: ignore[arg-type]
            model.save_pretrained(out)
            with atomic_path(out / "run.json") as temporary:
                temporary.write_text(json.dumps(record, indent=2) + "\n")
        report(step + 1, figures)
    model.eval()
    return record


@torch.no_grad()
def validated(model: VideoLanguageModel, documents: Sequence[Document], plan: Plan) -> float:
    """Mean cross-entropy a learned token, in nats."""
    model.eval()
    total, count = 0.0, 0
    for batch in _batches(documents, range(len(documents)), plan, model):
        learned = int((batch.labels[:, 1:] != IGNORED).sum())
        if learned:
            total, count = total + float(model(batch.to(model.device))) * learned, count + learned
    return total / max(count, 1)


def _batches(
    documents: Sequence[Document], order: Sequence[int], plan: Plan, model: VideoLanguageModel
) -> Iterator[Packed]:
    rows = first_fit(documents, order, plan.length)
    while chosen := list(itertools.islice(rows, plan.rows)):
        found = [[documents[index] for index in row] for row in chosen]
        yield pack(found, model.vocabulary, model.padding)


def _steps(documents: Sequence[Document], plan: Plan) -> Iterator[list[list[Document]]]:
    """Rows of every step, epoch after epoch, each in an order of its own; a step may take rows of two epochs."""

    def rows() -> Iterator[list[int]]:
        for epoch in itertools.count():
            order = np.random.default_rng([plan.seed, epoch]).permutation(len(documents))
            yield from first_fit(documents, order.tolist(), plan.length)

    endless = rows()
    while True:
        yield [[documents[index] for index in row] for row in itertools.islice(endless, plan.rows)]


def _groups(model: VideoLanguageModel, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay is for matrices: biases and norms keep their size, and so do embeddings, mostly unseen in a step."""
    table = embeddings(model.model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [p for p in trained if p.ndim < 2 or p is table]
    return [
        {"params": [p for p in trained if p.ndim >= 2 and p is not table], "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
