"""benchmarks.motion_qa: scenes move as their answers say, and the whole benchmark on a tiny set."""

import itertools
import json
import sys
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import motion_qa
from benchmarks import motion_question_models as models
from codec import VideoWriter, iter_clips
from videotok.lm.motion_questions import encoded_videos, footage, labeled_videos, scenes
from videotok.lm.motion_questions.labeled_videos import (
    LabeledVideo,
    augment,
    encode_and_read,
    kind_of,
    mirror,
    reverse_time,
)
from videotok.pipeline import VideoTokenizer
from videotok.virtual_camera import Layer, Scene, constant_speed, photograph

COFFEE, CAT = (lambda seconds: photograph("coffee")), (lambda seconds: photograph("chelsea"))
SIGNS = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}
"""Axis of the vectors and their sign: what stood further right before means a camera that goes right."""


def read(example: scenes.Example) -> LabeledVideo:
    return encode_and_read(example, 0)


@pytest.mark.parametrize("seed", [1, 4, 5])
def test_a_pan_has_the_motion_of_its_answer(seed):
    video = read(scenes.pan_example(np.random.default_rng(seed), COFFEE))
    axis, sign = SIGNS[video.answers[scenes.CAMERA]]
    vectors = np.median(video.vectors[0, 1:], axis=(1, 2)) * scenes.SIZE
    assert np.sign(np.median(vectors[:, axis])) == sign
    assert np.abs(vectors[:, axis]).mean() > np.abs(vectors[:, 1 - axis]).mean()
    speeds = np.abs(vectors[:, axis])
    assert (speeds[-6:].mean() > speeds[:6].mean()) == (video.answers[scenes.SPEED] == "faster")


def test_an_object_has_the_motion_of_its_answer():
    video = read(scenes.object_example(np.random.default_rng(3), COFFEE, CAT))
    moved = video.vectors[0, 1:, 4:16, 6:30, 0]
    fastest = moved[np.abs(moved) > np.abs(moved).max() / 2]
    # content that goes left stood further right before
    assert (np.median(fastest) > 0) == (video.answers[scenes.OBJECT] == "left")


def test_augmentation_changes_answers_and_vectors_alike():
    video = read(scenes.pan_example(np.random.default_rng(1), COFFEE))
    axis, sign = SIGNS[video.answers[scenes.CAMERA]]
    for turned in (mirror(video, True, False), mirror(video, False, True), reverse_time(video)):
        axis, sign = SIGNS[turned.answers[scenes.CAMERA]]
        assert np.sign(np.median(turned.vectors[0, 1:, ..., axis])) == sign
        assert turned.vectors.shape == video.vectors.shape
    turned = reverse_time(video)
    assert turned.answers[scenes.SPEED] != video.answers[scenes.SPEED]
    np.testing.assert_array_equal(turned.keyframes[0], video.keyframes[1])
    np.testing.assert_allclose(turned.vectors[0, 3], -video.vectors[0, 22])
    twice = mirror(mirror(video, True, True), True, True)
    np.testing.assert_array_equal(twice.vectors, video.vectors)
    assert twice.answers == video.answers


def test_further_frames_follow_each_other_and_go_with_every_variant():
    example = scenes.pan_example(np.random.default_rng(1), COFFEE)
    rendered = np.stack(list(example.frames()))
    video = encode_and_read(example, 0, with_further_frames=True)
    assert encode_and_read(example, 0).further_frames is None
    frames = video.further_frames
    assert frames is not None
    assert frames.shape == (labeled_videos.FURTHER_FRAMES, 144, 256, 3)

    def nearest(pictures: np.ndarray) -> list[int]:
        errors = [[np.abs(picture.astype(int) - one).mean() for one in rendered.astype(int)] for picture in pictures]
        return np.argmin(errors, axis=1).tolist()

    # even steps from the first keyframe, frame 0, to the second one, frame 24
    assert nearest(frames) == [5, 10, 14, 19]
    backwards = augment(video, 4).further_frames
    assert backwards is not None
    assert nearest(backwards) == [19, 14, 10, 5]
    np.testing.assert_array_equal(augment(video, 1).further_frames, frames[:, :, ::-1])
    np.testing.assert_array_equal(augment(video, 7).further_frames, frames[::-1, ::-1, ::-1])
    assert augment(video, 8).further_frames is None


def test_zoom_is_travel_and_a_pan_is_not():
    def motion_of(path):
        frames = Scene([Layer(photograph("coffee"), path)], scenes.SIZE)
        with tempfile.TemporaryDirectory() as folder:
            with VideoWriter(Path(folder) / "a.mp4", Fraction(12), scenes.SIZE) as writer:
                for index in range(26):
                    writer.write(frames.frame(index / 12))
            return next(iter_clips(Path(folder) / "a.mp4", motion_source="native")).motion

    assert footage.zoom_rate(motion_of(constant_speed(zoom=1.15))) > footage.MIN_ZOOM_RATE
    assert footage.zoom_rate(motion_of(constant_speed(zoom=1 / 1.15))) > footage.MIN_ZOOM_RATE
    assert footage.zoom_rate(motion_of(constant_speed(pan=(0.1, 0.05)))) < footage.MIN_ZOOM_RATE


