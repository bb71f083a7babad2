"""A model class for lmms-eval: any of its tasks asked to a language model that reads video as tokens.

    lmms-eval eval --model videotok --model_args lm=runs/lm --tasks activitynetqa --batch_size 1

lmms-eval (0.7 and later) finds the class through the entry point `lmms_eval.models` that videotok declares; it is not a
dependency. Tasks that compare likelihoods of given answers are refused: the class generates.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

from codec import MediaError
from videotok.lm.data import EncodedVideo, TokenCache
from videotok.lm.generation import answer
from videotok.lm.loading import Inputs, Precision, load_language_model

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT_MAX_NEW_TOKENS = 128


def manifest() -> ModelManifest:
    """Return what lmms-eval's registry needs to know of the class; the entry point calls it."""
    return ModelManifest("videotok", simple_class_path=f"{__name__}.VideotokModel")


class VideotokModel(lmms):
    """A language model of `videotok.lm`, asked by lmms-eval.

    Args:
        lm: folder of the language model; None: the shipped one.
        video_model: folder or hub id of video weights; None: the shipped ones.
        inputs: what is read of keyframes: `auto` (as trained), `ids` or `features`.
        precision: of the language model.
        device: `auto`, `cpu`, `cuda` or `mps`.
        cache: folder of encoded videos, kept for other tasks about them; None: a temporary one.
        batch_size: only 1, which lmms-eval passes.

    Raises:
        ValueError: another batch size.
        ModelError: the language model cannot be loaded.
    """

    def __init__(
        self,
        lm: str | None = None,
        video_model: str | None = None,
        inputs: Inputs = "auto",
        precision: Precision = "auto",
        device: str = "auto",
        cache: str | None = None,
        batch_size: int | str = 1,
        **others: Any,
    ) -> None:
        super().__init__()
        if int(batch_size) != 1:
            raise ValueError(f"batch_size (={batch_size}) must be 1: answers are generated one by one")
        if unknown := sorted(name for name, value in others.items() if value is not None and name != "max_batch_size"):
            raise ValueError(
                f"unknown model_args {', '.join(unknown)}; there are lm, video_model, inputs, precision, device, cache"
            )
        loaded = load_language_model(lm, video_model, inputs, precision, device)
        self.model = loaded.model
        if cache is None:
            self._temporary = TemporaryDirectory()  # removed with this object
            cache = self._temporary.name
        self.videos = TokenCache(Path(cache), loaded.tokenizer, self.model.settings, self.model.feature_kinds)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the answers to requests of (question, generation options, visuals of a document, …)."""
        return [self._answer(*request.args) for request in requests]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: a model reads one question about one video."""
        raise NotImplementedError("videotok answers one question at a time; choose tasks of one round")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refuse: answers are generated."""
        raise NotImplementedError("videotok generates answers; choose tasks whose output_type is generate_until")

    def _answer(
        self, question: str, options: dict[str, Any], visuals_of: Any, document: Any, task: str, split: str
    ) -> str:
        """Return one answer; a video that cannot be read has an empty one, and does not end the run."""
        visuals = visuals_of(self.task_dict[task][split][document])
        try:
            with self._encoded(visuals if isinstance(visuals, list) else [visuals]) as video:
                text = answer(
                    self.model,
                    question,
                    video,
                    max_new_tokens=int(options.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS),
                    temperature=float(options.get("temperature") or 0) if options.get("do_sample", True) else 0.0,
                )
        except MediaError as error:
            print(f"videotok: {error}: answered by nothing")
            text = ""
        until = options.get("until") or []
        for stop in [until] if isinstance(until, str) else until:
            text = text.split(stop)[0]
        return text.strip()

    @contextmanager
    def _encoded(self, visuals: Sequence["str | Path | Image | None"]) -> Iterator[EncodedVideo | None]:
        """Encode what a question is about: a file of a video or a picture, or a picture in memory; or nothing.

        Raises:
            ValueError: several of them.
        """
        visuals = [visual for visual in visuals if visual is not None]
        if len(visuals) > 1:
            raise ValueError(f"{len(visuals)} pictures or videos in one question; videotok reads one")
        if not visuals:
            yield None
        elif isinstance(visuals[0], str | Path):
            yield self.videos.get(Path(visuals[0]))
        else:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "picture.png"
                visuals[0].convert("RGB").save(path)
                yield self.videos.get(path)
