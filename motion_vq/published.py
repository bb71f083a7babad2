"""The size that was published, as a configuration of the same class."""

from typing import Any

PUBLISHED_CONFIG: dict[str, Any] = {
    "patch": (1, 1, 1),
    "encoder_widths": (512, 512, 512, 512, 512),
    "encoder_depths": (3, 3, 3, 3, 0),
    "encoder_strides": ((1, 2, 2), (2, 1, 1), (2, 1, 1), (2, 2, 2)),
    "decoder_widths": (512, 512, 512, 512, 512),
    "decoder_depths": (0, 3, 3, 3, 3),
    "decoder_strides": ((2, 2, 2), (2, 1, 1), (2, 1, 1), (1, 2, 2)),
    "num_heads": 8,
    "num_levels": 1,
    "num_stages": 1,
    "default_levels": 1,
    "normalized_codebook": True,
    "camera_terms": (0, 0, 0),
    # its vectors point from the last frame to this one, ours back: the sign; 256 and 144 times its deviations / 10
    "unit_pixels": (-2.54387968, -1.62759744),
    "companded": False,
    "linear_path": False,
    "valid_channel": False,
    "keyframe_step": False,
}
"""The motion tokenizer of Video-LaVIT (arXiv 2402.03161): `MotionTokenizer(**PUBLISHED_CONFIG)`, 158 M parameters."""
