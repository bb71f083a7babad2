"""Tokenize the videos of a Hugging Face data set: `dataset.map(tokenize_batch, batched=True)`.

    dataset = load_dataset("org/name", split="train").cast_column("video", Video(decode=False))
    dataset = dataset.map(tokenize_batch, batched=True, batch_size=4)                        # token columns are added
    dataset = dataset.map(TokenizeVideos(config=EncodeConfig(fps=6), column="clip"), batched=True)
    tokens = read_tokens(dataset[0])                                                         # VideoTokens again

A video is one row, whatever its number of clips, so that captions and other columns stay beside their video
(docs/corpus.md). `videotok corpus` encodes a folder of videos on many workers, a row a clip.
"""

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from codec import MediaError
from videotok.bundle import Bundle
from videotok.config import EncodeConfig
from videotok.errors import TokensError, one_line, shorten
from videotok.inputs import is_url, local_input
from videotok.tokens import TOKENIZERS, VideoTokens

if TYPE_CHECKING:
    from datasets import Features

    from videotok.pipeline import VideoTokenizer

TOKEN_COLUMNS = {
    "visual_ids": ("int32", 2),
    "keep_mask": ("bool", 2),
    "skip_mask": ("bool", 2),
    "motion_ids": ("int32", 3),
    "global_motion_ids": ("int32", 2),
    "num_frames": ("int32", 1),
    "pts_seconds": ("float64", 1),
    "tokens_per_second": ("float64", 0),
    "vtok": ("binary", 0),
}
"""Columns of a video: the type of their values, and how many lists these are in. The outer list is of clips.

`vtok` is the content of a .vtok file, which has all of the others and what they were made with.
"""
ERROR_COLUMN = "tokenize_error"


def token_features(*, with_errors: bool = False) -> "Features":
    """Return the types of the token columns: `features=Features(dataset.features | token_features())` of `map`.

    Args:
        with_errors: with the column of `TokenizeVideos(skip_errors=True)`.
    """
    from datasets import Features, List, Value

    features: dict[str, Any] = {}
    for name, (dtype, depth) in TOKEN_COLUMNS.items():
        feature: Any = Value(dtype)
        for _ in range(depth):
            feature = List(feature)
        features[name] = feature
    if with_errors:
        features[ERROR_COLUMN] = Value("string")
    return Features(features)


@dataclass
class TokenizeVideos:
    """A function for `dataset.map` that adds token columns (`TOKEN_COLUMNS`) to rows with a video.

    The video may be a file's content, its path or URL, `{"path", "bytes"}` as `datasets.Video(decode=False)` has it, or
    a torchcodec decoder that `datasets.Video()` made: the file behind it is read, since decoded frames have no motion
    vectors. Weights are loaded once in each process of `map(num_proc=)`. `datasets` caches results by the options and
    by the sha256 of the weights.
    """

    model: str | Path | None = None
    """Folder or hub id of the weights; the shipped ones if None."""
    config: EncodeConfig = field(default_factory=EncodeConfig)
    column: str = "video"
    """The column of videos; `mp4` in a WebDataset."""
    device: str = "cpu"
    skip_errors: bool = False
    """True: a video that cannot be encoded gives a row of nulls, and the column `tokenize_error` says why."""
    _tokenizer: "VideoTokenizer | None" = field(default=None, init=False, repr=False, compare=False)

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Return the token columns of a batch (lists), or of a single row where `map` is not batched.

        Raises:
            KeyError: there is no column of videos.
            MediaError: a video cannot be read; the message names its row in the batch. Not with `skip_errors`.
        """
        if self.column not in rows:
            raise KeyError(f"no column {self.column}; columns are {', '.join(rows)}; choose one by `column`")
        videos = rows[self.column]
        if not isinstance(videos, Sequence) or isinstance(videos, str | bytes | bytearray):
            return self._columns(videos, 0)
        columns = [self._columns(video, row) for row, video in enumerate(videos)]
        names = (*TOKEN_COLUMNS, ERROR_COLUMN) if self.skip_errors else (*TOKEN_COLUMNS,)
        return {name: [row[name] for row in columns] for name in names}

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy in another process needs, and what `datasets` recognizes an equal function by."""
        bundle = Bundle.find(self.model)
        weights = {part: bundle.identity(part).sha256 for part in TOKENIZERS}
        return vars(self) | {"_tokenizer": None, "weights": weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "weights"})

    def _columns(self, video: Any, row: int) -> dict[str, Any]:
        if self._tokenizer is None:
            from videotok.pipeline import VideoTokenizer

            self._tokenizer = VideoTokenizer.from_pretrained(self.model, device=self.device)
        try:
            tokens = self._encode(self._tokenizer, video)
        except (MediaError, OSError) as error:
            if self.skip_errors:
                return dict.fromkeys(TOKEN_COLUMNS) | {ERROR_COLUMN: one_line(error)}
            raise MediaError(
                f"row {row} of the batch: {one_line(error)}; `skip_errors=True` goes on without it"
            ) from error
        return token_columns(tokens) | ({ERROR_COLUMN: None} if self.skip_errors else {})

    def _encode(self, tokenizer: "VideoTokenizer", video: Any) -> VideoTokens:
        source = video_source(video)
        if not isinstance(source, str):
            return tokenizer.encode(source, self.config)
        with local_input(source) as file:
            tokens = tokenizer.encode(file.path, self.config)
        # of a file in an archive, `zip://clip.mp4::/videos.zip`, the name comes first
        name = PurePosixPath(source.split("::")[0]).name if is_url(source) else file.name
        return replace(tokens, source=replace(tokens.source, file=name))


