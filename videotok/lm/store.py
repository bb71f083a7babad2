"""Videos as a language model needs them, encoded once and kept."""

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from codec import replacing
from videotok.errors import TokensError
from videotok.lm.model import VideoSettings
from videotok.tokens import VideoTokens

if TYPE_CHECKING:
    from videotok.pipeline import VideoTokenizer


class Kept(NamedTuple):
    """A video's tokens, and its features where they were asked for."""

    tokens: VideoTokens
    features: list[dict[str, Tensor]] | None


class VideoStore:
    """A folder of .vtok files, and of features beside them, one for each video, spec and weights."""

    def __init__(
        self,
        folder: Path,
        tokenizer: "VideoTokenizer",
        settings: VideoSettings,
        feature_kinds: Sequence[str] = (),
    ) -> None:
        self.folder, self.tokenizer, self.settings = folder, tokenizer, settings
        self.feature_kinds = tuple(feature_kinds)

    def get(self, video: Path) -> Kept:
        """The video's tokens; a .vtok file is read as it is, any other video is encoded unless that was done before.

        Raises:
            MediaError, TokensError: it cannot be read; or features are asked of a .vtok file, which has none.
        """
        if video.suffix == ".vtok":
            if self.feature_kinds:
                raise TokensError(f"{video} has ids and no features; name the video itself, or give --inputs ids")
            return Kept(VideoTokens.load(video), None)
        place = self.folder / f"{video.stem}-{self._key(video)}.vtok"
        self.folder.mkdir(parents=True, exist_ok=True)
        if place.is_file():
            tokens = VideoTokens.load(place)
        else:
            spec = self.tokenizer.spec(Fraction(self.settings.fps))
            # independent keyframes: a language model may see only some of the clips
            tokens = self.tokenizer.encode(
                video,
                spec,
                motion_levels=self.settings.motion_levels,
                motion_source=self.settings.motion_source,  # pyright: ignore[reportArgumentType]
                visual_delta=False,
            )
            tokens.save(place)
        return Kept(tokens, self._features(video, tokens, place) if self.feature_kinds else None)

    def _key(self, video: Path) -> str:
        facts = video.stat()
        weights = [self.tokenizer.bundle.identity(part).sha256 for part in ("keyframes", "motion")]
        settings = self.settings
        named = [str(video.resolve()), facts.st_size, facts.st_mtime_ns, settings.fps, settings.motion_levels]
        # names of before there was a choice stay what they were
        named += [] if settings.motion_source == "auto" else [settings.motion_source]
        return hashlib.sha256(json.dumps([*named, *weights]).encode()).hexdigest()[:12]

    def _features(self, video: Path, tokens: VideoTokens, place: Path) -> list[dict[str, Tensor]]:
        path = place.with_suffix(f".{'-'.join(self.feature_kinds)}.safetensors")
        if not path.is_file():
            from videotok.lm.features import video_features

            found = video_features(self.tokenizer, video, tokens, self.feature_kinds)
            flat = {f"{clip}.{kind}": value.half() for clip, row in enumerate(found) for kind, value in row.items()}
            with replacing(path) as temporary:
                save_file(flat, temporary)
        flat = load_file(path)
        return [
            {kind: flat[f"{clip}.{kind}"].float() for kind in self.feature_kinds} for clip in range(tokens.num_clips)
        ]
