"""Reading of a video for encoding: the same clips by a thread and by a child process, which ends with the command."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import videotok.video_reading as video_reading
from codec import ClipSpec, MediaError
from videotok import EncodeConfig, VideoTokenizer, VideoTokens
from videotok.cli.main import main
from videotok.keyframes.tokenizer import KeyframeTokenizer
from videotok.video_reading import open_video

NAMES = ("visual_ids", "keep_mask", "skip_mask", "motion_ids", "global_motion_ids", "num_frames", "pts_seconds")


@pytest.fixture
def isolated(monkeypatch):
    """Read in a child process whatever the length; return the patience of each reading."""
    patience = []

    def read(*arguments, **options):
        patience.append(options.get("patience_seconds", "default"))
        return original(*arguments, **options)

    original = video_reading.iter_clips_isolated
    monkeypatch.setattr(video_reading, "iter_clips_isolated", read)
    monkeypatch.setattr(video_reading, "MIN_CHILD_SECONDS", 0.0)
    return patience


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return VideoTokenizer.from_pretrained(tiny_model)


def assert_same(tokens, others):
    for name in NAMES:
        np.testing.assert_array_equal(getattr(tokens, name), getattr(others, name), err_msg=name)


def test_a_child_reads_the_clips_of_a_thread(clip_mp4, isolated):
    spec, config = ClipSpec(), EncodeConfig(tokens_per_second=100, start_seconds=0.5)
    with open_video(clip_mp4, spec, config) as video:
        expected = list(video.clips)
    assert not isolated
    with open_video(clip_mp4, spec, config, beside_imports=True) as video:
        found = list(video.clips)
    assert isolated == [None]  # a slow file is no fault
    assert len(found) == len(expected) == 2
    for clip, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(clip.keyframe, other.keyframe)
        np.testing.assert_array_equal(clip.frames, other.frames)
        np.testing.assert_array_equal(clip.motion.vectors, other.motion.vectors)


def test_a_video_is_opened_before_torch_is_imported():
    code = "import sys, videotok.video_reading; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_short_video_and_a_picture_need_no_child(clip_mp4, tmp_path, isolated, monkeypatch):
    monkeypatch.setattr(video_reading, "MIN_CHILD_SECONDS", 3.5)
    with open_video(clip_mp4, ClipSpec(), EncodeConfig(), beside_imports=True) as video:
        assert len(list(video.clips)) == 2
    with open_video(clip_mp4, ClipSpec(), EncodeConfig(isolate=True), beside_imports=True) as video:
        assert len(list(video.clips)) == 2
    assert isolated == ["default"]


def test_an_opened_video_has_the_tokens_of_its_file(tokenizer, clip_mp4, isolated):
    config = EncodeConfig(motion_quantizers=1)
    expected = tokenizer.encode(clip_mp4, config)
    with open_video(clip_mp4, tokenizer.spec(config.fps), config, beside_imports=True) as video:
        assert_same(tokenizer.encode(video), expected)
    assert isolated
    # a guess of what the models take
    with open_video(clip_mp4, ClipSpec(frames=12), config) as video:
        assert_same(tokenizer.encode(video), expected)
    with open_video(clip_mp4, tokenizer.spec(), config) as video, pytest.raises(ValueError, match="is not the one"):
        tokenizer.encode(video, EncodeConfig())
    too_many = replace(config, motion_quantizers=5)
    with open_video(clip_mp4, tokenizer.spec(), too_many) as video, pytest.raises(ValueError, match="has 3 quantizers"):
        tokenizer.encode(video)


def encode_beside_imports(tokenizer, path):
    with open_video(path, tokenizer.spec(), EncodeConfig(), beside_imports=True) as video:
        tokenizer.encode(video)


def test_an_error_of_the_child_is_that_of_the_file(tokenizer, clip_mp4, tmp_path, isolated):
    whole = clip_mp4.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"cut\.mp4") as expected:
        tokenizer.encode(path)
    with pytest.raises(MediaError) as found:
        encode_beside_imports(tokenizer, path)
    assert str(found.value) == str(expected.value)


def test_a_keyframe_alone_is_not_decoded(tokenizer, clip_mp4, monkeypatch):
    one = EncodeConfig(max_clips=1)
    expected = tokenizer.encode(clip_mp4)
    decoded = []
    decode = KeyframeTokenizer.decode
    monkeypatch.setattr(KeyframeTokenizer, "decode", lambda self, *rest: decoded.append(rest) or decode(self, *rest))
    tokens = tokenizer.encode(clip_mp4, one)
    assert not decoded
    np.testing.assert_array_equal(tokens.visual_ids, expected.visual_ids_of(0))
    assert_same(tokenizer.encode(clip_mp4), expected)
    assert decoded


@pytest.mark.parametrize(("cores", "threads", "has_child"), [(2, None, True), (2, 1, False), (1, None, False)])
def test_the_command_reads_in_a_child_where_there_are_cores(folder, isolated, monkeypatch, cores, threads, has_child):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("videotok.threads.available_cores", lambda: cores)
    options = [] if threads is None else ["--threads", str(threads)]
    assert main(["encode", "clip.mp4", "--model", "model", *options]) == 0
    assert bool(isolated) == has_child
    assert VideoTokens.load("clip.vtok").num_clips == 2


INTERRUPTED = """
import sys, time
import videotok.video_reading as video_reading
from videotok.cli.main import main
from videotok.pipeline import VideoTokenizer

video_reading.MIN_CHILD_SECONDS = 0.0

def wait(self, video, *rest, **options):
    next(video.clips)
    print("reading", flush=True)
    time.sleep(60)

VideoTokenizer.encode = wait
sys.exit(main(sys.argv[1:]))
"""


def children(pid: int) -> list[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes as Linux lists them")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_to_all_processes_ends_them_in_one_line(folder, name, code):
    """Ctrl-C in a terminal reaches the child too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "encode", "clip.mp4", "--model", "model"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        (child,) = children(process.pid)
        os.killpg(process.pid, getattr(signal, name))
        error = process.communicate(timeout=60)[1].decode()
    word = "interrupted" if name == "SIGINT" else name
    assert error == f"videotok: {word}; no output is left half written\n"
    assert process.returncode == code
    until = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
    assert not (folder / "clip.vtok").exists()
