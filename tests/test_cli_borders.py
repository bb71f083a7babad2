"""The borders of the command line: faults of our own, signals, odd names, numbers, devices, standard input, URLs."""

import http.server
import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from codec import MediaError, probe
from tests.test_tokens import random_tokens
from videotok import VideoTokenizer, VideoTokens
from videotok.cli.main import main
from videotok.config import EncodeConfig
from videotok.inputs import local_input

ONE_CLIP = ["--max-clips", "1", "--model", "model"]


def refusal(arguments: list[str], capfd, code: int = 2) -> str:
    """Run the command line and return its one line on stderr, without control characters."""
    capfd.readouterr()
    assert main(arguments) == code
    line = capfd.readouterr().err.removesuffix("\n")
    assert line.isprintable(), ascii(line)
    assert line.startswith("videotok: ")
    return line


def fail(*arguments: object, **options: object) -> None:
    raise TypeError("something\nof ours")


def test_a_fault_of_ours_is_not_blamed_on_the_file(folder, capfd, monkeypatch):
    monkeypatch.setattr("videotok.pipeline.VideoTokenizer.encode", fail)
    command = ["encode", "clip.mp4", *ONE_CLIP]
    line = refusal(command, capfd, code=1)
    assert "a fault of videotok and not of your file: TypeError: " in line
    assert "please report it" in line
    assert "--debug" in line
    for place in (0, 1, len(command)):
        assert main([*command[:place], "--debug", *command[place:]]) == 1
        printed = capfd.readouterr().err
        assert "Traceback (most recent call last)" in printed
        assert 'raise TypeError("something' in printed
    assert not (folder / "clip.vtok").exists()


