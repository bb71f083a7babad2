"""Find clips that look, or move, like those of a video, from the ids alone.

look    histograms of visual ids, weighted by how rare an id is (tf-idf, Sparck Jones 1972; on visual codes as in Sivic
        and Zisserman, ICCV 2003), compared by their cosine
motion  one half from the global motion, whose ids are coefficients in even steps, compared by their distance; one half
        from local motion: tf-idf histograms of the first quantizer's ids
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from videotok.corpus.settings import Fingerprint
from videotok.corpus.storage import read_shard, shard_paths
from videotok.errors import CorpusError, TokensError
from videotok.pipeline import VideoTokenizer
from videotok.tokens import TOKENIZERS

COLUMNS = ["video_id", "start_seconds", "end_seconds", "visual_ids", "motion_ids", "global_motion_ids"]
GLOBAL_MOTION_SCALE = 16.0
"""Root-mean-square difference of global motion ids at which the similarity is 1/e."""


@dataclass(frozen=True)
class ClipFeatures:
    """The ids of some clips in the form in which they are compared."""

    visual: np.ndarray
    """float32 [clips, codes]: how often each code occurs in the keyframe."""
    motion: np.ndarray
    """float32 [clips, codes]: how often each code of the first motion quantizer occurs; zeros without quantizers."""
    global_motion: np.ndarray
    """float32 [clips, K]: the ids."""

    @classmethod
    def from_rows(cls, rows: pa.Table, codebooks: dict[str, int]) -> Self:
        """Return the features of rows with columns visual_ids, motion_ids and global_motion_ids."""
        first = [quantizers[0] if quantizers else [] for quantizers in rows["motion_ids"].to_pylist()]
        return cls(
            _histograms(rows["visual_ids"].to_pylist(), codebooks["visual"]),
            _histograms(first, codebooks["motion"]),
            np.array(rows["global_motion_ids"].to_pylist(), np.float32),
        )

    def __getitem__(self, clips: slice) -> "ClipFeatures":
        return ClipFeatures(self.visual[clips], self.motion[clips], self.global_motion[clips])

    def __len__(self) -> int:
        return len(self.visual)


@dataclass(frozen=True)
class CodeRarity:
    """How rare every code is (inverse document frequency), and the similarities that follow from it."""

    visual: np.ndarray
    """float32 [codes]."""
    motion: np.ndarray
    """float32 [codes]."""

    def look_similarity(self, query: ClipFeatures, clips: ClipFeatures) -> np.ndarray:
        """Return the similarity of keyframes to the most similar one of the query, float [clips], 0 to 1."""
        return _cosine(query.visual, clips.visual, self.visual).max(0)

    def motion_similarity(self, query: ClipFeatures, clips: ClipFeatures) -> np.ndarray:
        """Return the similarity of motion to the most similar clip of the query, float [clips], 0 to 1."""
        local = _cosine(query.motion, clips.motion, self.motion)
        if not query.global_motion.shape[1]:
            return local.max(0)
        distance = np.sqrt(((query.global_motion[:, None] - clips.global_motion[None]) ** 2).mean(-1))
        overall = np.exp(-distance / GLOBAL_MOTION_SCALE)
        return (overall if not query.motion.any() else (overall + local) / 2).max(0)


class CorpusSearch:
    """Searches a corpus. Making one is a pass over the shards, a search another; there is no index on disk.

    Args:
        folder: of the corpus.
        codebooks: sizes of the codebooks (corpus.json).

    Raises:
        CorpusError: the corpus has no clips.
    """

    def __init__(self, folder: Path, codebooks: dict[str, int]) -> None:
        self._folder, self._codebooks = folder, codebooks
        visual, motion, num_clips = np.zeros(codebooks["visual"]), np.zeros(codebooks["motion"]), 0
        for path in shard_paths(folder):
            features = ClipFeatures.from_rows(read_shard(path, COLUMNS), codebooks)
            visual += (features.visual > 0).sum(0)
            motion += (features.motion > 0).sum(0)
            num_clips += len(features)
        if not num_clips:
            raise CorpusError(f"{folder} has no clips yet; `videotok corpus encode` makes some")
        self.rarity = CodeRarity(_inverse_frequency(visual, num_clips), _inverse_frequency(motion, num_clips))

    def nearest(self, query: ClipFeatures, count: int = 10) -> dict[str, list[dict[str, Any]]]:
        """Return the clips most similar to any clip of the query, best first, for `look` and for `motion`.

        Each is a dict of video_id, start_seconds, end_seconds and similarity (1: equal, 0: nothing in common).
        """
        hits: dict[str, list[dict[str, Any]]] = {"look": [], "motion": []}
        for path in shard_paths(self._folder):
            rows = read_shard(path, COLUMNS)
            clips = ClipFeatures.from_rows(rows, self._codebooks)
            similarities = {
                "look": self.rarity.look_similarity(query, clips),
                "motion": self.rarity.motion_similarity(query, clips),
            }
            for kind, values in similarities.items():
                best = np.argsort(-values, kind="stable")[:count]
                facts = rows.select(COLUMNS[:3]).take(pa.array(best)).to_pylist()
                hits[kind] += [clip | {"similarity": float(values[row])} for clip, row in zip(facts, best, strict=True)]
                hits[kind] = sorted(hits[kind], key=lambda hit: -hit["similarity"])[:count]
        return hits


def encode_query(video: Path, facts: dict[str, Any], model: str | None = None, device: str = "cpu") -> pa.Table:
    """Encode a video as the videos of a corpus were; return its clips with the columns of `COLUMNS`.

    Args:
        video: any file that FFmpeg reads.
        facts: corpus.json of the corpus.
        model: the corpus' weights; those that ship with videotok if None.
        device: where the models run; `auto` chooses. It does not change ids.

    Raises:
        MediaError: the video cannot be read.
        ModelError: there is no such device.
        TokensError: the corpus was made with other weights.
    """
    fingerprint = Fingerprint(facts["fingerprint"])
    tokenizer = VideoTokenizer.from_pretrained(model, device=device)
    for part in TOKENIZERS:
        wanted, found = fingerprint.facts["weights"][part], tokenizer.bundle.identity(part)
        if wanted != found.sha256:
            raise TokensError(
                f"the corpus was made with {part} weights {wanted[:12]} ({facts['model']}), this model has "
                f"{found.sha256[:12]} ({found.name}); name the model that the corpus was made with"
            )
    tokens = tokenizer.encode(video, fingerprint.config)
    ends = tokens.pts_seconds + tokens.num_frames / float(tokens.spec.fps)
    return pa.table(
        {
            "video_id": [video.name] * tokens.num_clips,
            "start_seconds": tokens.pts_seconds,
            "end_seconds": ends,
            "visual_ids": [tokens.visual_ids_of(clip) for clip in range(tokens.num_clips)],
            "motion_ids": [list(tokens.motion_ids_of(clip)) for clip in range(tokens.num_clips)],
            "global_motion_ids": list(tokens.global_motion_ids),
        }
    )


def _histograms(ids: list[list[int]], codes: int) -> np.ndarray:
    """Return how often each code occurs in each row, float32 [rows, codes]."""
    return np.stack([np.bincount(row, minlength=codes) for row in ids]).astype(np.float32)


def _inverse_frequency(num_clips_with: np.ndarray, num_clips: int) -> np.ndarray:
    """Return the weight of each code from the number of clips that have it, float32 [codes]."""
    # plus 1: a code that every clip has still counts a little
    return (1 + np.log((1 + num_clips) / (1 + num_clips_with))).astype(np.float32)


def _cosine(query: np.ndarray, clips: np.ndarray, rarity: np.ndarray) -> np.ndarray:
    """Return the cosine of weighted histograms, float [queries, clips]."""

    def normalized(counts: np.ndarray) -> np.ndarray:
        # a code that occurs ten times says little more than one that occurs five times
        weights = np.log1p(counts) * rarity
        return weights / np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-9)

    return normalized(query) @ normalized(clips).T
