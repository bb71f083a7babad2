"""Kinds of files that are rare in data sets and common on disks: old codecs, pictures that move, many formats."""

from fractions import Fraction

import numpy as np
import pytest

from codec import ClipSpec, MediaError, VideoWriter, iter_clips, probe
from tests.videos import error_pixels, even, scenes

OLD = {
    "flv.flv": "flv",
    "h263.3gp": "h263",
    "h263p.avi": "h263p",
    "msmpeg4v2.avi": "msmpeg4v2",
    "msmpeg4v3.avi": "msmpeg4",
    "wmv1.wmv": "wmv1",
    "wmv2.wmv": "wmv2",
}
"""Files and their encoders."""


@pytest.mark.parametrize("name", OLD)
def test_old_codecs_bring_their_own_vectors(name, tmp_path):
    scene, spec, times = scenes((352, 288))["pan"], ClipSpec(frames=12, fps=Fraction(25)), even(0.48, 25)
    path = tmp_path / name
    with VideoWriter(path, 25, scene.size, codec=OLD[name], options={"b": "3M", "g": "100"}) as writer:
        for time in times:
            writer.write(scene.frame(float(time)))
    assert probe(path).has_native_vectors
    (clip,) = iter_clips(path, spec)
    assert clip.motion_source == "native"
    assert clip.shares.exact > 0.95
    assert clip.motion.valid[1:].mean() > 0.8
    assert error_pixels(scene, clip, [float(time) for time in times], spec) < 1.0


def test_animated_webp_is_refused_by_name(tmp_path):
    """FFmpeg decodes WebP, but not the animated kind."""
    path = tmp_path / "animated.webp"
    with VideoWriter(path, 10, (64, 36), codec="libwebp_anim") as writer:
        for level in range(0, 250, 50):
            writer.write(np.full((36, 64, 3), level, np.uint8))
    for call in (probe, lambda video: list(iter_clips(video))):
        with pytest.raises(MediaError, match="does not decode animated WebP; convert it to GIF"):
            call(path)
