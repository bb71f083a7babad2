"""Next-token training of a language model on packed rows of text and video, by `videotok.training.trainer`."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videotok.lm.model import VideoLanguageModel
from videotok.lm.packing import IGNORED, Document, PackedBatch, pack
from videotok.lm.tokenizer_extension import embedding_table
from videotok.packing import first_fit
from videotok.training import trainer

INITIALIZATION_DOCUMENTS = 256
"""Documents, about, whose features initialize the projections."""


@dataclass(frozen=True)
class Plan(trainer.Plan):
    """Everything besides documents and code that decides the result of a run."""

    batch_size: int = 4
    """Rows a step, over all processes."""
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    average_decay: float | None = None
    """None: no average of the weights, which would double a language model in memory."""
    row_length: int = 1024
    """Tokens of a row."""


class LanguageModelTask:
    """Predict the next token wherever a document has a target.

    Args:
        model: the model to train.
        documents: to train on; their features initialize the projections.
    """

    def __init__(self, model: VideoLanguageModel, documents: Sequence[Document]) -> None:
        self.model, self._documents = model, documents

    def initialize(self, batches: Iterable[PackedBatch]) -> None:
        """Standardize the features that the model reads, and bring their projections to the size of embeddings."""
        del batches  # a sample of all documents says more than the first rows
        sample = self._documents[:: max(len(self._documents) // INITIALIZATION_DOCUMENTS, 1)]
        for kind in self.model.feature_kinds:
            if rows := [document.features[kind].float() for document in sample if kind in document.features]:
                self.model.initialize_projection(kind, torch.cat(rows))

    def loss(self, batch: PackedBatch, progress: float) -> tuple[Tensor, dict[str, float]]:
        """Return the mean cross-entropy of a batch's targets in nats, []."""
        del progress
        return self.model(batch), {}

    def validate(self, batches: Iterable[PackedBatch]) -> dict[str, float]:
        """Return the mean cross-entropy of all targets in nats."""
        total, count = 0.0, 0
        for batch in batches:
            if targets := int((batch.labels[:, 1:] != IGNORED).sum()):
                total, count = total + float(self.model(batch)) * targets, count + targets
        return {"cross_entropy": total / max(count, 1)}


class RowBatches:
    """Batches of packed rows, epoch after epoch; each epoch has an order of its own that depends on the seed.

    Args:
        documents: to pack.
        model: whose vocabulary and padding id the batches use.
        plan: rows a step, their length, the seed.
    """

    def __init__(self, documents: Sequence[Document], model: VideoLanguageModel, plan: Plan) -> None:
        self._documents, self._model, self._plan = documents, model, plan

    def from_step(self, step: int, workers: int = 0, process: int = 0, num_processes: int = 1) -> Iterator[PackedBatch]:
        """Yield the batches of the steps from `step` on; of each batch the rows of `process` among `num_processes`.

        Raises:
            ValueError: a document is longer than a row.
        """
        del workers  # packing is cheap
        rows = self._rows()
        for number in itertools.count():
            batch = list(itertools.islice(rows, self._plan.batch_size))
            if number >= step:
                yield self._pack(batch[process::num_processes])

    def once(self) -> Iterator[PackedBatch]:
        """Yield every document once, in order: for validation."""
        rows = first_fit(self._documents, self._plan.row_length)
        while batch := list(itertools.islice(rows, self._plan.batch_size)):
            yield self._pack(batch)

    def _rows(self) -> Iterator[list[Document]]:
        # a batch may hold rows of two epochs
        for epoch in itertools.count():
            order = np.random.default_rng([self._plan.seed, epoch]).permutation(len(self._documents))
            yield from first_fit((self._documents[index] for index in order), self._plan.row_length)

    def _pack(self, rows: list[list[Document]]) -> PackedBatch:
        return pack(rows, self._model.vocabulary, self._model.padding_id)


def train(
    model: VideoLanguageModel,
    documents: Sequence[Document],
    validation: Sequence[Document],
    plan: Plan,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    report: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
) -> dict[str, Any]:
    """Train a language model and return the record that is also written to `out/run.json`.

    Writes to `out`: the latest model (`VideoLanguageModel.save_pretrained`), `checkpoint.safetensors` and `run.json`,
    every `plan.save_every` steps and at the end.

    Args:
        model: left in eval mode with the trained weights.
        documents: to train on.
        validation: documents whose cross-entropy is reported; may be empty.
        plan: how long and how.
        out: folder of the run.
        resume: continue from the checkpoint in `out`, if there is one.
        device: where to train, see `videotok.training.trainer.train`.
        report: called after every step with the step (from 1) and its figures.

    Raises:
        FileExistsError: `out` holds a run and `resume` is False.
        ValueError: the checkpoint was made by another plan; a document is longer than a row; no document has a target.
        FloatingPointError: the loss has no finite gradient.
    """
    if not any(bool(document.is_target.any()) for document in documents):
        raise ValueError("there is nothing to train on: no document has a target")
    record = trainer.train(
        LanguageModelTask(model, documents),
        RowBatches(documents, model, plan),
        list(RowBatches(validation, model, plan).once()),
        plan,
        out,
        resume=resume,
        criterion=None,
        weights_folder=out,
        no_weight_decay=[embedding_table(model.model)],  # most rows get no gradient in a step
        facts={"documents": len(documents), "tokens": sum(map(len, documents))},
        device=device,
        report=report,
    )
    model.eval()
    return record
