"""The columns of a corpus, and their version (docs/corpus.md)."""

import pyarrow as pa

VERSION = 1
"""Raised whenever an older reader would misread a shard."""

IDS = pa.list_(pa.int32())

TOKENS = pa.schema(
    [
        pa.field("clip", pa.int32(), nullable=False),
        pa.field("clips", pa.int32(), nullable=False),
        pa.field("start_seconds", pa.float64(), nullable=False),
        pa.field("end_seconds", pa.float64(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("damaged", pa.bool_(), nullable=False),
        pa.field("motion_source", pa.string(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("visual_ids", IDS, nullable=False),
        pa.field("keep_mask", pa.list_(pa.bool_()), nullable=False),
        pa.field("motion_ids", pa.list_(IDS), nullable=False),
        pa.field("camera_ids", IDS, nullable=False),
    ]
)
"""What the pipeline finds out about a clip. `clips` is the number of clips of the whole video: a video is complete
when so many rows carry its id."""

TRANSIENT = pa.schema(
    [
        pa.field("index", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("message", pa.string()),
        pa.field("codec_seconds", pa.float64()),
        pa.field("keyframe_seconds", pa.float64()),
        pa.field("motion_seconds", pa.float64()),
    ]
)
"""What only the job needs to know of a row."""

STREAM = pa.schema([*TRANSIENT, *TOKENS])
"""What comes out of the last stage."""

INPUTS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start", pa.float64()),
        pa.field("duration", pa.float64()),
        pa.field("caption", pa.string()),
    ]
)
"""What is known of a video before it is read. Other columns of a manifest follow, as they came."""

ERRORS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)

STAGES = ("read", "codec", "tokenizers")
"""Where a video can fail: its file is fetched, taken apart, turned into ids."""


def passed_through(inputs: pa.Schema) -> list[pa.Field]:
    """Fields of a manifest that only its owner knows the meaning of."""
    return [field for field in inputs if field.name not in INPUTS.names]


def clip_schema(inputs: pa.Schema, metadata: dict[str, str] | None = None) -> pa.Schema:
    """Columns of a shard: the video, the clip, its tokens, caption and passed-through columns, the fingerprint."""
    first = [INPUTS.field("video_id"), INPUTS.field("path")]
    last = [INPUTS.field("caption"), *passed_through(inputs), pa.field("fingerprint", pa.string(), nullable=False)]
    return pa.schema([*first, *TOKENS, *last], metadata)
