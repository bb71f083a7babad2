"""The training loop and its cache, on a clip and photographs made here and a model of one number."""

import cv2
import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from codec import ClipSpec, VideoWriter
from videotok.training.dataset import Batches, Cache, Row, is_validation, validation_batches
from videotok.training.prepare import prepare
from videotok.training.trainer import Plan, train
from videotok.virtual_camera import photograph

SPEC = ClipSpec(frames=8, fps=12)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """20 frames of a picture that moves right by 4 pixels a frame, two photographs and a file that is no video."""
    footage = tmp_path_factory.mktemp("footage")
    (footage / "camera").mkdir()
    picture = cv2.resize(photograph("coffee"), (400, 144), interpolation=cv2.INTER_AREA)
    with VideoWriter(footage / "camera" / "pan.mp4", 12, (256, 144)) as writer:
        for step in range(20):
            writer.write(np.ascontiguousarray(picture[:, 120 - 4 * step : 376 - 4 * step]))
    cv2.imwrite(str(footage / "a.jpg"), photograph("chelsea"))
    cv2.imwrite(str(footage / "b.png"), photograph("rocket"))
    (footage / "camera" / "text.mp4").write_text("not a video")
    folder = tmp_path_factory.mktemp("cache")
    found = prepare(footage, folder, SPEC)
    assert (found.clips, found.photos) == (3, 2)
    assert list(found.refused) == ["camera/text.mp4"]
    assert prepare(footage, folder, SPEC) == found, "finished shards are kept and counted again"
    return Cache(folder)


def test_cache_keeps_pictures_and_motion(cache):
    first, second, tail = (row.clip() for row in cache.clips())
    assert first["frames"].shape == (8, 144, 256, 3)
    assert (int(second["num_frames"]), int(tail["num_frames"])) == (8, 4)
    np.testing.assert_array_equal(first["next_keyframe_frame"], second["frames"][0])
    np.testing.assert_array_equal(first["next_vectors0"], second["vectors"][0])
    assert "next_keyframe_frame" not in tail
    np.testing.assert_array_equal(tail["frames"][3], tail["frames"][7], "the last frame is held past the end")
    moved = first["vectors"][2:8][first["valid"][2:8]]
    # the content moves right, so it stood further left one step earlier
    assert np.median(moved, axis=0) == pytest.approx([-4 / 256, 0], abs=1e-3)


def test_cache_pictures_for_keyframes(cache):
    assert cache.clips()[0].picture()["keyframe"].shape == (256, 256, 3)
    assert {min(row.picture()["photo"].shape[:2]) for row in cache.photos()} == {256}


def test_parts_of_one_recording_stay_on_one_side():
    for name in ("droid/tri_1", "camera/walk-3", "misc/dog"):
        assert len({is_validation(f"{name}{part}.mp4") for part in ("", "_2", "-17", "_2-4")}) == 1
    share = np.mean([is_validation(f"droid/clip{chr(97 + i % 26)}{i * 7919}x.mp4") for i in range(2000)])
    assert 0.03 < share < 0.07


def test_folder_that_is_no_cache_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="videotok train prepare"):
        Cache(tmp_path)


class Mean(ModelMixin, ConfigMixin):
    """Learns the mean brightness; noise in its loss makes wrong seeding visible."""

    @register_to_config
    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(1, 1))


class MeanTask:
    def __init__(self):
        self.model = Mean()

    def prepare(self, items, rng):
        flip = rng.random() < 0.5
        values = [item["frames"][:, ::-1] if flip else item["frames"] for item in items]
        return {"x": torch.tensor([value.mean() / 255 for value in values])}

    def initialise(self, batches):
        """Nothing to start from."""

    def loss(self, batch, progress):
        noise = torch.randn_like(batch["x"]) * 0.1
        return ((self.model.level - batch["x"] - noise) ** 2).mean(), {"progress": progress}

    def validate(self, batches):
        error = torch.stack([(self.model.level - batch["x"]).square().mean() for batch in batches]).mean()
        return {"psnr": float(-10 * torch.log10(error))}


def run(cache, out, steps_at_once=None, resume=False):
    """One run of 40 steps, stopped early after `steps_at_once` if given."""
    task = MeanTask()
    plan = Plan(steps=40, batch_size=2, learning_rate=0.05, warmup_steps=4, save_every=10)
    batches = Batches(cache.clips(), Row.clip, task.prepare, plan.batch_size, plan.steps, plan.seed)
    held_back = validation_batches(cache.clips(), Row.clip, task.prepare, 2, 3)

    def report(step, figures):
        if step == steps_at_once:
            raise KeyboardInterrupt

    return train(task, batches, held_back, plan, out, resume=resume, report=report), task.model.level.item()


def test_run_learns_and_a_resumed_run_ends_where_an_unbroken_one_does(cache, tmp_path):
    record, level = run(cache, tmp_path / "whole")
    assert [entry["step"] for entry in record["validation"]] == [10, 20, 30, 40]
    assert record["validation"][-1]["psnr"] > record["validation"][0]["psnr"] + 3
    assert (tmp_path / "whole" / "best" / "config.json").is_file()

    with pytest.raises(KeyboardInterrupt):
        run(cache, tmp_path / "broken", steps_at_once=23)
    with pytest.raises(FileExistsError, match="--resume"):
        run(cache, tmp_path / "broken")
    resumed, resumed_level = run(cache, tmp_path / "broken", resume=True)
    assert resumed_level == level
    assert [entry["psnr"] for entry in resumed["validation"]] == [entry["psnr"] for entry in record["validation"]]


def test_checkpoint_of_another_plan_is_refused(cache, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(cache, tmp_path / "run", steps_at_once=11)
    task = MeanTask()
    plan = Plan(steps=50, batch_size=2, learning_rate=0.05)
    batches = Batches(cache.clips(), Row.clip, task.prepare, 2, 50, 0)
    with pytest.raises(ValueError, match="was made with plan"):
        train(task, batches, [], plan, tmp_path / "run", resume=True)
