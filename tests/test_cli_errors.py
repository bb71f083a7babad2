"""Bad input: one line on stderr, exit code 2 (130 for Ctrl-C), and nothing half-written."""

import json
import subprocess
import sys
import wave

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.main import get_command

from codec import VideoWriter
from videotok.cli.console import counted
from videotok.cli.main import app, main
from videotok.errors import first_line

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")


@pytest.fixture
def encoded(folder, capfd):
    assert main(["encode", "clip.mp4", "--model", "model", "--max-clips", "1"]) == 0
    capfd.readouterr()
    return folder


def refusal(command: str, capfd, code: int = 2) -> str:
    """Run `videotok COMMAND` and return its one line on stderr; check that it leaves no file behind."""
    from pathlib import Path

    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert main(command.split()) == code
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("videotok: ")
    return lines[0]


def write_missing(folder):
    pass


def write_empty(folder):
    (folder / "bad.mp4").write_bytes(b"")


def write_text(folder):
    (folder / "bad.mp4").write_text("this is not a video\n" * 100)


def write_folder(folder):
    (folder / "bad.mp4").mkdir()


def write_sound(folder):
    with wave.open(str(folder / "bad.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(np.zeros(8000, np.int16).tobytes())
    (folder / "bad.wav").rename(folder / "bad.mp4")


def write_beginning(folder):
    data = (folder / "clip.mp4").read_bytes()
    (folder / "bad.mp4").write_bytes(
        data[: len(data) // 3]
    )  # the header comes first and is complete, the pictures are not


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_missing, "no such file"),
        (write_empty, "empty"),
        (write_text, "bad.mp4"),
        (write_folder, "directory"),
        (write_sound, "no video stream"),
        (write_beginning, "bad.mp4"),
    ],
)
def test_bad_videos(folder, capfd, write, message):
    write(folder)
    line = refusal("encode bad.mp4 -o out.vtok --model model", capfd)
    assert message in line
    assert "bad.mp4" in line


def test_encrypted_video(folder, capfd):
    """The samples are noise: every frame fails to decode."""
    data = bytearray((folder / "clip.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    noise = np.random.default_rng(0).integers(0, 256, len(data) - start, np.uint8)
    data[start:] = noise.tobytes()
    (folder / "bad.mp4").write_bytes(data)
    assert "bad.mp4" in refusal("encode bad.mp4 -o out.vtok --model model", capfd)


@pytest.mark.parametrize(
    "command", ["encode clip.mp4 -o nowhere/out.vtok", "sample nowhere/out.mp4", "encode clip.mp4 -o /proc/out.vtok"]
)
def test_unwritable_output(folder, capfd, command):
    assert "cannot write" in refusal(command, capfd)


def test_existing_outputs(encoded, capfd):
    (encoded / "out-compare.mp4").write_text("mine")
    assert "clip.vtok exists; give --force" in refusal("encode clip.mp4 --model model", capfd)
    (encoded / "clip-decoded.mp4").write_text("mine")
    assert "clip-decoded.mp4 exists; give --force" in refusal("decode clip.vtok --model model", capfd)
    assert "clip.mp4 exists; give --force" in refusal("sample clip.mp4", capfd)
    line = refusal("decode clip.vtok -o out.mp4 --compare clip.mp4 --model model", capfd)
    assert "out-compare.mp4 exists" in line
    assert "is a folder" in refusal("encode clip.mp4 -o . --model model", capfd)


@pytest.mark.parametrize(
    "command",
    [
        "encode clip.mp4 -o clip.mp4 --force",
        "decode clip.vtok -o clip.vtok --force",
        "decode clip.vtok -o ./clip.mp4 --compare clip.mp4 --force",
        "decode clip.vtok -o clip.mp4 --keyframes-from clip.mp4 --force",
    ],
)
def test_no_command_overwrites_what_it_reads(encoded, capfd, command):
    assert "read by this command" in refusal(f"{command} --model model", capfd)


def test_a_refused_output_costs_no_work(encoded, capfd, monkeypatch):
    monkeypatch.setattr("videotok.bundle.Bundle.find", None)
    refusal("encode clip.mp4 --model model", capfd)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--fps zero", "'zero'"),
        ("--fps 0", "between 1/3600 and 1000"),
        ("--keep-ratio 0", "above 0 and at most 1"),
        ("--keep-ratio 1.5", "above 0 and at most 1"),
        ("--motion-quantizers 4", "this model has 3 quantizers"),
        ("--motion-quantizers -1", "--motion-quantizers"),
        ("--start -1", "--start"),
        ("--duration -1", "--duration (=-1.0) must be above 0"),
        ("--threads 0", "'0' should be greater than or equal to 1; see `videotok encode --help`"),
        ("--motion-source other", "'other' is not one of 'auto', 'native'"),
        ("-o out.mp4", "out.mp4 is the name of a video or picture"),
        ("--start 100", "clip.mp4"),
        ("--duration 0", "above 0"),
        ("--device tpu", "tpu"),
        pytest.param("--device cuda", "no device cuda on this machine", marks=NO_CUDA),
        ("--patch-selection sample", "cannot sample patches"),
        ("--no-such-option", "--no-such-option"),
    ],
)
def test_bad_requests(folder, capfd, options, message):
    assert message in refusal(f"encode clip.mp4 --model model {options}", capfd)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--size large", "WIDTHxHEIGHT"),
        ("--size 63x48", "even"),
        ("--motion-quantizers 3", "clip.vtok has 2 quantizers"),
        ("--steps 0", "--steps"),
        ("--compare missing.mp4", "no such file"),
        ("--keyframes-from missing.mp4", "no such file"),
        ("-o out.nothing", "out.nothing"),
        ("--dtype int8", "int8"),
        pytest.param("--device cuda", "no device cuda on this machine", marks=NO_CUDA),
    ],
)
def test_bad_decoding_requests(encoded, capfd, options, message):
    output = "" if "-o" in options else "-o out.mp4 --size 64x48 --steps 1"
    assert message in refusal(f"decode clip.vtok --model model {output} {options}", capfd)


