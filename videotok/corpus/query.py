"""A video encoded as the videos of a corpus were, to be compared with them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa

from videotok.errors import TokensError
from videotok.pipeline import VideoTokenizer
from videotok.tokens import TOKENIZERS


def query_rows(video: Path, facts: dict[str, Any], model: str | None = None) -> pa.Table:
    """Its clips, with the columns video_id, start_seconds, end_seconds, visual_ids, motion_ids and camera_ids.

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
        tokenizer.spec(Fraction(spec["fps"])),
        keep=spec["keep"],
        motion_levels=spec["motion_levels"],
        motion_source=spec["motion_source"],
        visual_delta=False,
    )
    ends = tokens.pts_seconds + tokens.num_frames / float(tokens.spec.fps)
    return pa.table(
        {
            "video_id": [video.name] * tokens.num_clips,
            "start_seconds": tokens.pts_seconds,
            "end_seconds": ends,
            "visual_ids": [tokens.visual_ids_of(clip) for clip in range(tokens.num_clips)],
            "motion_ids": [list(levels) for levels in tokens.motion_ids],
            "camera_ids": list(tokens.camera_ids),
        }
    )
