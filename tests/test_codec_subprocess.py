"""Reading in a child process: one that dies or hangs is one MediaError, and the next file is read as usual."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from codec import ClipSpec, MediaError, SubprocessReader, iter_clips, iter_clips_isolated, probe, probe_isolated
from tests.videos import even, scenes, write

SPEC = ClipSpec(frames=6)
NUM_CLIPS = 4


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("video") / "pan.mp4", scenes((160, 96))["pan"], even(2.0, 24), "ultrafast", 24)


@pytest.fixture
def reader():
    with SubprocessReader(patience_seconds=60) as reader:
        yield reader


def is_alive(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return False
    return pid is not None


def test_isolated_clips_are_the_same(video):
    expected = list(iter_clips(video, SPEC, start_seconds=0.5, frames=True))
    found = list(iter_clips_isolated(video, SPEC, start_seconds=0.5, frames=True))
    assert len(found) == len(expected) == NUM_CLIPS - 1
    for clip, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(clip.motion.vectors, other.motion.vectors)
        np.testing.assert_array_equal(clip.frames, other.frames)
        assert (clip.pts_seconds, clip.shares) == (other.pts_seconds, other.shares)
    assert probe_isolated(video) == probe(video)


def test_one_child_reads_many_files(reader, video, tmp_path):
    assert reader.child_pid is None
    list(reader.run(iter_clips, video, SPEC))
    child = reader.child_pid
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"x" * 1000)
    with pytest.raises(MediaError, match=r"cannot read .*bad\.mp4: .*; is it a video file, and whole\?"):
        list(reader.run(iter_clips, bad, SPEC))
    with pytest.raises(MediaError, match="no such file"):
        list(reader.run(iter_clips, tmp_path / "missing.mp4", SPEC))
    assert len(list(reader.run(iter_clips, video, SPEC))) == NUM_CLIPS
    assert reader.child_pid == child
    reader.close()
    assert not is_alive(child)


def test_an_interrupt_does_not_reach_a_child_even_while_it_starts(reader, video, capfd):
    with ThreadPoolExecutor(1) as pool:
        clips = pool.submit(list, reader.run(iter_clips, video, SPEC))
        while reader.child_pid is None:
            time.sleep(0.001)
        while not clips.done():
            os.kill(reader.child_pid, signal.SIGINT)
            time.sleep(0.005)
        assert len(clips.result()) == NUM_CLIPS
    assert capfd.readouterr().err == ""


def test_a_child_that_dies_is_one_error(reader, video):
    clips = reader.run(iter_clips, video, SPEC)
    next(clips)
    os.kill(reader.child_pid, signal.SIGKILL)
    with pytest.raises(MediaError, match=r"its decoder died \(exit code -9\); the file may be damaged"):
        list(clips)
    assert len(list(reader.run(iter_clips, video, SPEC))) == NUM_CLIPS


def test_a_child_that_hangs_is_one_error(reader, video):
    list(reader.run(iter_clips, video, SPEC))
    child = reader.child_pid
    os.kill(child, signal.SIGSTOP)
    reader.patience_seconds = 0.3
    with pytest.raises(MediaError, match=r"its decoder returned nothing for 0\.3 s"):
        list(reader.run(iter_clips, video, SPEC))
    assert not is_alive(child)
    reader.patience_seconds = 60
    assert len(list(reader.run(iter_clips, video, SPEC))) == NUM_CLIPS


def test_our_own_fault_in_the_child_is_not_blamed_on_the_file(reader, video):
    with pytest.raises(TypeError, match="no_such_option") as caught:
        list(reader.run(iter_clips, video, SPEC, no_such_option=1))
    assert "subprocess_reader.py" in caught.value.__notes__[0]
    assert len(list(reader.run(iter_clips, video, SPEC))) == NUM_CLIPS


def test_a_child_ends_when_its_clips_are_not_wanted(reader, video):
    clips = reader.run(iter_clips, video, SPEC)
    next(clips)
    child = reader.child_pid
    clips.close()
    assert not is_alive(child)
    assert len(list(reader.run(iter_clips, video, SPEC, max_clips=1))) == 1
