"""Motion as Video-LaVIT reads it, compared with its method: vectors on pixels, max-pooled to macroblocks, resized."""

import subprocess
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from videos import even, scenes, write

from codec import ClipSpec, iter_clips
from unet3d.latent_detokenizer import PUBLISHED_SCALE

SIZE = (200, 120)
"""Neither is a multiple of 16."""
NO_VECTOR = -10000.0


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mpeg4") / "clip.mp4"
    return write(path, scenes(SIZE)["layers"], even(3, 12), fps=12)


@pytest.fixture(scope="module")
def published_field(video: Path) -> Tensor:
    """Return [24, 2, 20, 36] of the first clip, in the published sign and in standard deviations."""
    raw = video.with_suffix(".m4v")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(video), "-vf", "fps=12"]
    subprocess.run([*command, "-b:v", "8000k", "-c:v", "mpeg4", "-threads", "1", str(raw)], check=True)
    with av.open(str(raw)) as container:
        container.streams.video[0].thread_type = "NONE"
        container.streams.video[0].codec_context.options = {"flags2": "+export_mvs"}
        fields = torch.stack([vectors_on_pixels(frame) for frame in container.decode(video=0)][:24])
    height, width = fields.shape[-2:]
    padding = (0, -width % 16, 0, -height % 16)
    blocks = F.max_pool2d(F.pad(fields, padding, value=NO_VECTOR), 16)
    blocks[blocks < -1000] = 0
    blocks[12] = (blocks[11] + blocks[13]) / 2
    return F.interpolate(blocks, (20, 36), mode="bicubic")


def vectors_on_pixels(frame: av.VideoFrame) -> Tensor:
    """Return float32 [2, H, W] with each vector at its block's centre, times the sign of its source."""
    field = np.full((frame.height, frame.width, 2), NO_VECTOR)
    vectors = frame.side_data.get("MOTION_VECTORS")
    if vectors is not None:
        read = vectors.to_ndarray()
        motion = read["source"][:, None] * np.stack([read["motion_x"], read["motion_y"]], -1)
        motion = motion / read["motion_scale"][:, None] / (frame.width, frame.height) / (0.0993703, 0.1130276)
        field[read["dst_y"].clip(0, frame.height - 1), read["dst_x"].clip(0, frame.width - 1)] = motion
    return torch.from_numpy(field).float().permute(2, 0, 1)


def test_motion_is_what_the_published_code_reads(video: Path, published_field: Tensor):
    clip = next(iter_clips(video, ClipSpec(), motion_source="mpeg4"))
    assert clip.motion_source == "mpeg4"
    found = torch.from_numpy(clip.motion.vectors * np.array(PUBLISHED_SCALE, np.float32)).permute(0, 3, 1, 2)
    assert published_field.abs().max() > 0.05
    assert torch.allclose(found, published_field, atol=1e-5)


def test_keyframes_have_no_motion_and_the_middle_is_interpolated(video: Path):
    first, second = iter_clips(video, ClipSpec(), motion_source="mpeg4")
    for clip in (first, second):
        assert not clip.motion.vectors[0].any()
        assert not clip.motion.valid[0].any()
    between = (first.motion.vectors[11] + first.motion.vectors[13]) / 2
    assert np.allclose(first.motion.vectors[12], between)
    assert not first.motion.valid[12].any()
    assert first.motion.valid[11].mean() > 0.8
    assert second.num_frames == 12


def test_motion_correlates_with_native_vectors(video: Path):
    ours = next(iter_clips(video, ClipSpec(), motion_source="native")).motion.vectors[1:12]
    theirs = next(iter_clips(video, ClipSpec(), motion_source="mpeg4")).motion.vectors[1:12]
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.7
