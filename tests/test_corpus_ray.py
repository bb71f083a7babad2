"""A corpus encoded on Ray: on a cluster of its own, and where its driver or its workers are killed with SIGKILL."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from corpora import all_rows, encode_in_process, make_videos

from videotok.corpus import job
from videotok.corpus.ray_pipeline import Cluster, _start_ray
from videotok.corpus.report import find_faults
from videotok.corpus.storage import CorpusFolder, shard_paths

DRIVER = """
import sys
from videotok.config import EncodeConfig
from videotok.corpus.job import encode_corpus
from videotok.corpus.ray_pipeline import Cluster
if __name__ == "__main__":
    config = EncodeConfig(predict_keyframes=False, batch_size=3)
    encode_corpus(sys.argv[1], sys.argv[2], config, model=sys.argv[3], cluster=Cluster(workers=1), shard_rows=3,
                  commit_seconds=0)
"""
TIMEOUT_SECONDS = 300


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("videos") / "videos")


@pytest.fixture(scope="module")
def uninterrupted(videos, tiny_model, tmp_path_factory):
    place = tmp_path_factory.mktemp("corpus") / "tokens"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "encode_on_ray", encode_in_process)
        job.encode_corpus(str(videos), place, model=str(tiny_model), shard_rows=3)
    return place


def start(videos: Path, out: Path, model: Path, log: Path) -> subprocess.Popen:
    script = log.with_suffix(".py")
    script.write_text(DRIVER)
    environment = os.environ | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        command = [sys.executable, str(script), str(videos), str(out), str(model)]
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def wait_for(condition, driver: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if driver.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the job ended too early ({driver.poll()}) or hangs:\n{log.read_text()}")
        time.sleep(0.1)


def workers(driver: subprocess.Popen, name: str) -> list[psutil.Process]:
    """Return Ray's processes below the driver that run a stage."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if name in "".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        # after a killed driver, ended processes may stay as zombies
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end(driver: subprocess.Popen) -> None:
    """Kill a driver and wait until Ray, which ends with it, is gone."""
    if driver.poll() is not None:
        return
    below = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 30
    while alive := [process for process in below if is_alive(process)]:
        if time.monotonic() > deadline:
            for process in alive:
                process.kill()
        time.sleep(0.05)


def assert_same(one: Path, other: Path) -> None:
    assert all_rows(one).equals(all_rows(other), check_metadata=True)
    assert CorpusFolder(one).errors.equals(CorpusFolder(other).errors)
    assert list(find_faults(CorpusFolder(one))) == []


def test_only_a_cluster_that_is_named_is_joined():
    """Without an address Ray itself would join one that `ray start` began on this machine."""
    calls = []

    class FakeRay:
        init = staticmethod(lambda **options: calls.append(options))
        shutdown = staticmethod(lambda: None)

    for cluster in (Cluster(workers=1), Cluster(address="auto")):
        with _start_ray(FakeRay, cluster):
            pass
    assert [options["address"] for options in calls] == ["local", "auto"]
    assert [options.get("num_cpus") for options in calls] == [1, None]


def test_driver_killed(uninterrupted, videos, tiny_model, tmp_path):
    out, log = tmp_path / "tokens", tmp_path / "log"
    driver = start(videos, out, tiny_model, log)
    wait_for(lambda: shard_paths(out), driver, log)
    end(driver)
    assert all_rows(out).num_rows > 0
    driver = start(videos, out, tiny_model, log)
    assert driver.wait(TIMEOUT_SECONDS) == 0, log.read_text()
    assert_same(out, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ReadVideos", "TokenizeClips"])
def test_workers_killed(uninterrupted, videos, tiny_model, tmp_path, stage):
    out, log = tmp_path / "tokens", tmp_path / "log"
    driver = start(videos, out, tiny_model, log)
    try:
        wait_for(lambda: workers(driver, f"MapWorker(MapBatches({stage}))"), driver, log)
        for process in workers(driver, f"MapWorker(MapBatches({stage}))"):
            process.kill()
        assert driver.wait(TIMEOUT_SECONDS) == 0, log.read_text()
    finally:
        end(driver)
    assert_same(out, uninterrupted)


@pytest.mark.slow
def test_ten_kills(uninterrupted, videos, tiny_model, tmp_path):
    """Kill ten times at random points, every second time at the first new shard."""
    out, log = tmp_path / "tokens", tmp_path / "log"
    rng = random.Random(0)
    for number in range(10):
        driver = start(videos, out, tiny_model, log)
        began, before = time.monotonic(), [path.stat().st_mtime_ns for path in shard_paths(out)]
        delay = rng.uniform(0, 12)
        while driver.poll() is None and time.monotonic() - began < delay:
            if number % 2 and [path.stat().st_mtime_ns for path in shard_paths(out)] != before:
                break
            time.sleep(0.01)
        end(driver)
    driver = start(videos, out, tiny_model, log)
    assert driver.wait(TIMEOUT_SECONDS) == 0, log.read_text()
    assert_same(out, uninterrupted)
