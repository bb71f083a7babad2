"""Many videos encoded to Parquet by Ray Data, and what can be done with that (docs/corpus.md)."""

from videotok.config import EncodeConfig

CLIPS_PER_BATCH = 16
"""Clips that a tokenizer encodes at once, where the config does not say."""
DEFAULT_CONFIG = EncodeConfig(predict_keyframes=False, batch_size=CLIPS_PER_BATCH)
"""Clips are encoded independently of each other: workers get them in any order."""