tokenize_batch = TokenizeVideos()
"""`TokenizeVideos` with its defaults: the shipped weights, and videos in the column `video`."""


def video_source(value: Any) -> "str | bytes | io.BytesIO":
    """Return the path, the URL or the content of a video in a column; see `TokenizeVideos`.

    Raises:
        MediaError: it is no video.
    """
    value = getattr(value, "_hf_encoded", value)  # where `datasets` keeps the source of a torchcodec decoder
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if content is not None:
            return _NamedContent(content, path)
        value = path
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | Path):
        return str(value)
    raise MediaError(
        f"a video is {'missing' if value is None else shorten(value)}; the column must hold paths, the content of "
        'files, or {"path", "bytes"}: cast it to datasets.Video(decode=False)'
    )


class _NamedContent(io.BytesIO):
    """The content of a video file; its name is recorded with the tokens."""

    def __init__(self, content: bytes, name: str | None) -> None:
        super().__init__(content)
        self.name = Path(name).name if name else "<video>"


def token_columns(tokens: VideoTokens) -> dict[str, Any]:
    """Return the columns of one video (`TOKEN_COLUMNS`)."""
    clips = range(tokens.num_clips)
    return {
        "visual_ids": [tokens.visual_ids_of(clip) for clip in clips],
        "keep_mask": list(tokens.keep_mask),
        "skip_mask": list(tokens.skip_mask),
        "motion_ids": [list(tokens.motion_ids_of(clip)) for clip in clips],
        "global_motion_ids": list(tokens.global_motion_ids),
        "num_frames": tokens.num_frames.astype(np.int32),
        "pts_seconds": tokens.pts_seconds,
        "tokens_per_second": tokens.tokens_per_second,
        "vtok": _vtok_content(tokens),
    }


def read_tokens(row: Mapping[str, Any]) -> VideoTokens:
    """Return the tokens of a row with token columns, for `VideoTokenizer.decode` or a `Vocabulary`.

    Raises:
        TokensError: the row has no tokens, or damaged ones.
    """
    content = row.get("vtok")
    if content is None:
        reason = row.get(ERROR_COLUMN)
        raise TokensError(f"the row has no tokens{f': {reason}' if reason else '; tokenize the data set first'}")
    with tempfile.TemporaryDirectory(prefix="videotok-") as folder:
        path = Path(folder) / "row.vtok"
        path.write_bytes(content)
        return VideoTokens.load(path)


def _vtok_content(tokens: VideoTokens) -> bytes:
    with tempfile.TemporaryDirectory(prefix="videotok-") as folder:
        path = Path(folder) / "row.vtok"
        tokens.save(path)
        return path.read_bytes()
