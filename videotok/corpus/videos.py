"""Rows of a corpus as VideoTokens again."""

from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from codec import ClipSpec
from videotok.corpus.read import path_name
from videotok.source import ModelIdentity, SourceFacts
from videotok.tokens import TOKENIZERS, VideoTokens


def video_tokens(rows: pa.Table, facts: dict[str, Any]) -> VideoTokens:
    """All clips of one video, in order (`ordered.ordered_videos`), as what decoders and vocabularies take.

    Args:
        rows: of one video.
        facts: corpus.json (`CorpusFolder.facts`).

    Raises:
        ValueError: rows that are no whole video.
    """
    spec, weights = facts["fingerprint"]["spec"], facts["fingerprint"]["weights"]
    first = rows.slice(0, 1).to_pylist()[0]
    visual = [np.array(ids, np.int32) for ids in rows["visual_ids"].to_pylist()]
    source = SourceFacts(path_name(first["path"]), 0, first["codec"], first["width"], first["height"], 0, None, None)
    return VideoTokens(
        spec=ClipSpec(spec["frames"], Fraction(spec["fps"]), tuple(spec["grid"])),
        source=source,
        motion_source=first["motion_source"],
        models={part: ModelIdentity(facts["model"], weights[part]) for part in TOKENIZERS},
        codebooks=facts["codebooks"],
        visual_ids=np.concatenate(visual),
        visual_offsets=np.cumsum([0, *map(len, visual)], dtype=np.int64),
        keep_mask=np.array(rows["keep_mask"].to_pylist(), np.bool_),
        motion_ids=np.array(rows["motion_ids"].to_pylist(), np.int32),
        camera_ids=np.array(rows["camera_ids"].to_pylist(), np.int32),
        num_frames=rows["num_frames"].to_numpy(),
        pts_seconds=rows["start_seconds"].to_numpy(),
        damaged=np.array(rows["damaged"].to_pylist(), np.bool_),
    )
