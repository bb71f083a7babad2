"""The camera's motion in real footage, its answers, variants of its motion, and what of a long video is read."""

import cv2
import numpy as np
import pytest
import torch
from small_lm import make_model

from videotok.lm.data import EncodedVideo
from videotok.lm.generation import model_input
from videotok.lm.model import VideoSettings
from videotok.lm.motion_questions import real_motion
from videotok.lm.motion_questions.camera_motion import MOVES, STANDS_STILL, CameraPath, camera_path
from videotok.lm.motion_questions.real_motion import RealMotion, random_variant, read_real_motion
from videotok.lm.motion_questions.scenes import ANSWERS, CAMERA, ZOOM
from videotok.lm.motion_questions.wordings import (
    FURTHER_HELD_OUT,
    HELD_OUT_QUESTIONS,
    MOVES_QUESTIONS,
    STILL_QUESTIONS,
    free_turns,
    free_wording,
)
from videotok.lm.packing import VideoInput, global_motion_ids
from videotok.virtual_camera import Layer, Scene, constant_speed, photograph

CAMERAS = {
    "left": (CAMERA, constant_speed(pan=(-0.08, 0.01))),
    "right": (CAMERA, constant_speed(pan=(0.08, 0.01))),
    "up": (CAMERA, constant_speed(pan=(0.01, -0.12))),
    "down": (CAMERA, constant_speed(pan=(0.01, 0.12))),
    "closer": (ZOOM, constant_speed(zoom=1.15)),
    "away": (ZOOM, constant_speed(zoom=1 / 1.15)),
    STANDS_STILL: (CAMERA, constant_speed()),
}


def frames_of(path, count=13):
    scene = Scene([Layer(photograph("chelsea"), path)], (256, 144))
    return np.stack([scene.frame(number / 12) for number in range(count)])


@pytest.mark.parametrize("answer", CAMERAS)
def test_the_camera_is_told_from_pictures(answer):
    question, path = CAMERAS[answer]
    found = camera_path(frames_of(path))
    assert found.steps.shape == (12, 3)
    assert found.answers()[question] == answer
    assert found.answers()[MOVES] == ("no" if answer == STANDS_STILL else "yes")


def test_what_is_not_clear_has_no_answer():
    steps = np.zeros((24, 3), np.float32)
    askew, slow, unsteady, unknown = (steps.copy() for _ in range(4))
    askew[:, :2] = 0.01
    slow[:, 0] = 0.0007  # 1.7 % of the width in two seconds: neither still nor clearly a pan
    unsteady[:12, 0], unsteady[12:, 0] = 0.02, -0.015
    unknown[:, 0] = 0.01
    unknown[:12] = np.nan
    assert not any(CameraPath(path).answers() for path in (askew, slow, unsteady, unknown, steps[:0]))
    unknown[4:12] = [0.01, 0, 0]
    assert CameraPath(unknown).answers()[CAMERA] == "left"
    assert camera_path(np.full((3, 144, 256, 3), 128, np.uint8)).answers() == {}, "nothing to track"
    fast = np.zeros((24, 3), np.float32)
    fast[:12, 2], fast[12:, 2] = 0.002, 0.006
    assert CameraPath(fast).speed_change() == "faster"
    assert CameraPath(fast[::-1]).speed_change() == "slower"
    assert CameraPath(np.full((24, 3), (0.01, 0, 0), np.float32)).speed_change() is None


def test_a_cut_and_an_object_are_not_the_camera():
    frames = frames_of(constant_speed(pan=(0.08, 0)), 12)
    other = np.stack([cv2.resize(photograph("rocket"), (256, 144))] * 12)
    joined = camera_path(np.concatenate([frames, other]))
    assert np.isinf(joined.steps[11]).all()
    assert joined.answers() == {}
    board = np.full((144, 256, 3), 200, np.uint8)
    walking = np.repeat(board[None], 12, axis=0)
    for number, frame in enumerate(walking):
        frame[20:130, 60 + 3 * number : 120 + 3 * number] = frames[0, 20:130, 60:120]
    assert camera_path(walking).answers() == {}, "all that can be tracked is one object"