@pytest.mark.parametrize(
    "error", [ValueError("x"), RecursionError(), KeyError("x"), AssertionError(), RuntimeError("a\nb")]
)
def test_any_exception_is_one_line(folder, capfd, monkeypatch, error):
    def fail_so(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("videotok.pipeline.VideoTokenizer.encode", fail_so)
    assert type(error).__name__ in refusal(["encode", "clip.mp4", *ONE_CLIP], capfd, code=1)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried …"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=range(5),
)
def test_too_little_memory_is_nobodys_fault(folder, capfd, monkeypatch, error):
    def exhausted(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("videotok.pipeline.VideoTokenizer.encode", exhausted)
    assert "not enough memory" in refusal(["encode", "clip.mp4", *ONE_CLIP], capfd)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_leave_nothing_half_written(folder, name, code):
    assert main(["encode", "clip.mp4", "--model", "model"]) == 0
    before = sorted(folder.iterdir())
    command = ["decode", "clip.vtok", "-o", "out.mp4", "--model", "model", "--steps", "100000"]
    number = getattr(signal, name)
    with subprocess.Popen(
        [sys.executable, "-m", "videotok.cli.main", *command],
        stderr=subprocess.PIPE,
        # the tests themselves may run under `nohup`
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while not list(folder.glob(".out.*.mp4")):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            for _ in range(2):  # `timeout` sends it twice
                process.send_signal(number)
            error = process.communicate(timeout=60)[1].decode()
        finally:
            process.kill()
    assert process.returncode == code
    assert error == f"videotok: {name}; no output is left half written\n"
    assert sorted(folder.iterdir()) == before


def test_a_library_may_make_another_error_of_a_signal(folder, capfd, monkeypatch):
    """Such as one that wraps whatever reading weights raises."""

    def wrapped(*arguments: object, **options: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            signal.raise_signal(signal.SIGTERM)  # ignored while the first one is at work
            raise OSError("unable to load weights") from error

    monkeypatch.setattr("videotok.pipeline.VideoTokenizer.encode", wrapped)
    assert "SIGTERM" in refusal(["encode", "clip.mp4", *ONE_CLIP], capfd, code=143)


def test_a_signal_is_not_lost_in_a_destructor(folder, capfd, monkeypatch):
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def encode(*arguments: object, **options: object) -> None:
        Dying()
        time.sleep(60)

    monkeypatch.setattr("videotok.pipeline.VideoTokenizer.encode", encode)
    assert "SIGTERM" in refusal(["encode", "clip.mp4", *ONE_CLIP], capfd, code=143)


def test_a_signal_that_ray_takes(folder, capfd, monkeypatch):
    """Its handler exits with the number of the signal."""

    def exit_so(*arguments: object, **options: object) -> None:
        raise SystemExit(signal.SIGTERM)

    monkeypatch.setattr("videotok.pipeline.VideoTokenizer.encode", exit_so)
    assert "SIGTERM" in refusal(["encode", "clip.mp4", *ONE_CLIP], capfd, code=143)


def test_an_ignored_signal_stays_ignored(folder, monkeypatch):
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handlers = []
    monkeypatch.setattr("videotok.cli.main.app", lambda **_: handlers.append(signal.getsignal(signal.SIGHUP)))
    try:
        assert main(["doctor"]) == 0
        assert handlers == [signal.SIG_IGN]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_output_that_nobody_reads(folder):
    random_tokens().save("a.vtok")
    program = "import sys; from videotok.cli.main import main; sys.exit(main(['info', 'a.vtok']))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    "options",
    [
        *("--fps 1e-6", "--fps 1e400", "--fps 1e99999999", "--fps nan", "--start inf", "--start nan", "--duration nan"),
        *("--duration inf", "--max-clips 100000000000000000000", "--stream -1", "--tokens-per-keyframe 1e9"),
        *("--keep-ratio nan", "--seed 1e5"),
    ],
)
def test_numbers_are_refused_at_once(folder, capfd, options):
    began = time.monotonic()
    assert options.split()[0].removeprefix("--")[:3] in refusal(["encode", "clip.mp4", *options.split()], capfd)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("size", ["8000x8000", "9" * 5000 + "x64", "0x0", "64x", "²x64"])
def test_sizes_are_refused_at_once(folder, capfd, size):
    random_tokens().save("a.vtok")
    assert "size" in refusal(["decode", "a.vtok", "--size", size], capfd).lower()


@pytest.mark.parametrize("command", [["encode"], ["decode"], ["info"], ["inspect"], ["inspect", "--tokens"]])
@pytest.mark.parametrize("path", ["", ".", "missing", "n" * 300, "a\x1b[31m.mp4", "http:/x/y.mp4", "model/"])
def test_paths_that_are_no_files(folder, capfd, command, path):
    refusal([*command, path], capfd)


def test_what_is_no_vtok_file_says_what_it_is(folder, capfd):
    assert "clip.mp4 is a video (h264, 160x96), not a .vtok file; encode it first" in refusal(
        ["decode", "clip.mp4"], capfd
    )
    assert "standard input has no name" in refusal(["encode", "-"], capfd)
    assert "is a URL; outputs" in refusal(["encode", "clip.mp4", "-o", "http://x.org/a.vtok"], capfd)
    assert "corpus encode" in refusal(["encode", "."], capfd)


@pytest.mark.parametrize("suffix", [".gif", ".flv", ".vtok2", "", ".h265"])
def test_content_decides_what_info_shows(folder, capsys, suffix):
    video = (folder / "clip.mp4").rename(folder / f"video{suffix}")
    assert main(["info", str(video)]) == 0
    assert "h264, 160x96" in capsys.readouterr().out
    random_tokens().save(folder / "a.vtok")
    tokens = (folder / "a.vtok").rename(folder / f"tokens{suffix}")
    assert main(["info", str(tokens), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 3


def test_escapes_in_a_token_file_are_not_printed(folder, capfd):
    tokens = random_tokens()
    replace(tokens, source=replace(tokens.source, file="\x1b[31mred\x9b\x07\nnew\u202e")).save("a.vtok")
    for options in ([], ["--json"]):
        assert main(["info", "a.vtok", *options]) == 0
        printed = capfd.readouterr().out
        assert printed.replace("\n", "").isprintable()
        assert "[31mred" in printed
    assert json.loads(printed)["source"]["file"] == "\x1b[31mred\x9b\x07\nnew\u202e"
    assert main(["decode", "a.vtok", "--model", "model"]) == 2
    assert capfd.readouterr().err.removesuffix("\n").isprintable()


@pytest.mark.parametrize(
    "name",
    [
        os.fsdecode(b"caf\xe9.mp4"),
        "2024-01-01T10:30:00.mp4",
        "[red] [abc123].mp4",
        "http:.mp4",
        "n" * 250 + ".mp4",
        "-.mp4",
    ],
)
def test_odd_names(folder, capfd, name):
    (folder / "clip.mp4").rename(folder / name)
    output = [] if len(name) < 200 else ["-o", "short.vtok"]
    assert main(["encode", *ONE_CLIP, *output, "--", name]) == 0, capfd.readouterr().err
    path = folder / "short.vtok" if output else (folder / name).with_suffix(".vtok")
    assert VideoTokens.load(path).source.file == os.fsencode(name).decode(errors="replace")


def test_a_name_too_long_for_its_output_is_refused_before(folder, capfd, monkeypatch):
    monkeypatch.setattr("videotok.bundle.Bundle.find", None)
    name = "n" * 251 + ".mp4"
    (folder / "clip.mp4").rename(folder / name)
    assert "File name too long; choose another" in refusal(["encode", name], capfd)


def test_outputs_that_are_devices_fifos_and_links(folder, capfd):
    (folder / "link.vtok").symlink_to("real.vtok")
    for output in (os.devnull, "link.vtok"):
        assert main(["encode", "clip.mp4", "-o", output, *ONE_CLIP]) == 0, capfd.readouterr().err
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert (folder / "link.vtok").is_symlink()
    os.mkfifo("out")
    received = []
    reader = threading.Thread(target=lambda: received.append(Path("out").read_bytes()), daemon=True)
    reader.start()
    assert main(["encode", "clip.mp4", "-o", "out", *ONE_CLIP]) == 0, capfd.readouterr().err
    reader.join(20)
    assert stat.S_ISFIFO(Path("out").stat().st_mode)
    assert received == [Path("real.vtok").read_bytes()]


def test_standard_input_and_fifos(folder):
    program = [sys.executable, "-m", "videotok.cli.main", "encode", "-", "-o", "in.vtok", *ONE_CLIP]
    with Path("clip.mp4").open("rb") as video:
        subprocess.run(program, stdin=video, check=True)
    assert VideoTokens.load("in.vtok").source.file == "stdin"
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_bytes(Path("clip.mp4").read_bytes()), daemon=True)
    writer.start()
    assert main(["encode", "pipe", "-o", "pipe.vtok", *ONE_CLIP]) == 0
    assert VideoTokens.load("pipe.vtok").source.file == "pipe"
    np.testing.assert_array_equal(VideoTokens.load("pipe.vtok").visual_ids, VideoTokens.load("in.vtok").visual_ids)


def test_errors_name_what_was_given_and_not_its_copy(folder, capfd, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"no video" * 100)))
    line = refusal(["encode", "-", "-o", "in.vtok", *ONE_CLIP], capfd)
    assert "/tmp" not in line
    assert "cannot read" in line


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Writes no log, where the tests look for errors."""

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(folder):
    """Serves the folder; yields its address."""
    handler = partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_urls(folder, server, capfd):
    pytest.importorskip("aiohttp")
    (folder / "my clip.mp4").write_bytes((folder / "clip.mp4").read_bytes())
    assert main(["encode", f"{server}/my%20clip.mp4?sig=a/b", *ONE_CLIP]) == 0, capfd.readouterr().err
    assert VideoTokens.load("my clip.vtok").source.file == "my clip.mp4"
    line = refusal(["encode", f"{server}/missing.mp4", *ONE_CLIP], capfd)
    assert f"cannot read {server}/missing.mp4: there is no such file" in line
    assert "check the address" in refusal(["info", "http://127.0.0.1:1/a.mp4"], capfd)
    assert "nothing://x" in refusal(["info", "nothing://x"], capfd)


def test_urls_without_fsspec(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with (
        pytest.raises(MediaError, match=r"need fsspec; pip install 'videotok\[corpus\]'"),
        local_input("http://x/a.mp4"),
    ):
        pass


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_becomes_a_keyframe_and_a_picture_again(folder, capfd, suffix):
    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (9, 16, 3)).astype(np.uint8), (160, 90))
    cv2.imwrite(f"photo{suffix}", picture)
    assert main(["encode", f"photo{suffix}", "--model", "model"]) == 0, capfd.readouterr().err
    tokens = VideoTokens.load("photo.vtok")
    assert tokens.is_picture
    assert tokens.num_motion_quantizers == 0
    assert (tokens.source.width, tokens.source.height) == (160, 90)
    assert main(["decode", "photo.vtok", "--model", "model", "--size", "64x36"]) == 0, capfd.readouterr().err
    decoded = cv2.imread("photo-decoded.png")
    assert decoded is not None
    assert decoded.shape == (36, 64, 3)
    compare = ["--compare", f"photo{suffix}", "--size", "64x36"]
    assert main(["decode", "photo.vtok", "-o", "photo.mp4", "--model", "model", "--steps", "1", *compare]) == 0
    assert "no figures: they are of the frames after a keyframe" in capfd.readouterr().out
    assert probe("photo.mp4").codec == "h264"
    assert probe("photo-compare.mp4").codec == "h264"


def test_a_video_does_not_become_a_picture(folder, capfd):
    random_tokens().save("a.vtok")
    assert "a.vtok has 55 frames; name a video file" in refusal(["decode", "a.vtok", "-o", "a.png"], capfd)
    assert "--compare writes a video" in refusal(["decode", "a.vtok", "-o", "a.png", "--compare", "clip.mp4"], capfd)


def test_bytes_and_open_files(folder, tiny_model):
    tokenizer, config = VideoTokenizer.from_pretrained(tiny_model), EncodeConfig(max_clips=1)
    expected = tokenizer.encode("clip.mp4", config)
    data = Path("clip.mp4").read_bytes()
    with Path("clip.mp4").open("rb") as file:
        for source in (data, io.BytesIO(data), file):
            tokens = tokenizer.encode(source, config)
            np.testing.assert_array_equal(tokens.visual_ids, expected.visual_ids)
            np.testing.assert_array_equal(tokens.motion_ids, expected.motion_ids)
    assert tokens.source.file == "clip.mp4"


def test_tokens_of_other_shapes_than_the_model_are_refused(folder, capfd):
    """The hashes of the weights are right, the shapes are not."""
    assert main(["encode", "clip.mp4", *ONE_CLIP]) == 0
    tokens = VideoTokens.load("clip.vtok")
    changes = {
        "ids": {"motion_ids": tokens.motion_ids[:, :, :7].copy()},
        "global": {"global_motion_ids": tokens.global_motion_ids[:, :3].copy()},
        "frames": {"spec": replace(tokens.spec, frames=100)},
        "codes": {"codebooks": dict(tokens.codebooks) | {"visual": 100_000}},
        "quantizers": {
            "motion_ids": np.repeat(tokens.motion_ids, 9, axis=1),
            "motion_quantizers": tokens.motion_quantizers * 9,
        },
    }
    for name, change in changes.items():
        replace(tokens, **change).save(f"{name}.vtok")
        assert "use the right model" in refusal(["decode", f"{name}.vtok", "--model", "model"], capfd)


def test_forged_pictures_cost_nothing(folder, capfd):
    assert main(["encode", "clip.mp4", "--keyframe-storage", "jpeg", *ONE_CLIP]) == 0
    tokens = VideoTokens.load("clip.vtok")
    bomb = bytearray(tokens.pictures[0])
    frame = bomb.index(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = (65_000).to_bytes(2, "big") * 2
    replace(tokens, pictures=(bytes(bomb),)).save("bomb.vtok")
    line = refusal(["decode", "bomb.vtok", "-o", "out.mp4", "--model", "model"], capfd)
    assert "the picture of keyframe 0 of clip.mp4 cannot be decoded" in line
    assert not Path("out.mp4").exists()


def test_streams_are_chosen_by_index(folder, capfd):
    """The second of two streams is the smaller one."""
    with av.open("two.mkv", "w") as container:
        streams = [container.add_stream("libx264", rate=12) for _ in range(2)]
        for side, stream in zip((128, 64), streams, strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        for _ in range(12):
            for side, stream in zip((128, 64), streams, strict=True):
                picture = av.VideoFrame.from_ndarray(np.zeros((side, side, 3), np.uint8), format="rgb24")
                container.mux(stream.encode(picture))
        for stream in streams:
            container.mux(stream.encode(None))
    for index, side in enumerate((128, 64)):
        options = ["--stream", str(index), *ONE_CLIP, "--force"]
        assert main(["encode", "two.mkv", *options]) == 0, capfd.readouterr().err
        assert VideoTokens.load("two.vtok").source.width == side
        assert main(["info", "two.mkv", "--stream", str(index)]) == 0
        assert f"{side}x{side}" in capfd.readouterr().out
    assert "stream 5 is no video" in refusal(["encode", "two.mkv", "-o", "x.vtok", "--stream", "5"], capfd)


def test_hub_ids_without_a_network(folder, capfd, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    assert "cannot download no/such" in refusal(["encode", "clip.mp4", "--model", "no/such"], capfd)
    assert time.monotonic() - began < 10


def test_a_hub_that_cannot_be_reached(folder, capfd, monkeypatch):
    """Errors of HTTP libraries are no OSError: their class is known by its module alone."""
    error = type("ConnectError", (Exception,), {"__module__": "httpx"})

    def unreachable(*arguments: object, **options: object) -> None:
        raise error("name not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    assert "cannot download no/such: name not known" in refusal(["encode", "clip.mp4", "--model", "no/such"], capfd)
