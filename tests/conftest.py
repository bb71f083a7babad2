"""Shared by the tests of videotok: a clip of known motion, and tiny models with random weights."""

import shutil
from pathlib import Path

import pytest
import torch

from codec import REPRODUCIBLE, VideoWriter
from videotok.virtual_camera import Layer, Pose, Scene, constant_speed, photograph

SIZE, FPS, SECONDS = (160, 96), 24, 3
"""Two clips of 24 frames at 12 fps: one of 24 and one of 12."""


@pytest.fixture(scope="session")
def scene() -> Scene:
    background = Layer(photograph("coffee"), constant_speed(pan=(0.12, -0.04), zoom=1.05))
    front = Layer(photograph("chelsea"), constant_speed(pan=(-0.2, 0.0), start=Pose(zoom=0.8)), oval=(0.5, 0.7))
    return Scene((background, front), SIZE)


@pytest.fixture(scope="session")
def clip_mp4(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, FPS, SIZE, options=REPRODUCIBLE) as writer:
        for frame in scene.frames(index / FPS for index in range(SECONDS * FPS)):
            writer.write(frame)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of three tiny networks with random weights."""
    return make_bundle(tmp_path_factory.mktemp("tiny"), seed=0)


@pytest.fixture
def folder(tmp_path: Path, clip_mp4: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test of commands: it holds `clip.mp4`, and weights in `model`."""
    shutil.copy(clip_mp4, tmp_path / "clip.mp4")
    (tmp_path / "model").symlink_to(tiny_model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same networks with other weights."""
    return make_bundle(tmp_path_factory.mktemp("other"), seed=1)


def make_bundle(folder: Path, seed: int) -> Path:
    from motion_vq import MotionTokenizer
    from unet3d import VideoDetokenizer
    from videotok.keyframes import KeyframeTokenizer

    torch.manual_seed(seed)
    keyframes = KeyframeTokenizer(
        image_size=64,
        width=32,
        depth=1,
        heads=2,
        hidden=32,
        merger_depth=1,
        codebook_size=64,
        code_dim=8,
        decoder_width=32,
        decoder_depth=1,
        decoder_heads=2,
        decoder_hidden=32,
        seam_width=8,
    )
    motion = MotionTokenizer(
        encoder_widths=(16,),
        encoder_depths=(1,),
        decoder_widths=(16,),
        decoder_depths=(1,),
        num_heads=2,
        code_dim=8,
        codebook_size=32,
        num_quantizers=3,
        num_stages=4,
        default_num_quantizers=2,
    )
    detokenizer = VideoDetokenizer(
        block_out_channels=(32, 32),
        attention=(False, True),
        attention_width=32,
        motion_layers=1,
        motion_width=32,
        motion_heads=2,
    )
    for name, model in (("keyframes", keyframes), ("motion", motion), ("detokenizer", detokenizer)):
        for parameter in model.parameters():  # some are initialized with zeros, which would hide errors
            parameter.data += 0.05 * torch.randn_like(parameter)
        model.half().save_pretrained(folder / name)
    return folder
