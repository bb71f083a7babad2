"""Every kind of training in a tiny size: its task, and batches that processes share."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from detokenizer_sizes import tiny_detokenizer
from keyframe_sizes import SIZES
from lm.small_lm import TURNS, make_model, small_codebooks, small_tokens
from motion_fields import TINY, moving_fields
from skimage import data
from test_unet3d_training import cached_items
from torch import Tensor

from motion_vq import MotionTokenizer, MotionTraining
from unet3d import DetokenizerTraining
from videotok.keyframes import KeyframeTokenizer, KeyframeTraining
from videotok.lm.packing import VideoInput, conversation_document
from videotok.lm.train import LanguageModelTask, Plan, RowBatches

PLAN = Plan(steps=3, batch_size=2, learning_rate=1e-3, warmup_steps=1, save_every=2, row_length=512)
"""For all of them; a checkpoint after the second of three steps."""


class SharedBatches:
    """Batches that depend on the step alone, of which each process gets every n-th row."""

    def __init__(self, prepare: Callable[[np.random.Generator], dict[str, Tensor]]) -> None:
        self._prepare = prepare

    def from_step(
        self, step: int, workers: int, process: int = 0, num_processes: int = 1
    ) -> Iterator[dict[str, Tensor]]:
        """See `trainer.StepBatches`."""
        del workers
        for number in itertools.count(step):
            batch = self._prepare(np.random.default_rng(number))
            yield {name: values[process::num_processes] for name, values in batch.items()}


def keyframes() -> tuple[Any, Any]:
    """Return task and batches of the keyframe tokenizer."""
    task = KeyframeTraining(KeyframeTokenizer(**SIZES))
    items = [{"photo": data.astronaut()}, {"keyframe": data.coffee()}] * 6
    return task, SharedBatches(lambda rng: task.prepare(items, rng))


def motion() -> tuple[Any, Any]:
    """Return task and batches of the motion tokenizer."""
    task = MotionTraining(MotionTokenizer(**TINY))
    vectors, valid = moving_fields(8, TINY["num_steps"], TINY["grid"])
    items = [{"vectors": v.numpy(), "valid": m.numpy()} for v, m in zip(vectors, valid, strict=True)]
    return task, SharedBatches(lambda rng: task.prepare(items, rng))


def detokenizer() -> tuple[Any, Any]:
    """Return task and batches of the video detokenizer."""
    task = DetokenizerTraining(tiny_detokenizer())
    return task, SharedBatches(lambda rng: task.prepare(cached_items(), rng))


def language_model() -> tuple[Any, Any]:
    """Return task and batches of a language model."""
    tokens = small_tokens()
    model = make_model(small_codebooks(tokens))
    videos = [VideoInput.from_tokens(model.vocabulary, tokens, [clip]) for clip in (0, 1)]
    documents = [conversation_document(model.tokenizer, model.prompt, TURNS, video) for video in videos]
    return LanguageModelTask(model, documents), RowBatches(documents, model, PLAN)


TASKS = {"keyframes": keyframes, "motion": motion, "detokenizer": detokenizer, "language model": language_model}


def make(name: str) -> tuple[Any, Any]:
    """Return a task with its own first weights, the same in every process, and its batches."""
    torch.manual_seed(0)
    return TASKS[name]()
