"""Damaged inputs other than videos, and odd surroundings: each is read, or refused in one line."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from codec import compilation, iter_clips
from codec.acceleration import OperationsChooser
from codec.field_operations import FieldOperations
from motion_vq import MotionTokenizer
from tests.test_tokens import random_tokens
from videotok import TokensError
from videotok.bundle import Bundle
from videotok.cli.main import main
from videotok.corpus.ray_pipeline import Cluster, _start_ray
from videotok.corpus.schema import CLIP_COLUMNS, METADATA_VERSION, VERSION
from videotok.corpus.storage import read_shard
from videotok.errors import CorpusError, ModelError
from videotok.io_utils import read_json
from videotok.lm.data import read_samples

CLOSED = {"stdout": ">&-", "stdin": "<&-", "stderr": "2>&-", "all three": "<&- >&- 2>&-"}


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_standard_streams(closed, tmp_path):
    """A file that is opened later must not get the number of one of them."""
    random_tokens().save(tmp_path / "a.vtok")
    program = "import sys, os; from videotok.cli.main import main; code = main(['info', 'a.vtok']); "
    program += "os.write(3, str([os.fstat(n).st_rdev for n in range(3)]).encode()); sys.exit(code)"
    command = f'"{sys.executable}" -c "{program}" {CLOSED[closed]} 3>numbers'
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert (done.stdout == "") == ("stdout" in closed or "all" in closed)
    null = Path("/dev/null").stat().st_rdev
    numbers = json.loads((tmp_path / "numbers").read_text())
    wanted = {"stdin": [0], "stdout": [1], "stderr": [2], "all three": [0, 1, 2]}[closed]
    assert [numbers[number] for number in wanted] == [null] * len(wanted)


def test_jsonl_that_is_not_utf8_or_nests_too_deeply(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"question": "was für eine", "answer": "b"}\n'.encode("latin-1"))
    with pytest.raises(TokensError, match=r"a\.jsonl is no text in UTF-8 \(.*at byte 19\)"):
        list(read_samples([path]))
    path.write_text("[" * 100_000)
    with pytest.raises(TokensError, match=r"a\.jsonl:1 is not"):
        list(read_samples([path]))


def test_jsonl_lines_end_at_line_feeds_alone(tmp_path):
    path, question = tmp_path / "a.jsonl", "one\u2028line\u0085 only"
    line = json.dumps({"question": question, "answer": "yes"}, ensure_ascii=False)
    path.write_text(f"{line}\r\n\n{line}", encoding="utf-8-sig", newline="")
    samples = list(read_samples([path]))
    assert [sample.turns[0].text for sample in samples] == [question, question]


def test_json_that_nests_too_deeply_is_no_json(tmp_path):
    (tmp_path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(ValueError, match=r"config\.json nests too deeply"):
        read_json(tmp_path / "config.json")


def test_ray_that_does_not_start_is_no_fault_of_ours():
    """On a busy machine Ray raises a plain exception."""

    class Ray:
        @staticmethod
        def init(**options: object) -> None:
            raise Exception("The current node timed out during startup.")

    message = "cannot start or reach Ray at this machine: The current node timed out"
    with pytest.raises(CorpusError, match=message), _start_ray(Ray, Cluster()):
        pass


def changed_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without_a_tensor(folder: Path) -> None:
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    del tensors[sorted(tensors)[len(tensors) // 2]]
    save_file(tensors, path)


DAMAGES = {
    "a tensor is missing": ("keyframes", without_a_tensor, "its weights lack "),
    "more layers than weights": ("keyframes", lambda folder: changed_config(folder, decoder_depth=3), "lack "),
    "fewer layers than weights": ("detokenizer", lambda folder: changed_config(folder, motion_layers=0), "have "),
    "another type": ("motion", lambda folder: changed_config(folder, grid="x"), "cannot load motion"),
    "an empty list": ("motion", lambda folder: changed_config(folder, patch=[]), "cannot load motion"),
    "a huge number": ("keyframes", lambda folder: changed_config(folder, image_size=10**20), "cannot load keyframes"),
    "no object": ("detokenizer", lambda folder: (folder / "config.json").write_text("[]"), "cannot load detokenizer"),
    "no JSON": ("detokenizer", lambda folder: (folder / "config.json").write_text("{"), "cannot load detokenizer"),
    "no weights": ("detokenizer", lambda folder: next(folder.glob("*.safetensors")).unlink(), "detokenizer"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_model_folders_are_refused_in_one_line(damage, tiny_model, tmp_path, capfd):
    """Weights other than config.json says would be left as they come, or left out, and give other ids."""
    part, make, message = DAMAGES[damage]
    shutil.copytree(tiny_model, tmp_path / "model")
    make(tmp_path / "model" / part)
    with pytest.raises(ModelError, match=re.escape(message)) as raised:
        load_all(Bundle.find(str(tmp_path / "model")))
    assert str(raised.value).isprintable()
    assert capfd.readouterr().err == ""


def load_all(bundle: Bundle) -> None:
    bundle.load_keyframes(torch.float32)
    bundle.load("motion", MotionTokenizer, torch.float32)
    bundle.load_detokenizer(torch.float32)


KERNEL = """
from numba import types

