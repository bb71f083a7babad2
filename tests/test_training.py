"""The training loop and its data, on a clip and photographs made here and a model of one parameter."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from keyframe_sizes import SIZES
from safetensors import safe_open
from safetensors.torch import load_file

from codec import ClipSpec, VideoWriter
from videotok.cli.main import main
from videotok.keyframes import KeyframeTokenizer
from videotok.training.checkpoint import export_weights, load_best
from videotok.training.dataset import SPLIT_VERSION, Batches, Cache, Row, validation_batches
from videotok.training.prepare import prepare
from videotok.training.trainer import Plan, train
from videotok.virtual_camera import photograph

SPEC = ClipSpec(frames=8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """20 frames of a picture that moves right by 4 pixels per frame, two photographs, and a file that is no video."""
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
    result = prepare(footage, folder, SPEC)
    assert (result.clips, result.photos) == (3, 2)
    assert list(result.refused) == ["camera/text.mp4"]
    assert prepare(footage, folder, SPEC) == result, "finished shards are kept and counted again"
    return Cache(folder)


def test_cache_keeps_pictures_and_motion(cache):
    first, second, last = (row.clip() for row in cache.clips())
    assert first["frames"].shape == (8, 144, 256, 3)
    assert (int(second["num_frames"]), int(last["num_frames"])) == (8, 4)
    np.testing.assert_array_equal(first["next_keyframe_frame"], second["frames"][0])
    np.testing.assert_array_equal(first["next_vectors0"], second["vectors"][0])
    assert "next_keyframe_frame" not in last
    np.testing.assert_array_equal(last["frames"][3], last["frames"][7], "the last frame is repeated past the end")
    moved = first["vectors"][2:8][first["valid"][2:8]]
    # the content moves right, so it stood further left one step earlier
    assert np.median(moved, axis=0) == pytest.approx([-4 / 256, 0], abs=1e-3)


def test_cache_pictures_for_keyframes(cache):
    assert cache.clips()[0].picture()["keyframe"].shape == (256, 256, 3)
    assert {min(row.picture()["photo"].shape[:2]) for row in cache.photos()} == {256}


def test_folder_that_is_no_cache_is_refused(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="videotok train prepare"):
        Cache(tmp_path)
    assert main(["train", "motion", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_processes_share_the_rows_of_a_step(cache):
    rows = cache.clips()

    def read(row: Row) -> dict:
        return {"row": np.asarray(rows.index(row))}

    def make(size: int) -> Batches:
        return Batches(
            rows, read, lambda items, rng: {"row": torch.tensor([int(item["row"]) for item in items])}, size, 5, seed=3
        )

    whole = [batch["row"].tolist() for batch in make(4).from_step(0, 0)]
    shares = [[batch["row"].tolist() for batch in make(4).from_step(0, 0, process, 2)] for process in range(2)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(row) for row in whole]
    assert len({tuple(row) for row in whole}) > 1


class Level(ModelMixin, ConfigMixin):
    """One number and a bias that starts at zero."""

    @register_to_config
    def __init__(self):
        super().__init__()
        self.level = torch.nn.Parameter(torch.zeros(1, 1))
        self.bias = torch.nn.Parameter(torch.zeros(1))


class LevelTask:
    """Learns the mean brightness of clips; noise in the loss makes wrong seeding visible."""

    noise = 0.1

    def __init__(self):
        self.model = Level()
        self.progress = []

    def prepare(self, items, rng):
        flip = rng.random() < 0.5
        values = [item["frames"][:, ::-1] if flip else item["frames"] for item in items]
        return {"x": torch.tensor([value.mean() / 255 for value in values], dtype=torch.float32)}

    def initialize(self, batches):
        """Nothing to set from data."""

    def loss(self, batch, progress):
        self.progress.append(progress)
        noise = torch.randn_like(batch["x"]) * self.noise
        return ((self.model.level + self.model.bias - batch["x"] - noise) ** 2).mean(), {"progress": progress}

    def validate(self, batches):
        model = self.model
        error = torch.stack([(model.level + model.bias - batch["x"]).square().mean() for batch in batches]).mean()
        return {"psnr": float(-10 * torch.log10(error))}


PLAN = Plan(steps=40, batch_size=2, learning_rate=0.02, warmup_steps=4, save_every=10)


def run(cache, out, *, stop_at=None, resume=False, plan=PLAN, task=None):
    """Train a LevelTask; interrupted after `stop_at` steps if given."""
    task = task or LevelTask()
    batches = Batches(cache.clips(), Row.clip, task.prepare, plan.batch_size, plan.steps, plan.seed)
    validation = validation_batches(cache.clips(), Row.clip, task.prepare, 2, 3)

    def report(step, figures):
        if step == stop_at:
            raise KeyboardInterrupt

    return train(task, batches, validation, plan, out, resume=resume, report=report), task


def checkpoint_tensors(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint.safetensors")


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(cache, tmp_path):
    record, task = run(cache, tmp_path / "whole")
    assert [entry["step"] for entry in record["validation"]] == [10, 20, 30, 40]
    assert record["validation"][-1]["psnr"] > record["validation"][0]["psnr"] + 3
    assert json.loads((tmp_path / "whole" / "run.json").read_text()) == json.loads(json.dumps(record))
    assert record["items_per_second"] > 0

    with pytest.raises(KeyboardInterrupt):
        run(cache, tmp_path / "broken", stop_at=23)
    with pytest.raises(FileExistsError, match="already holds a run"):
        run(cache, tmp_path / "broken")
    resumed, resumed_task = run(cache, tmp_path / "broken", resume=True)
    assert resumed_task.model.level.item() == task.model.level.item()
    assert [entry["psnr"] for entry in resumed["validation"]] == [entry["psnr"] for entry in record["validation"]]
    whole, broken = checkpoint_tensors(tmp_path / "whole"), checkpoint_tensors(tmp_path / "broken")
    assert any(name.startswith("model.average.") for name in whole)
    for name, tensor in whole.items():
        assert torch.equal(tensor, broken[name]), name


def test_kept_weights_are_the_averaged_ones(cache, tmp_path):
    run(cache, tmp_path / "run", plan=Plan(steps=20, batch_size=2, learning_rate=0.02, warmup_steps=4))
    tensors = checkpoint_tensors(tmp_path / "run")
    kept = Level.from_pretrained(tmp_path / "run" / "best").level
    assert torch.equal(kept, tensors["model.average.0"])
    assert not torch.equal(kept, tensors["model.module.level"])


def test_without_an_average_the_weights_themselves_are_kept(cache, tmp_path):
    plan = Plan(steps=6, batch_size=2, learning_rate=0.05, warmup_steps=1, average_decay=None)
    _, task = run(cache, tmp_path / "run", plan=plan)
    assert not any(".average." in name for name in checkpoint_tensors(tmp_path / "run"))
    assert torch.equal(Level.from_pretrained(tmp_path / "run" / "best").level, task.model.level)


def test_checkpoint_of_another_plan_is_refused(cache, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(cache, tmp_path / "run", stop_at=11)
    with pytest.raises(ValueError, match="was made with plan"):
        run(cache, tmp_path / "run", resume=True, plan=Plan(steps=50, batch_size=2, learning_rate=0.05))


def test_learning_rate_warms_up_and_falls_to_zero():
    plan = Plan(steps=100, batch_size=1, learning_rate=1.0, warmup_steps=10)
    factors = [plan.learning_rate_factor(step, step / 100) for step in range(101)]
    assert factors[:11] == pytest.approx([step / 10 for step in range(11)])
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert sorted(factors[10:], reverse=True) == factors[10:]
    # where time runs faster than steps, the time decides
    assert plan.learning_rate_factor(20, 0.55) == pytest.approx(0.5)


def test_a_time_limit_ends_the_run(cache, tmp_path):
    plan = Plan(steps=10**9, batch_size=2, learning_rate=0.05, warmup_steps=2, save_every=10**9, max_seconds=1.0)
    record, task = run(cache, tmp_path / "run", plan=plan)
    assert 1 <= record["seconds"] < 30
    assert task.progress == sorted(task.progress)
    assert task.progress[0] < 0.5 < task.progress[-1] < 1
    (validation,) = record["validation"]
    assert validation["step"] == len(task.progress)
    record, task = run(cache, tmp_path / "run", plan=plan, resume=True)
    assert not task.progress, "the time is used up"


def test_a_loss_that_is_not_finite_is_refused(cache, tmp_path):
    class Broken(LevelTask):
        noise = float("nan")

    with pytest.raises(FloatingPointError, match="no finite gradient; lower the learning rate"):
        run(cache, tmp_path / "run", task=Broken())


class AdversarialLevelTask(LevelTask):
    """A LevelTask with a discriminator that is trained on what the model's step left."""

    def __init__(self):
        super().__init__()
        self.discriminator = torch.nn.Linear(1, 1)
        self.order = []

    def loss(self, batch, progress):
        self.order.append("model")
        self.level = self.model.level.detach()
        return super().loss(batch, progress)

    def discriminator_loss(self, batch, progress):
        self.order.append("discriminator")
        score = self.discriminator(torch.cat([self.level, batch["x"][:1, None]]))
        return score[0].relu().sum() + (1 - score[1]).relu().sum(), {"real": score[1].item()}


