"""Clips come in any order and from many videos at once; a video is done when all of its clips are there."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from videotok.corpus.schema import STREAM, TOKENS


@dataclass(frozen=True)
class Refused:
    """A video that gives no tokens."""

    index: int
    stage: str
    message: str


@dataclass(frozen=True)
class Whole:
    """A video with all of its clips, in order."""

    index: int
    rows: pa.Table
    """Columns of `schema.STREAM`."""


@dataclass
class _Begun:
    rows: dict[int, pa.Table] = field(default_factory=dict)
    clips: int = 0
    """0 until the last clip has come."""


class Assembler:
    """Gathers the rows of the last stage. Holds tokens of unfinished videos only: some kilobytes a clip."""

    def __init__(self) -> None:
        self._begun: dict[int, _Begun] = {}
        self._finished: set[int] = set()

    @property
    def num_unfinished(self) -> int:
        """Videos of which something has come, but not all."""
        return len(self._begun)

    def add(self, rows: pa.Table) -> Iterator[Whole | Refused]:
        """Takes in rows; gives each video once, as soon as it is whole or refused. What comes again is left out."""
        columns = (rows[name].to_pylist() for name in ("index", "clip", "clips", "stage", "message"))
        for number, (index, clip, clips, stage, message) in enumerate(zip(*columns, strict=True)):
            if index in self._finished:
                continue
            video = self._begun.setdefault(index, _Begun())
            video.rows[clip] = rows.slice(number, 1)
            video.clips = clips or video.clips
            if message or len(video.rows) == video.clips:
                self._finished.add(index)
                del self._begun[index]
                yield Refused(index, stage, message) if message else Whole(index, _whole(video))


def _whole(video: _Begun) -> pa.Table:
    rows = pa.concat_tables(video.rows[clip] for clip in range(video.clips)).combine_chunks()
    every = pa.array([video.clips] * video.clips, TOKENS.field("clips").type)
    return rows.set_column(STREAM.get_field_index("clips"), TOKENS.field("clips"), every)