def test_more_frames_stand_between_the_keyframes_in_the_order_of_time(tiny_model, tmp_path):
    tokenizer = VideoTokenizer.from_pretrained(str(tiny_model))
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 0.01, (2, 24, 20, 36, 2)).astype(np.float32)
    pictures = rng.integers(0, 255, (6, 144, 256, 3)).astype(np.uint8)
    video = LabeledVideo(
        pictures[[0, 5]], vectors, np.ones(vectors.shape[:4], bool), {scenes.CAMERA: "left"}, pictures[1:5]
    )

    def encoded(videos, **options):
        return list(
            encoded_videos.encode_videos(iter(videos), tokenizer, tmp_path, "test", tokens_per_keyframe=4, **options)
        )

    forwards, mirrored, backwards = encoded([video], variants=(0, 1, 4), with_further_frames=True)
    alone = encoded([replace(video, keyframes=pictures[[n, n]]) for n in range(6)])  # every frame as a keyframe
    model = models.new_model("more frames", tokenizer, forwards, 1, seed=0)

    def ids(form, shown, **options):
        return models.video_input(form, shown, model.vocabulary, **options).ids.tolist()

    def joined(parts):
        return list(itertools.chain(*parts))

    expected = [ids("keyframe", each) for each in alone]
    assert len({tuple(each) for each in expected}) == 6
    assert ids("more frames", forwards) == joined(expected)
    assert ids("more frames", backwards) == joined(expected[::-1])
    assert ids("more frames", forwards, with_keyframes=False) == joined(expected[1:5])
    turned = encoded([replace(video, keyframes=np.flip(pictures[[1, 4]], 2))], variants=(0, 4))[0]
    between = ids("more frames", mirrored, with_keyframes=False)
    assert between[: len(ids("keyframe", turned))] == ids("keyframe", turned)

    without = encoded([video], variants=(0, 1))[0]  # its cache is another one
    assert without.further_frames is None
    assert ids("keyframes", without) == ids("keyframes", forwards)
    with pytest.raises(ValueError, match="without further frames"):
        ids("more frames", without)
    with pytest.raises(ValueError, match="without further frames"):
        encoded([replace(video, further_frames=None)], with_further_frames=True)
    with pytest.raises(ValueError, match="allowed are 0 to 7"):
        encoded([video], variants=(0, 8), with_further_frames=True)


def test_every_question_is_a_document_of_its_own(tiny_model):
    tokenizer = VideoTokenizer.from_pretrained(str(tiny_model))
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 0.01, (2, 24, 20, 36, 2)).astype(np.float32)
    pictures = rng.integers(0, 255, (2, 144, 256, 3)).astype(np.uint8)
    answers = {scenes.CAMERA: "left", scenes.SPEED: "faster"}
    video = LabeledVideo(pictures, vectors, np.ones(vectors.shape[:4], bool), answers)
    with tempfile.TemporaryDirectory() as folder:
        found, again = (
            list(
                encoded_videos.encode_videos(
                    iter([video]), tokenizer, Path(folder), "train", variants=(0, 5), tokens_per_keyframe=4
                )
            )
            for _ in range(2)
        )
    assert [each.answers for each in found] == [answers, {scenes.CAMERA: "left", scenes.SPEED: "slower"}]
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.tokens.motion_ids, other.tokens.motion_ids)
    model = models.new_model("raw field", tokenizer, found[0], 1, seed=0)
    forms = [form for form in models.FORMS if form != "more frames"]
    lengths = [len(models.video_input(form, found[0], model.vocabulary).ids) for form in forms]
    assert lengths[0] < lengths[1] < lengths[2] == lengths[3] == lengths[4]
    assert not len(models.video_input("keyframes", found[0], model.vocabulary, with_keyframes=False).ids)
    bare = models.video_input("motion ids", found[0], model.vocabulary, with_keyframes=False).ids
    assert len(bare) == lengths[2] - lengths[1]
    documents = models.training_documents("motion ids", found[0], model, rng)
    answers = [
        str(model.tokenizer.decode(each.ids[each.is_target], skip_special_tokens=True)).strip() for each in documents
    ]
    assert answers == ["left", "faster"]


def test_shares_of_kinds_are_kept():
    kinds = [kind_of(index) for index in range(200)]
    assert {kind: kinds.count(kind) / 200 for kind in labeled_videos.KIND_SHARES} == pytest.approx(
        labeled_videos.KIND_SHARES
    )


def test_the_whole_benchmark(tmp_path, clip_mp4, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(labeled_videos, "KIND_SHARES", {"pan": 0.3, "count": 0.7})
    monkeypatch.setattr(motion_qa, "TRAIN_VARIANTS", (0, 5))
    monkeypatch.setattr(motion_qa, "TOKENS_PER_KEYFRAME", 4)
    monkeypatch.setattr("benchmarks.motion_question_models.WIDTH", 32)
    monkeypatch.setattr(labeled_videos, "FOOTAGE_SHARE", 0.0)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        cv2.imwrite(str(photos / f"{number}.png"), np.roll(photograph("chelsea"), 20 * number, axis=1))
    command = [
        "motion_qa",
        str(photos),
        "--still",
        str(tmp_path),
        "--moving",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    command += [
        "--cache",
        str(tmp_path / "cache"),
        "--train",
        "2",
        "--test",
        "2",
        "--steps",
        "2",
        "--model",
        str(tiny_model),
    ]
    monkeypatch.setattr(sys, "argv", command)
    motion_qa.main()
    # words of the table, which may be wrapped
    assert {"raw", "frames", "ids"} <= set(capsys.readouterr().out.split())
    results = json.loads((tmp_path / "out" / "motion_qa.json").read_text())
    asked = {question: score["questions"] for question, score in results["rows"]["motion ids"].items()}
    assert asked == {scenes.CAMERA: 1, scenes.SPEED: 1, scenes.COUNT: 1}
    assert results["rows"].keys() == results["mean_ids"].keys() == set(models.FORMS)
    assert results["mean_ids"]["keyframes"] < results["mean_ids"]["more frames"]
    motion_qa.main()  # everything is there: clips, codes, models
    assert json.loads((tmp_path / "out" / "motion_qa.json").read_text()) == results