from codec.compilation import kernel


@kernel(types.int64(types.int64))
def twice(number):
    return 2 * number
"""


def imported_anew(path: Path) -> ModuleType:
    """Import a module as a new process would."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("length", [0, 40])
def test_a_damaged_numba_cache_is_written_anew(ending, length, tmp_path, monkeypatch):
    """A full disk or a power failure cuts its files short."""
    monkeypatch.setattr(compilation, "KERNELS", [])
    path = tmp_path / "kernels.py"
    path.write_text(KERNEL)
    imported_anew(path)
    compilation.compile_kernels()
    (file,) = (tmp_path / "__pycache__").glob(f"*.{ending}")
    content = file.read_bytes()
    file.write_bytes(content[:length])
    for hits in (0, 1):
        compilation.KERNELS.clear()
        module = imported_anew(path)
        compilation.compile_kernels()
        assert module.twice(21) == 42
        assert sum(module.twice.stats.cache_hits.values()) == hits


def test_kernels_that_cannot_be_compiled_are_not_needed(monkeypatch, clip_mp4):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    expected = [clip.motion.vectors for clip in iter_clips(clip_mp4)]
    monkeypatch.setattr(compilation, "compile_kernels", full)
    chooser = OperationsChooser("1")
    monkeypatch.setattr("codec.motion_composition.CHOOSER", chooser)
    monkeypatch.setattr("codec.resample.CHOOSER", chooser)
    found = [clip.motion.vectors for clip in iter_clips(clip_mp4)]
    np.testing.assert_array_equal(found, expected)
    assert type(chooser.current((20, 36))) is FieldOperations


@pytest.mark.parametrize("command", [["ask", "clip.mp4"], ["generate", "--seconds", "1"]])
@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d"])
def test_texts_that_are_not_utf8_are_refused(command, text, capfd):
    assert main(["lm", *command, text]) == 2
    assert "is not UTF-8; type it in a terminal" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("codec", None, "`codec` is missing"),
        ("clips", pa.array(["x"]), "`clips` is string, it must be int32"),
        ("clips", pa.nulls(1, pa.int32()), "`clips` lacks values"),
    ],
)
def test_shards_of_other_columns_are_refused(column, values, message, tmp_path):
    columns = {field.name: pa.nulls(1, field.type) for field in CLIP_COLUMNS if field.nullable}
    columns |= {field.name: example(field.type) for field in CLIP_COLUMNS if not field.nullable}
    metadata = {METADATA_VERSION: str(VERSION)}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / "part.parquet")
    assert read_shard(tmp_path / "part.parquet").num_rows == 1
    columns[column] = values
    table = pa.table({name: value for name, value in columns.items() if value is not None})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "part.parquet")
    with pytest.raises(CorpusError, match=message):
        read_shard(tmp_path / "part.parquet")


def example(kind: pa.DataType) -> pa.Array:
    """Return one value of a type."""
    value = (
        [] if pa.types.is_list(kind) else "x" if pa.types.is_string(kind) else b"" if pa.types.is_binary(kind) else 0
    )
    return pa.array([value]).cast(kind)
