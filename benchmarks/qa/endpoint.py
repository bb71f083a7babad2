"""`openai`: a model behind an endpoint, shown frames of the video, or its tokens written out"""

import base64
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.qa.answerers import Options, tidy
from benchmarks.qa.chat import Chat
from codec import ClipSpec, iter_clips
from videotok.image_utils import display_size, resized
from videotok.lm.data import TokenCache
from videotok.lm.model import VideoSettings
from videotok.lm.packing import evenly
from videotok.training.dataset import jpeg
from videotok.vocabulary import Vocabulary

MOST_FRAMES, FRAME_AREA = 8, 448 * 448
INSTRUCTION = "Answer the question about this video with a single word or a short phrase, in lower case."


class Endpoint:
    """Frames are keyframes of the video's clips, spread evenly; tokens are written as `Vocabulary.name` names them."""

    needs_video = True

    def __init__(self, options: Options) -> None:
        if options.url is None or options.model is None:
            raise SystemExit("--answerer openai needs --url, such as http://localhost:8000/v1, and --model")
        if options.show not in ("frames", "tokens"):
            raise SystemExit(f"--show {options.show!r} must be frames or tokens")
        self.chat = Chat(options.url, options.model, options.seed)
        self.show, self.options = options.show, options
        self._last: tuple[Path | None, list[dict[str, Any]]] = (None, [])

    def facts(self) -> dict[str, Any]:
        chat = self.chat
        return {"answerer": "openai", "url": chat.url, "model": chat.model, "show": self.show, "seed": chat.seed}

    def answer(self, question: str, video: Path | None) -> str:
        parts = [] if video is None else self._parts(video)
        text = {"type": "text", "text": f"{INSTRUCTION}\n{question}"}
        return tidy(self.chat.ask([*parts, text], max_tokens=24))

    def _parts(self, video: Path) -> list[dict[str, Any]]:
        """What is shown of a video; kept for the next question about the same one."""
        if self._last[0] != video:
            self._last = (video, self._frames(video) if self.show == "frames" else self._tokens(video))
        return self._last[1]

    def _frames(self, video: Path) -> list[dict[str, Any]]:
        keyframes = [clip.keyframe for clip in iter_clips(video, ClipSpec(fps=6))]  # pyright: ignore[reportArgumentType]
        chosen = [keyframes[index] for index in evenly(len(keyframes), MOST_FRAMES)]
        return [{"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in chosen]

    def _tokens(self, video: Path) -> list[dict[str, Any]]:
        from videotok.pipeline import VideoTokenizer

        tokenizer = VideoTokenizer.from_pretrained(self.options.video_model)
        tokens = TokenCache(self.options.cache, tokenizer, VideoSettings()).get(video).tokens
        vocabulary = Vocabulary.of(tokens, 1)
        names = map(vocabulary.name, vocabulary.ids(tokens, evenly(tokens.num_clips, MOST_FRAMES)).tolist())
        return [{"type": "text", "text": " ".join(names)}]


def _data_url(picture: np.ndarray) -> str:
    size = display_size(picture.shape[1], picture.shape[0], FRAME_AREA)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(resized(picture, size), 90)).decode()
