"""Two processes that train together: every kind of model, resumed as if never stopped; and codebooks, for which the
statistics of both count as if one process had seen all."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_tasks import TASKS, make

from motion_vq.vector_quantizer import ResidualQuantizer, VectorQuantizer
from videotok.keyframes.selector import KeepThresholds

STEPS = 3
CODE = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from test_training_processes import trained
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
torch.save(trained(rank), sys.argv[2] + f"/{rank}.pt")
torch.distributed.destroy_process_group()
"""

TRAINING = """
import os
import sys
from pathlib import Path
import torch
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
import tiny_tasks
from videotok.training import trainer

out = Path(sys.argv[2])
validations = lambda batches: [next(iter(batches.from_step(9, 0)))]


def run(name, folder, stop_after=None, resume=False):
    task, batches = tiny_tasks.make(name)
    criterion = None if name == "language model" else "psnr"
    step = trainer._Run.step

    def counted_step(self, batch, number, progress):
        if number == stop_after:
            raise InterruptedError
        return step(self, batch, number, progress)

    trainer._Run.step = counted_step
    try:
        options = {"resume": resume, "criterion": criterion, "device": "cpu"}
        return trainer.train(task, batches, validations(batches), tiny_tasks.PLAN, folder, **options)
    except InterruptedError:
        return None
    finally:
        trainer._Run.step = step


for name in tiny_tasks.TASKS:
    record = run(name, out / name)
    assert record["processes"] == 2
    assert run(name, out / f"{name} resumed", stop_after=2) is None
    resumed = run(name, out / f"{name} resumed", resume=True)
    # the others do not validate
    assert os.environ["RANK"] != "0" or resumed["validation"] == record["validation"]
"""


def trained(rank=None):
    """Return the buffers after some steps on rows of one process of two, or on all rows."""
    torch.manual_seed(0)
    # no code is dead: which code starts again where is drawn by each process
    single = VectorQuantizer(8, 4, normalized=True, reset_below=0.0)
    residual = ResidualQuantizer(4, 8, tokens_per_quantizer=6, num_quantizers=2, num_stages=4)
    for stage in residual.stages:
        stage.set_codes(0.3 * torch.randn(8, 4))
        stage.reset_below = 0.0
    thresholds = KeepThresholds(9)
    for step in range(STEPS):
        torch.manual_seed(step)  # each process draws its own numbers meanwhile
        vectors = torch.nn.functional.normalize(torch.randn(40, 4), dim=-1)
        latents, scores = torch.randn(4, 6, 4), torch.randn(4, 6)
        rows, clips = (slice(None),) * 2
        if rank is not None:
            # shares of different sizes, and of different difficulty: one process uses fewer stages than the other
            rows = slice(0, 10) if rank == 0 else slice(10, None)
            clips = slice(0, 1) if rank == 0 else slice(1, None)
        single.update(vectors[rows], single.nearest(vectors[rows]))
        residual.train()(latents[clips], 2)
        thresholds.update(scores[clips], 0.5)
    parts = {"single": single, "residual": residual, "thresholds": thresholds}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def run_in_two_processes(code, *arguments):
    """Run Python code in two processes of one group, with their rank in the environment as `accelerate launch` does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", code, Path(__file__).parent, *map(str, arguments)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_statistics_of_all_processes_move_the_codebooks(tmp_path):
    run_in_two_processes(CODE, tmp_path)
    expected, (first, second) = trained(), (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in expected.items():
        for found in (first[name], second[name]):
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5, msg=name)
    # a share of the rows alone would have moved them elsewhere
    alone = trained(rank=1)
    for name in ("single.codes", "single.usage", "residual.first_error", "thresholds.values"):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(alone[name], expected[name], rtol=1e-3, atol=1e-3)


def test_every_model_trains_in_two_processes_and_resumes(tmp_path):
    run_in_two_processes(TRAINING, tmp_path)
    for name in TASKS:
        whole, resumed = (
            load_file(tmp_path / folder / "checkpoint.safetensors") for folder in (name, f"{name} resumed")
        )
        assert whole.keys() == resumed.keys()
        for part, value in whole.items():
            torch.testing.assert_close(resumed[part], value, rtol=0, atol=0, msg=f"{name}: {part}")
        # the weights moved
        first = make(name)[0].model.state_dict()
        moved = [part for part, value in first.items() if not torch.equal(value, whole[f"model.module.{part}"])]
        assert moved, name
