"""The number of CPU threads: affinity, containers, and `--threads`."""

import os
import subprocess
import sys

import cv2
import pytest
import torch
import typer

from videotok import EncodeConfig, VideoTokenizer
from videotok.cli.main import app, main
from videotok.errors import CorpusError
from videotok.threads import WAIT_VARIABLES, available_cores, limit_threads

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, ALL),
        ({"cpu.max": "max 100000\n"}, ALL),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, ALL),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, ALL),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "0\n"}, ALL),
        ({"cpu.max": "nonsense"}, ALL),
        # a service or a batch job, and the groups around it
        ({"0::": "/jobs/7", "jobs/7/cpu.max": "100000 100000\n"}, 1),
        ({"0::": "/jobs/7", "jobs/cpu.max": "100000 100000\n", "jobs/7/cpu.max": "max 100000\n"}, 1),
        ({"0::": "/jobs/7", "jobs/8/cpu.max": "100000 100000\n"}, ALL),
        ({"0::": "/jobs/7", "cpu.max": "100000 100000\n"}, 1),  # a container that reads its path on the host
        ({"0::": "/", "cpu.max": "100000 100000\n"}, 1),
        ({"4:cpu,cpuacct:": "/job", "cpu/job/cpu.cfs_quota_us": "90000\n", "cpu/job/cpu.cfs_period_us": "100000"}, 1),
        ({"4:cpuset:": "/job", "cpu/job/cpu.cfs_quota_us": "90000\n", "cpu/job/cpu.cfs_period_us": "100000"}, ALL),
    ],
)
def test_cores_of_a_container(tmp_path, files, cores):
    membership = tmp_path / "proc"
    membership.write_text("".join(f"{name}{path}\n" for name, path in files.items() if ":" in name))
    for name, text in files.items():
        if ":" not in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    assert available_cores(tmp_path, membership) == cores


def test_no_control_groups_at_all(tmp_path):
    assert available_cores(tmp_path / "none", tmp_path / "neither") == ALL


def test_threads_are_those_asked_for(monkeypatch):
    before, before_of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    try:
        limit_threads(1)
        assert torch.get_num_threads() == cv2.getNumThreads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        limit_threads()
        assert torch.get_num_threads() == cv2.getNumThreads() == 1
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(before_of_opencv)


COMMANDS = ("encode", "decode", "eval", "corpus encode", "train keyframes", "train motion", "train detokenizer")
COMMANDS += ("lm train", "lm ask", "lm generate", "inspect", "demo", "corpus search")


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_run_models_say_where(name):
    command = typer.main.get_command(app)
    for part in name.split():
        command = command.commands[part]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--device", "--threads"} <= options


def test_devices_and_threads_out_of_range_are_refused(capsys):
    for wrong in (["--device", "tpu"], ["--threads", "0"]):
        assert main(["decode", "no.vtok", *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused where there is no GPU")
@pytest.mark.parametrize("name", ["encode", "decode", "eval", "inspect", "demo", "lm ask", "lm generate"])
def test_an_absent_device_is_refused_in_one_line(name, clip_mp4, tiny_model, tmp_path, capsys):
    if name == "demo":
        pytest.importorskip("gradio")
    if name.startswith("lm"):
        pytest.importorskip("transformers")
    video, out = str(clip_mp4), str(tmp_path / "out")
    if name == "decode":
        video = str(tmp_path / "clip.vtok")
        VideoTokenizer.from_pretrained(tiny_model).encode(clip_mp4, EncodeConfig(max_clips=1)).save(video)
    options = {
        "encode": [video, "-o", out],
        "decode": [video, "-o", f"{out}.mp4"],
        "eval": [video, "-o", f"{out}.html"],
        "inspect": [video, "--tokens", "-o", f"{out}.html"],
        "demo": [],
        "lm ask": [video, "What is it?"],
        "lm generate": ["A cat.", "-o", f"{out}.mp4"],
    }[name]
    model = ["--video-model" if name.startswith("lm") else "--model", str(tiny_model)]
    assert main([*name.split(), *options, *model, "--device", "cuda"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no device cuda on this machine; choose auto or cpu" in line
    assert not list(tmp_path.glob("out*"))


def test_threads_of_corpus_workers_share_the_cores():
    pipeline = pytest.importorskip("videotok.corpus.ray_pipeline")

    def workers(resources, **options):
        found = pipeline._count_workers(resources, pipeline.Cluster(**options))
        return found.readers, found.tokenizers

    assert workers({"CPU": 8}) == (8, 8)
    assert workers({"CPU": 8}, threads=3) == (2, 2)
    with pytest.raises(CorpusError, match="4 workers of 3 threads: the cluster has 8 cores"):
        workers({"CPU": 8}, threads=3, workers=4)


FREED = """
import resource, torch
from videotok.threads import keep_freed_memory
assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
# 64 MB are 16,384 pages, and each of them would be new each time
assert faults() < 16384, faults()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="an option of Linux's C library")
def test_freed_memory_is_used_again():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


TORCH_IMPORTED = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(7)
sys.meta_path.insert(0, Finder())
from videotok.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("given", "command", "expected"),
    [
        ({}, "encode", "PASSIVE"),
        ({}, "eval", "PASSIVE"),
        ({}, "train motion", "None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "encode", "ACTIVE"),
        ({"GOMP_SPINCOUNT": "9"}, "encode", "None"),
    ],
)
def test_threads_wait_without_spinning_unless_the_user_says_otherwise(clip_mp4, tmp_path, given, command, expected):
    environment = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES} | given
    target = ["--out", str(tmp_path / "run")] if command == "train motion" else ["-o", str(tmp_path / "clip.vtok")]
    call = [sys.executable, "-c", TORCH_IMPORTED, *command.split(), str(clip_mp4), *target]
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout.strip()) == (7, expected), done.stderr
