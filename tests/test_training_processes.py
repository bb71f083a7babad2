"""Codebooks that two processes train together: the statistics of both count, as if one process had seen all."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


def test_statistics_of_all_processes_move_the_codebooks(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CODE, Path(__file__).parent, tmp_path]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    expected, (first, second) = trained(), (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in expected.items():
        for found in (first[name], second[name]):
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-5, msg=name)
    # a share of the rows alone would have moved them elsewhere
    alone = trained(rank=1)
    for name in ("single.codes", "single.usage", "residual.first_error", "thresholds.values"):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(alone[name], expected[name], rtol=1e-3, atol=1e-3)
