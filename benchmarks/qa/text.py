"""`text`: a small network that reads the question alone"""

import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.qa.answerers import Options

BUCKETS, WIDTH, DROPOUT = 1 << 15, 128, 0.3
EPOCHS, BATCH, LEARNING_RATE = 8, 128, 3e-3
RARE = 2
"""Answers seen less often are not learned."""


class Network(nn.Module):
    """Hashed n-grams of a question, their vectors' mean, a hidden layer, one logit an answer."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.grams = nn.EmbeddingBag(BUCKETS, WIDTH, mode="mean", sparse=True)
        self.hidden = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(DROPOUT))
        self.out = nn.Linear(WIDTH, answers)
        nn.init.normal_(self.grams.weight, std=0.5)

    def forward(self, grams: Tensor, offsets: Tensor) -> Tensor:
        return self.out(self.hidden(self.grams(grams, offsets)))


class Text:
    """Trained on the questions of the train split when it is made: some minutes of a CPU core, no weights to keep."""

    needs_video = False

    def __init__(self, options: Options) -> None:
        self.seed = options.seed
        torch.manual_seed(options.seed)
        questions = options.train()
        counts = Counter(question.answer for question in questions)
        questions = [question for question in questions if counts[question.answer] >= RARE]
        self.answers = sorted({question.answer for question in questions})
        numbers = {answer: index for index, answer in enumerate(self.answers)}
        labels = torch.tensor([numbers[question.answer] for question in questions])
        rows = [grams(question.text) for question in questions]
        self.network = Network(len(self.answers))
        self._train(rows, labels)
        self.network.eval()

    def _train(self, rows: list[list[int]], labels: Tensor) -> None:
        sparse = torch.optim.SparseAdam(list(self.network.grams.parameters()), LEARNING_RATE)
        dense = torch.optim.AdamW([*self.network.hidden.parameters(), *self.network.out.parameters()], LEARNING_RATE)
        steps = EPOCHS * -(-len(rows) // BATCH)
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(1 - step / steps, 0.0))
            for optimizer in (sparse, dense)
        ]
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(rows)).split(BATCH):
                logits = self.network(*bags([rows[index] for index in chosen.tolist()]))
                loss = nn.functional.cross_entropy(logits, labels[chosen])
                loss.backward()
                for optimizer in (sparse, dense):
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                for schedule in schedules:
                    schedule.step()

    def facts(self) -> dict[str, Any]:
        return {"answerer": "text", "seed": self.seed}

    @torch.no_grad()
    def answer(self, question: str, video: Path | None) -> str:
        del video
        return self.answers[int(self.network(*bags([grams(question)])).argmax())]


def grams(question: str) -> list[int]:
    """Buckets of all runs of one to three words (beginning and end are words too) and of the first words together."""
    words = ["^", *question.split(), "$"]
    runs = [" ".join(words[at : at + n]) for n in (1, 2, 3) for at in range(len(words) - n + 1)]
    runs += ["^" + " ".join(words[:n]) for n in (4, 5)] + [" ".join(words)]
    return [zlib.crc32(run.encode()) % BUCKETS for run in runs]


def bags(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows of buckets as EmbeddingBag takes them: all of them in one row, and where each begins."""
    lengths = torch.tensor([0, *map(len, rows[:-1])])
    return torch.tensor([gram for row in rows for gram in row]), lengths.cumsum(0)