def global_steps(motion: RealMotion) -> np.ndarray:
    """Return what the vectors say of the content's motion, as `RealMotion.steps`."""
    vectors = -motion.vectors.reshape(-1, *motion.vectors.shape[2:])
    sides = np.abs(np.linspace(-1, 1, 37)[:-1] + 1 / 36) / 2
    sign = np.sign(np.linspace(-1, 1, 37)[:-1] + 1 / 36)
    growth = (vectors[..., 0] * sign / sides / 2).mean(axis=(1, 2))
    return np.stack([vectors[..., 0].mean(axis=(1, 2)), vectors[..., 1].mean(axis=(1, 2)) * 144 / 256, growth], axis=1)


def test_variants_change_vectors_and_answers_alike():
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 0.01, (48, 3)).astype(np.float32)
    steps[0] = 0
    still = RealMotion(np.zeros((2, 24, 20, 36, 2), np.float32), np.ones((2, 24, 20, 36), bool), 0 * steps)
    motion = real_motion._add(still, steps)
    np.testing.assert_allclose(global_steps(motion), steps, atol=1e-5)
    sums = set()
    for _ in range(20):
        variant = random_variant(motion, rng)
        np.testing.assert_allclose(global_steps(variant), variant.steps, atol=1e-4)
        assert variant.vectors.shape == motion.vectors.shape
        assert variant.valid.dtype == bool
        sums.add(round(float(variant.steps[:, 0].sum()), 4))
    assert len(sums) > 10


def test_footage_is_read_once(clip_mp4, tmp_path):
    found = read_real_motion(clip_mp4, tmp_path, 2)
    assert found is not None
    assert found.steps.shape == (24 * len(found.vectors), 3)
    (cached,) = tmp_path.iterdir()
    before = cached.stat().st_mtime_ns
    again = read_real_motion(clip_mp4, tmp_path, 2)
    assert np.array_equal(again.vectors, found.vectors)
    assert cached.stat().st_mtime_ns == before
    (tmp_path / "text.mp4").write_bytes(b"no video")
    assert read_real_motion(tmp_path / "text.mp4", tmp_path, 2) is None


def test_free_wordings():
    rng = np.random.default_rng(0)
    texts = {question: {free_wording(question, rng) for _ in range(600)} for question in ANSWERS}
    for question, found in texts.items():
        assert len(found) > 40, question
        held_out = {*HELD_OUT_QUESTIONS[question], *FURTHER_HELD_OUT[question]}
        assert not any(text.startswith(wording) for text in found for wording in held_out)
        others = set().union(*(texts[other] for other in ANSWERS if other != question))
        assert not found & others, "a wording asks one thing"
    pairs = {}
    for _ in range(60):
        turns = free_turns({ZOOM: "closer"}, rng)
        pairs |= {
            turn.text.lower().rstrip("?"): reply.text for turn, reply in zip(turns[::2], turns[1::2], strict=True)
        }
    assert {pairs[text] for text in pairs if text in MOVES_QUESTIONS} == {"yes"}
    assert {pairs[text] for text in pairs if text in STILL_QUESTIONS} == {"no"}
    assert {reply for text, reply in pairs.items() if "yes" != reply != "no" and " camera " not in reply} >= {"closer"}


def test_the_middle_of_a_long_video_is_read_by_its_global_motion(codebooks, tokens):
    model = make_model(codebooks)
    video = tokens.first_quantizers(1)
    model.settings = VideoSettings(motion_quantizers=1, max_clips=1, global_motion_clips=2)
    whole = [torch.from_numpy(model.vocabulary.ids(video, [clip])) for clip in (0, 1)]
    expected = torch.cat([whole[0], global_motion_ids(model.vocabulary, whole[1])])
    assert model_input(model, EncodedVideo(video)).ids.tolist() == expected.tolist()
    assert len(global_motion_ids(model.vocabulary, whole[1])) == model.vocabulary.num_global_motion_ids + 2
    assert VideoSettings(max_clips=2, global_motion_clips=3).whole_clips(range(5)) == [True, False, False, False, True]
    assert VideoSettings(max_clips=2).whole_clips(range(2)) == [True, True]
    with pytest.raises(ValueError, match="features"):
        VideoInput.from_tokens(model.vocabulary, video, [0, 1], features=[{}, {}], whole=[True, False])
