"""`lm`: any model of videotok/lm, given the video's tokens or features"""

import sys
from pathlib import Path
from typing import Any

from benchmarks.qa.answerers import Options, tidy
from videotok.lm.data import TokenCache
from videotok.lm.generation import answer
from videotok.lm.loading import load_for_video


class LanguageModel:
    """Tokens of each video, and features where the model reads them, are made once and kept in the cache."""

    needs_video = True

    def __init__(self, options: Options) -> None:
        if options.model is None:
            raise SystemExit("--answerer lm needs --model, the folder of a language model (`videotok lm train`)")
        self.name, self.seed = options.model, options.seed
        sighted = load_for_video(options.model, options.video_model, options.inputs)
        self.model, self.inputs = sighted.model, sighted.inputs
        if sighted.note:
            print(sighted.note, file=sys.stderr)
        settings, kinds = self.model.settings, self.model.feature_kinds
        self.store = TokenCache(options.cache, sighted.tokenizer, settings, kinds)
        self.instruction = options.instruction

    def facts(self) -> dict[str, Any]:
        facts = {"answerer": "lm", "model": self.name, "inputs": self.inputs}
        return facts | {"instruction": self.instruction, "seed": self.seed}

    def answer(self, question: str, video: Path | None) -> str:
        kept = None if video is None else self.store.get(video)
        return tidy(answer(self.model, question + self.instruction, kept, max_new_tokens=24, seed=self.seed))
