"""Steps of training on a GPU that is simulated on the CPU: as on the CPU but for rounding."""

from functools import partialmethod

import pytest
import torch
from tiny_tasks import PLAN, TASKS, make

from tests.fake_device import fake_device
from videotok.keyframes.train import TrainingOptions
from videotok.training import trainer


def prepared(name):
    """Return an initialized task, and its first batch."""
    task, batches = make(name)
    if name == "keyframes":  # shapes that do not depend on the picture, as on every GPU
        task.options = TrainingOptions(static_shapes=True)
    task.initialize(batches.from_step(0, 0))
    task.model.train()
    return task, next(batches.from_step(0, 0))


def step(task, batch):
    """Take a step of training; return the loss."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(task.model.parameters(), 1e-3, foreach=False)
    loss, figures = task.loss(batch, 0.5)
    loss.backward()
    optimizer.step()
    assert all(isinstance(value, float) for value in figures.values())
    return loss.item()


def moved(batch, device):
    return {name: value.to(device) for name, value in batch.items()} if isinstance(batch, dict) else batch.to(device)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("name", TASKS)
def test_a_step_of_training_is_the_same(name, kind):
    task, batch = prepared(name)
    expected = step(task, batch)
    on_gpu, batch = prepared(name)
    with fake_device(kind) as device:
        on_gpu.model.to(kind)
        if name == "language model":  # the simulation moves tied weights one by one
            on_gpu.model.model.tie_weights()
        batch = moved(batch, kind)
        device.clear()
        assert step(on_gpu, batch) == pytest.approx(expected, rel=1e-3, abs=1e-4)
        found = {part: value.to("cpu") for part, value in on_gpu.model.state_dict().items()}
    assert device.launches.total() > 100
    for part, value in task.model.state_dict().items():
        torch.testing.assert_close(
            found[part], value, rtol=1e-3, atol=1e-4, msg=lambda text, part=part: f"{part}: {text}"
        )


def test_another_gpu_than_the_first_is_taken(tmp_path, monkeypatch):
    taken = []

    def begin(**options):
        raise InterruptedError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(trainer, "Accelerator", begin)
    for device in ("cuda:1", "cuda", "cpu"):
        with pytest.raises(InterruptedError):
            trainer.train(*make("motion"), [], PLAN, tmp_path / device, device=device)
    assert taken == [torch.device("cuda", 1)]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Dynamo's own
def test_compiled_blocks_learn_the_same(tmp_path, monkeypatch):
    # without a C++ compiler, whose code is torch's affair
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="eager"))
    losses = []
    for compiled in (False, True):
        task, batches = make("motion")
        plan = trainer.Plan(2, 8, 1e-3, warmup_steps=1, save_every=2, compile=compiled)
        record = trainer.train(task, batches, [], plan, tmp_path / str(compiled), device="cpu")
        losses.append(record["validation"][0]["loss"])
        compiled_parts = [part for part in task.model.modules() if part._compiled_call_impl is not None]
        assert bool(compiled_parts) == compiled
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