def test_a_discriminator_has_its_own_optimizer(cache, tmp_path):
    torch.manual_seed(0)
    record, task = run(cache, tmp_path / "whole", task=AdversarialLevelTask())
    assert task.order == ["model", "discriminator"] * 40
    assert "discriminator_loss" not in record["validation"][-1]
    with safe_open(tmp_path / "whole" / "best" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert set(file.keys()) == {"level", "bias"}
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        run(cache, tmp_path / "broken", stop_at=23, task=AdversarialLevelTask())
    _, resumed = run(cache, tmp_path / "broken", resume=True, task=AdversarialLevelTask())
    assert torch.equal(resumed.discriminator.weight, task.discriminator.weight)
    tensors = checkpoint_tensors(tmp_path / "whole")
    assert any(name.startswith("discriminator.optimizer.") for name in tensors)
    assert not any(name.startswith("discriminator.average.") for name in tensors)


def test_export_writes_half_precision_and_the_record(cache, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no weights yet"):
        load_best(Level, tmp_path)
    record, _ = run(cache, tmp_path / "run")
    assert export_weights(load_best(Level, tmp_path / "run"), record, tmp_path / "weights") > 0
    (file,) = (tmp_path / "weights").glob("*.safetensors")
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}
    assert json.loads((tmp_path / "weights" / "run.json").read_text())["validation"] == record["validation"]
    assert str(tmp_path) not in (tmp_path / "weights" / "config.json").read_text()


def test_keyframes_are_trained_and_exported_by_command(cache, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(SIZES))
    command = ["train", "keyframes", str(cache.folder), "--out", str(tmp_path / "run"), "--workers", "0"]
    command += ["--config", str(tmp_path / "config.json"), "--steps", "2", "--batch-size", "4"]
    assert main(command) == 0, capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["data"]["split_version"], record["data"]["held_back"]) == (SPLIT_VERSION, False)
    assert record["plan"]["steps"] == 2
    capsys.readouterr()
    assert main(command) == 2
    assert "continue it with --resume" in capsys.readouterr().err
    assert main([*command[:3], "--out", str(tmp_path / "other"), "--adversarial"]) == 2
    assert "needs --lpips" in capsys.readouterr().err
    weights = tmp_path / "weights"
    assert main(["train", "export", "keyframes", str(tmp_path / "run"), str(weights)]) == 0
    assert KeyframeTokenizer.from_pretrained(weights).num_patches == KeyframeTokenizer(**SIZES).num_patches
    assert main(["train", "export", "keyframes", str(tmp_path), str(weights)]) == 2
    assert "has no weights yet" in capsys.readouterr().err