def test_commands_that_read_tokens_or_videos_alone(encoded, capfd):
    assert "give --tokens" in refusal("inspect clip.vtok", capfd)
    assert "--stream 0 chooses a stream of a video" in refusal("info clip.vtok --stream 0", capfd)


def command_options():
    """Yield the command's name and each of its options and arguments, for all commands."""

    def walk(command, name):
        for parameter in command.params:
            yield name, parameter
        for word, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{name} {word}")

    yield from walk(get_command(app), "videotok")


def test_every_option_has_a_help_text_that_is_a_sentence():
    for command, option in command_options():
        text = getattr(option, "help", None)
        assert text, (command, option.name)
        assert text.endswith("."), (command, option.name, text)


def test_options_of_several_commands_say_the_same():
    names = ("device", "dtype", "duration", "keyframe_model", "motion_source", "stream", "threads", "video_model")
    for name in names:
        texts = {option.help for _, option in command_options() if option.name == name}
        assert len(texts) == 1, (name, texts)


def test_parts_of_messages():
    assert [counted(number, "patch") for number in (0, 1, 2)] == ["0 patches", "1 patch", "2 patches"]
    assert counted(1234, "clip") == "1,234 clips"
    assert first_line(ValueError("no such file\n\nTry this")) == "no such file"
    assert first_line(ValueError()) == "ValueError"


def test_unknown_command_and_missing_argument(folder, capfd):
    assert "nonsense" in refusal("nonsense", capfd)
    assert main(["lm"]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "videotok: name a command; see `videotok lm --help`"
    assert "video" in refusal("encode", capfd).lower()


def test_no_such_model(folder, capfd):
    assert "neither a folder nor a hub id" in refusal("encode clip.mp4 --model ./nowhere", capfd)


def test_another_video_to_compare_with(encoded, capfd, scene):
    with VideoWriter("short.mp4", 12, (64, 48)) as writer:
        for _ in range(6):
            writer.write(np.zeros((48, 64, 3), np.uint8))
    line = refusal("decode clip.vtok -o out.mp4 --compare short.mp4 --model model --size 64x48 --steps 1", capfd)
    assert "short.mp4" in line
    assert "clip.mp4" in line


def test_another_model_names_both(encoded, capfd, other_model):
    (encoded / "other").symlink_to(other_model)
    line = refusal("decode clip.vtok -o out.mp4 --model other", capfd)
    assert "were made with keyframes weights" in line
    assert "the model at hand has" in line


def test_newer_and_damaged_files(encoded, capfd):
    path = encoded / "clip.vtok"
    intact = path.read_bytes()
    path.write_bytes(intact[: len(intact) // 2])
    assert "cut short or damaged" in refusal("info clip.vtok", capfd)
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    assert "is damaged" in refusal("decode clip.vtok -o out.mp4 --model model", capfd)
    path.write_bytes(intact)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["videotok"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(arrays, path, {"videotok": json.dumps(header | {"format": 99})})
    line = refusal("info clip.vtok", capfd)
    assert "format 99" in line
    assert "reads formats 1 to 4" in line


@pytest.mark.parametrize(
    "command", ["encode clip.mp4 --model model -o out.vtok", "decode clip.vtok --model model -o out.mp4"]
)
def test_interrupt_leaves_nothing(encoded, capfd, monkeypatch, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    target = "encode" if command.startswith("encode") else "decode_clips"
    monkeypatch.setattr(f"videotok.pipeline.VideoTokenizer.{target}", interrupted)
    assert "interrupted" in refusal(command, capfd, code=130)


def test_disk_full(encoded, capfd, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert "No space left on device" in refusal("encode clip.mp4 --model model -o out.vtok", capfd)


def test_bad_input_does_not_wait_for_torch(folder):
    (folder / "bad.mp4").write_text("not a video")
    code = "import sys, videotok.cli.main as cli; cli.main(['encode', 'bad.mp4']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("arguments", [[], ["--help"], ["encode", "--help"], ["train", "--help"], ["--version"]])
def test_help_does_not_wait_for_torch(arguments):
    code = f"import sys, videotok.cli.main as cli; sys.exit(cli.main({arguments!r}) or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "videotok" in done.stdout
