"""Sizes of a keyframe tokenizer small enough for tests: 64 patches of 8 x 8 pixels, 128 codes."""

from typing import Any

SIZES: dict[str, Any] = dict(
    image_size=64,
    patch_size=8,
    width=32,
    depth=2,
    heads=2,
    hidden=64,
    merger_depth=2,
    codebook_size=128,
    code_dim=8,
    decoder_width=32,
    decoder_depth=2,
    decoder_heads=2,
    decoder_hidden=64,
    seam_cells=4,
    seam_width=8,
)

UPSAMPLER: dict[str, Any] = dict(upsampler_widths=(16, 8), upsampler_blocks=(1, 1))
"""The same with a convolutional upsampler: 8 -> 16 -> 32 -> 64 pixels."""
