"""Scene cuts: found at their frame and nowhere else, and clips are split there on request."""

from pathlib import Path

import numpy as np
import pytest

from codec import ClipSpec, VideoWriter, iter_clips
from tests.videos import ENCODINGS
from videotok.cli.main import main
from videotok.config import DecodeConfig, EncodeConfig
from videotok.pipeline import VideoTokenizer
from videotok.tokens import VideoTokens
from videotok.virtual_camera import Layer, Scene, constant_speed, photograph

SIZE, FPS, CUT = (192, 112), 12, 17
SPEC = ClipSpec(frames=12)
LONG_GOP = {"g": "500", "sc_threshold": "0"}


def pictures(flash: bool = False) -> list[np.ndarray]:
    """Return a pan over one photograph, and from frame CUT on over another; with `flash`, one pan and a flash."""
    scenes = [
        Scene((Layer(photograph(name), constant_speed(pan=(0.2, 0.05))),), SIZE) for name in ("coffee", "chelsea")
    ]
    shown = [scenes[number >= CUT].frame(number / FPS) for number in range(30)]
    if flash:
        shown = [scenes[0].frame(number / FPS) for number in range(30)]
        shown[CUT] = np.clip(shown[CUT].astype(int) * 2 + 60, 0, 255).astype(np.uint8)
    return shown


def write_frames(
    path: Path, frames: list[np.ndarray], codec: str = "libx264", options: dict[str, str] | None = None
) -> Path:
    with VideoWriter(path, FPS, SIZE, codec=codec, options=options) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory) -> Path:
    return write_frames(tmp_path_factory.mktemp("cuts") / "two.mp4", pictures())


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {}),
        ("libx264", LONG_GOP),
        ("libx264", LONG_GOP | {"bf": "8"}),
        ("libx264", LONG_GOP | {"tune": "zerolatency"}),
        ("libx264", {"g": "4"}),
        ("mpeg4", ENCODINGS["mpeg4-b"][1] | {"sc_threshold": "1000000000", "g": "300"}),
    ],
    ids=["I frame", "no I frame", "among B frames", "zerolatency", "many I frames", "mpeg4"],
)
def test_a_cut_is_found_at_its_frame_and_nowhere_else(codec, options, tmp_path):
    clips = list(iter_clips(write_frames(tmp_path / "clip.mp4", pictures(), codec, options), SPEC))
    found = [number * SPEC.frames + cut for number, clip in enumerate(clips) for cut in clip.cuts]
    assert found == [CUT]
    step = CUT % SPEC.frames
    assert not clips[CUT // SPEC.frames].motion.valid[step].any()
    assert not clips[CUT // SPEC.frames].motion.vectors[step].any()


def test_a_reencoding_finds_the_cut(two_scenes):
    clips = iter_clips(two_scenes, SPEC, motion_source="reencode")
    assert [clip.cuts for clip in clips] == [(), (CUT % SPEC.frames,), ()]


def test_a_flash_is_no_cut(tmp_path):
    path = write_frames(tmp_path / "clip.mp4", pictures(flash=True), options={"sc_threshold": "100"})
    assert all(not clip.cuts for clip in iter_clips(path, SPEC))


def test_clips_are_split_at_cuts(two_scenes):
    clips = list(iter_clips(two_scenes, SPEC, split_at_cuts=True, frames=True))
    assert [clip.num_frames for clip in clips] == [12, 5, 12, 1]
    assert [clip.cuts for clip in clips] == [(), (), (0,), ()]
    starts = np.cumsum([0, *(clip.num_frames for clip in clips[:-1])])
    assert [clip.pts_seconds for clip in clips] == pytest.approx(starts / FPS)
    # the keyframe shows the new scene, and no motion leads into it
    assert np.abs(clips[2].keyframe.astype(int) - pictures()[CUT]).mean() < 6
    assert not clips[2].motion.valid[0].any()
    whole = iter_clips(two_scenes, SPEC, frames=True)
    shown = np.concatenate([clip.frames for clip in whole if clip.frames is not None])
    assert np.array_equal(np.concatenate([clip.frames for clip in clips if clip.frames is not None]), shown)


def test_split_clips_are_encoded_and_decoded(two_scenes, tiny_model, tmp_path):
    path = tmp_path / "two.vtok"
    model = ["--model", str(tiny_model)]
    assert main(["encode", str(two_scenes), "-o", str(path), "--split-at-cuts", *model]) == 0
    tokens = VideoTokens.load(path)
    assert tokens.num_frames.tolist() == [CUT, 13]
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    assert len(list(tokenizer.decode(tokens, DecodeConfig(size=(64, 40))))) == 30
    out = str(tmp_path / "out.mp4")
    assert main(["decode", str(path), "-o", out, "--compare", str(two_scenes), "--size", "64x40", *model]) == 0


def test_decoding_does_not_use_the_next_scene(two_scenes, tiny_model):
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    tokens = tokenizer.encode(two_scenes, EncodeConfig(split_at_cuts=True, predict_keyframes=False))
    alone = tokenizer.encode(two_scenes, EncodeConfig(duration_seconds=CUT / FPS, predict_keyframes=False))
    together = list(tokenizer.decode(tokens, DecodeConfig(size=(64, 40))))[:CUT]
    assert np.array_equal(np.stack(together), np.stack(list(tokenizer.decode(alone, DecodeConfig(size=(64, 40))))))