TWO_PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_training import LevelTask, PLAN, run
from videotok.training.dataset import Cache

LevelTask.noise = 0.0
_, task = run(Cache(sys.argv[1]), Path(sys.argv[2]))
print(f"level {task.model.level.item()!r} ")
_, task = run(Cache(sys.argv[1]), Path(sys.argv[2]) / "limited", plan=replace(PLAN, steps=10**9, max_seconds=1.0))
print(f"steps {len(task.progress)}")
"""


def test_two_processes_train_one_model(cache, tmp_path, monkeypatch):
    """Two processes over gloo share each batch, average their gradients, and end where one process ends."""
    monkeypatch.setattr(LevelTask, "noise", 0.0)
    _, alone = run(cache, tmp_path / "alone")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", TWO_PROCESSES, cache.folder, tmp_path / "together", Path(__file__).parent]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
    levels, steps = [], []
    for process in processes:
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        levels.append(float(re.findall(r"level (\S+)", output)[0]))
        steps.append(int(re.findall(r"steps (\d+)", output)[0]))
    assert levels[0] == levels[1]
    assert steps[0] == steps[1] > 0, "a time limit ends all processes at the same step"
    # the mean of two halves' gradients is the gradient of the whole, but for rounding
    assert levels[0] == pytest.approx(alone.model.level.item(), rel=1e-4)
    record = json.loads((tmp_path / "together" / "run.json").read_text())
    assert record["processes"] == 2
    assert len(list((tmp_path / "together" / "best").iterdir())) == 2
