"""The columns of a corpus and their version (docs/corpus.md).

Version 2 has today's names. Version 1 is still read: its columns are renamed on reading, so that everything else knows
today's names only.
"""

import pyarrow as pa

VERSION = 2
"""Of what is written. Raised when an older reader would misread a shard."""
READABLE_VERSIONS = (1, 2)
NAMES_BEFORE_2 = {"camera_ids": "global_motion_ids"}
"""Columns of version 1 -> names today."""

METADATA_VERSION = "videotok.schema"
METADATA_FINGERPRINT = "videotok.fingerprint"
METADATA_FINGERPRINT_SHA256 = "videotok.fingerprint_sha256"

IDS = pa.list_(pa.int32())

CLIP_COLUMNS = pa.schema(
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
        pa.field("global_motion_ids", IDS, nullable=False),
    ]
)
"""What encoding says of a clip. `clip` is its number from 0, `clips` the number of clips of its video: a video is
complete when so many rows have its id."""

JOB_COLUMNS = pa.schema(
    [
        pa.field("index", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("message", pa.string()),
        pa.field("codec_seconds", pa.float64()),
        pa.field("keyframe_seconds", pa.float64()),
        pa.field("motion_seconds", pa.float64()),
    ]
)
"""What only the running job needs of a row. `index` is the video's row in the inputs; a row with a `message` has no
tokens and says why its video was refused, and at which stage: `read` (fetching the file), `codec` (decoding it) or
`tokenizers` (turning it into ids)."""

ENCODED_ROWS = pa.schema([*JOB_COLUMNS, *CLIP_COLUMNS])
"""Rows that the last stage of the pipeline returns."""

INPUTS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("start", pa.float64()),
        pa.field("duration", pa.float64()),
        pa.field("caption", pa.string()),
    ]
)
"""What is known of a video before it is read; times in seconds. Further columns of a manifest follow unchanged."""

ERRORS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)
"""Videos that were refused."""


def clip_schema(inputs: pa.Schema, metadata: dict[str, str] | None = None) -> pa.Schema:
    """Return the columns of a shard: the video, the clip, the caption, further manifest columns, the fingerprint."""
    first = [INPUTS.field("video_id"), INPUTS.field("path")]
    further = [field for field in inputs if field.name not in INPUTS.names]
    last = [INPUTS.field("caption"), *further, pa.field("fingerprint", pa.string(), nullable=False)]
    return pa.schema([*first, *CLIP_COLUMNS, *last], metadata)


def schema_version(metadata: dict[bytes, bytes] | None) -> int:
    """Return the version of a shard from its Parquet metadata; files without any are of the newest version."""
    value = (metadata or {}).get(METADATA_VERSION.encode())
    return VERSION if value is None else int(value)


def names_on_disk(columns: list[str], version: int) -> list[str]:
    """Return the names that columns of today have in a shard of a version."""
    old = {today: name for name, today in NAMES_BEFORE_2.items()} if version < 2 else {}
    return [old.get(name, name) for name in columns]


def with_todays_names(table: pa.Table, version: int) -> pa.Table:
    """Return the rows of a shard with the column names of today."""
    if version >= 2:
        return table
    return table.rename_columns([NAMES_BEFORE_2.get(name, name) for name in table.column_names])
