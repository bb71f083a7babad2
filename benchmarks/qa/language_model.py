"""`lm`: any model of videotok/lm, given the video's tokens or features"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.qa.answerers import Options, tidy
from videotok.lm.answer import answer
from videotok.lm.model import VideoLanguageModel
from videotok.lm.store import VideoStore
from videotok.pipeline import VideoTokenizer


class LanguageModel:
    """Tokens of each video are made once and kept in the cache."""

    needs_video = True

    def __init__(self, options: Options) -> None:
        if options.model is None:
            raise SystemExit("--answerer lm needs --model, the folder of a language model (`videotok lm train`)")
        self.name, self.seed = options.model, options.seed
        on_gpu = torch.cuda.is_available()
        model = VideoLanguageModel.from_pretrained(options.model, torch.bfloat16 if on_gpu else torch.float32)
        self.model = model.to("cuda" if on_gpu else "cpu")
        tokenizer = VideoTokenizer.from_pretrained(options.video_model)
        self.store = VideoStore(options.cache, tokenizer, model.settings, model.feature_kinds)
        self.instruction = options.instruction

    def facts(self) -> dict[str, Any]:
        return {"answerer": "lm", "model": self.name, "instruction": self.instruction, "seed": self.seed}

    def answer(self, question: str, video: Path | None) -> str:
        kept = None if video is None else self.store.get(video)
        return tidy(answer(self.model, question + self.instruction, kept, max_new_tokens=24, seed=self.seed))
