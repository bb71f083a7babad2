"""Many videos encoded to Parquet by Ray Data, and what can be done with that (docs/corpus.md)."""

from videotok.config import EncodeConfig

DEFAULT_CONFIG = EncodeConfig(predict_keyframes=False, batch_size=16)
"""Clips are encoded independently of each other: workers get them in any order."""
