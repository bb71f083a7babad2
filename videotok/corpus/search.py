"""Clips that look, or move, like another one, found from the codes alone.

look    histograms of visual words, weighted by how rare a word is (tf-idf, Sparck Jones 1972; visual words as in Sivic
        and Zisserman, ICCV 2003), compared by their cosine
motion  half of it the camera: its ids are coefficients in even steps, compared by their distance; half of it what moves
        by itself: tf-idf histograms of the first level's ids

A video encoded as the videos of a corpus were, to be compared with them.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from videotok.config import EncodeConfig
from videotok.corpus.storage import read_shard, shard_paths
from videotok.errors import CorpusError, TokensError
from videotok.pipeline import VideoTokenizer
from videotok.tokens import TOKENIZERS

COLUMNS = ["video_id", "start_seconds", "end_seconds", "visual_ids", "motion_ids", "global_motion_ids"]
CAMERA_SCALE = 16.0
"""Root-mean-square difference of camera ids at which two cameras are called unlike (similarity 1/e)."""


@dataclass(frozen=True)
class Codes:
    """Ids of some clips, as they are compared."""

    visual: np.ndarray
    """float32 [clips, words]: how often each word stands in the keyframe."""
    motion: np.ndarray
    """float32 [clips, words]: how often each id stands in the first level of motion; no columns without levels."""
    camera: np.ndarray
    """float32 [clips, K]."""

    @classmethod
    def of(cls, rows: pa.Table, codebooks: dict[str, int]) -> "Codes":
        """Those of rows of a corpus."""
        visual = _counts(rows["visual_ids"].to_pylist(), codebooks["visual"])
        first = [levels[0] if levels else [] for levels in rows["motion_ids"].to_pylist()]
        camera = np.array(rows["global_motion_ids"].to_pylist(), np.float32)
        return cls(visual, _counts(first, codebooks["motion"]), camera)


def _counts(ids: list[list[int]], words: int) -> np.ndarray:
    return np.stack([np.bincount(row, minlength=words) for row in ids]).astype(np.float32)


class Index:
    """How rare every id is, from one pass over a corpus. A search is another pass: nothing is kept on the disk."""

    def __init__(self, folder: Path, codebooks: dict[str, int]) -> None:
        self._folder, self._codebooks = folder, codebooks
        self._clips = 0
        seen = {"visual": np.zeros(codebooks["visual"]), "motion": np.zeros(codebooks["motion"])}
        for path in shard_paths(folder):
            codes = Codes.of(read_shard(path, COLUMNS), codebooks)
            seen["visual"] += (codes.visual > 0).sum(0)
            seen["motion"] += (codes.motion > 0).sum(0)
            self._clips += len(codes.visual)
        if not self._clips:
            raise CorpusError(f"{folder} has no clips yet; `videotok corpus encode` makes some")
        # + 1: an id that every clip has says little, but not nothing
        rarity = {name: 1 + np.log((1 + self._clips) / (1 + count)) for name, count in seen.items()}
        self._rarity = {name: values.astype(np.float32) for name, values in rarity.items()}

    def nearest(self, query: Codes, count: int = 10) -> dict[str, list[dict[str, Any]]]:
        """For `look` and for `motion`: the `count` clips most like any clip of the query, best first, each with
        video_id, start_seconds, end_seconds and similarity (1: the same, 0: nothing in common)."""
        found: dict[str, list[dict[str, Any]]] = {"look": [], "motion": []}
        for path in shard_paths(self._folder):
            rows = read_shard(path, COLUMNS)
            codes = Codes.of(rows, self._codebooks)
            known = rows.select(COLUMNS[:3])
            for name, scores in (("look", self.look(query, codes)), ("motion", self.motion(query, codes))):
                best = np.argsort(-scores, kind="stable")[:count]
                hits = known.take(pa.array(best)).to_pylist()
                found[name] += [hit | {"similarity": float(scores[row])} for hit, row in zip(hits, best, strict=True)]
                found[name] = sorted(found[name], key=lambda hit: -hit["similarity"])[:count]
        return found

    def look(self, query: Codes, codes: Codes) -> np.ndarray:
        """float [clips]: likeness of keyframes to the most like one of the query."""
        return self._cosine("visual", query.visual, codes.visual).max(0)

    def motion(self, query: Codes, codes: Codes) -> np.ndarray:
        """float [clips]: likeness of motion to the most like clip of the query."""
        local = self._cosine("motion", query.motion, codes.motion)
        if not query.camera.shape[1]:
            return local.max(0)
        apart = np.sqrt(((query.camera[:, None] - codes.camera[None]) ** 2).mean(-1))
        camera = np.exp(-apart / CAMERA_SCALE)
        return (camera if not query.motion.any() else (camera + local) / 2).max(0)

    def _cosine(self, name: str, query: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """float [queries, clips]."""
        left, right = (self._weighted(name, counts) for counts in (query, codes))
        return left @ right.T

    def _weighted(self, name: str, counts: np.ndarray) -> np.ndarray:
        # an id that stands there ten times says little more than one that stands there five times
        weights = np.log1p(counts) * self._rarity[name]
        return weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-9)


def query_rows(video: Path, facts: dict[str, Any], model: str | None = None) -> pa.Table:
    """Its clips, with the columns video_id, start_seconds, end_seconds, visual_ids, motion_ids and global_motion_ids.

    Args:
        video: any file FFmpeg reads.
        facts: corpus.json of the corpus.
        model: the weights of the corpus, where they are not the shipped ones.

    Raises:
        MediaError: the video cannot be read.
        TokensError: the corpus was made with other weights.
    """
    fingerprint = facts["fingerprint"]
    tokenizer = VideoTokenizer.from_pretrained(model)
    for part in TOKENIZERS:
        made, here = fingerprint["weights"][part], tokenizer.bundle.identity(part)
        if made != here.sha256:
            raise TokensError(
                f"the corpus was made with {part} weights {made[:12]} ({facts['model']}), the model at hand has "
                f"{here.sha256[:12]} ({here.name}); name the right one with --model"
            )
    spec = fingerprint["spec"]
    tokens = tokenizer.encode(
        video,
        EncodeConfig(
            fps=Fraction(spec["fps"]),
            keep_ratio=spec["keep"],
            motion_quantizers=spec["motion_quantizers"],
            motion_source=spec["motion_source"],
            predict_keyframes=False,
        ),
    )
    ends = tokens.pts_seconds + tokens.num_frames / float(tokens.spec.fps)
    return pa.table(
        {
            "video_id": [video.name] * tokens.num_clips,
            "start_seconds": tokens.pts_seconds,
            "end_seconds": ends,
            "visual_ids": [tokens.visual_ids_of(clip) for clip in range(tokens.num_clips)],
            "motion_ids": [list(levels) for levels in tokens.motion_ids],
            "global_motion_ids": list(tokens.global_motion_ids),
        }
    )
