"""A corpus on Ray, killed with -9: the driver, and workers under a driver that lives on."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from corpora import all_rows, make_videos, plain_stream

from videotok.corpus import job
from videotok.corpus.report import faults
from videotok.corpus.settings import Settings
from videotok.corpus.storage import CorpusFolder, shard_paths

DRIVER = """
import sys
from videotok.corpus.job import encode_corpus
from videotok.corpus.settings import Settings
from videotok.corpus.ray_pipeline import Cluster
if __name__ == "__main__":
    encode_corpus(sys.argv[1], sys.argv[2], Settings(sys.argv[3]), Cluster(workers=1, batch_size=3),
                  shard_rows=3, commit_seconds=0)
"""
PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("videos") / "videos")


@pytest.fixture(scope="module")
def undisturbed(videos, tiny_model, tmp_path_factory):
    place = tmp_path_factory.mktemp("corpus") / "tokens"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "stream", plain_stream)
        job.encode_corpus(str(videos), place, Settings(str(tiny_model)), shard_rows=3)
    return place


def start(videos: Path, out: Path, model: Path, log: Path) -> subprocess.Popen:
    script = log.with_suffix(".py")
    script.write_text(DRIVER)
    environment = os.environ | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        command = [sys.executable, str(script), str(videos), str(out), str(model)]
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment)


def wait_for(condition, driver: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if driver.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the job ended too early ({driver.poll()}) or hangs:\n{log.read_text()}")
        time.sleep(0.1)


def workers(driver: subprocess.Popen, name: str) -> list[psutil.Process]:
    """Ray's processes below the driver that run this stage."""
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
        # nobody may be there to collect what a killed driver leaves
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end(driver: subprocess.Popen) -> None:
    """Kills a driver and waits until Ray, which goes with it, is gone as well."""
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
    assert list(faults(CorpusFolder(one))) == []


def test_driver_killed(undisturbed, videos, tiny_model, tmp_path):
    out, log = tmp_path / "tokens", tmp_path / "log"
    driver = start(videos, out, tiny_model, log)
    wait_for(lambda: shard_paths(out), driver, log)
    end(driver)
    assert all_rows(out).num_rows > 0
    driver = start(videos, out, tiny_model, log)
    assert driver.wait(PATIENCE_SECONDS) == 0, log.read_text()
    assert_same(out, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ReadVideos", "TokenizeClips"])
def test_workers_killed(undisturbed, videos, tiny_model, tmp_path, stage):
    out, log = tmp_path / "tokens", tmp_path / "log"
    driver = start(videos, out, tiny_model, log)
    try:
        wait_for(lambda: workers(driver, f"MapWorker(MapBatches({stage}))"), driver, log)
        for process in workers(driver, f"MapWorker(MapBatches({stage}))"):
            process.kill()
        assert driver.wait(PATIENCE_SECONDS) == 0, log.read_text()
    finally:
        end(driver)
    assert_same(out, undisturbed)


@pytest.mark.slow
def test_ten_kills(undisturbed, videos, tiny_model, tmp_path):
    """Killed ten times at random points, half of them counted from the start and half from the first new shard."""
    out, log = tmp_path / "tokens", tmp_path / "log"
    dice = random.Random(0)
    for number in range(10):
        driver = start(videos, out, tiny_model, log)
        began, before = time.monotonic(), [path.stat().st_mtime_ns for path in shard_paths(out)]
        delay = dice.uniform(0, 12)
        while driver.poll() is None and time.monotonic() - began < delay:
            if number % 2 and [path.stat().st_mtime_ns for path in shard_paths(out)] != before:
                break
            time.sleep(0.01)
        end(driver)
    driver = start(videos, out, tiny_model, log)
    assert driver.wait(PATIENCE_SECONDS) == 0, log.read_text()
    assert_same(out, undisturbed)
