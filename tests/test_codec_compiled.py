"""Compiled array operations give what numpy's give, bit by bit; and when they are used."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numba
import numpy as np
import pytest

from codec import Clip, acceleration, compilation, compiled_fields, compiled_scene_cuts, compiled_vectors, iter_clips
from codec.acceleration import CHOOSER, OperationsChooser, differing_operation, random_records
from codec.compilation import compile_kernels
from codec.compiled_fields import CompiledOperations
from codec.field_operations import FieldOperations, ListCandidates
from tests.videos import even, scenes, write

pytestmark = pytest.mark.skipif(
    int(cv2.__version__.split(".")[0]) < 5,
    reason="older versions of OpenCV round otherwise: compiled operations are not used there",
)


@pytest.fixture(scope="module")
def compiled() -> CompiledOperations:
    compile_kernels()
    return CompiledOperations()


@pytest.fixture
def chooser():
    """Restore the choice of this process after the test."""
    yield CHOOSER
    CHOOSER.choose("")


@pytest.mark.parametrize("grid", [(40, 72), (72, 40), (9, 13), (1, 7)])
def test_all_operations_are_equal(grid, compiled):
    assert differing_operation(FieldOperations(), compiled, grid) is None


@pytest.mark.parametrize("size", [(64, 48), (100, 52), (20, 400), (300, 220), (24, 40)])
@pytest.mark.parametrize("spans", [([0.04], []), ([0.04, 0.08], [-0.04, -0.08]), ([], [-0.1])])
def test_pooled_vectors_are_equal(size, spans, compiled):
    random = np.random.default_rng(3)
    records = random_records(random, size)
    records["motion_scale"][:5] = 2
    records["dst_x"][5:9] = [-8, 4000, 30000, 8]
    velocity = random.normal(size=(10, 6, 2)).astype(np.float32)
    lists = [ListCandidates(np.array(one, np.float32), len(one) == 1) for one in spans]
    one, other = (
        operations.pool_vectors(records, size, lists, velocity, False) for operations in (FieldOperations(), compiled)
    )
    assert 0.2 < one.any_share < 1
    assert acceleration._equal(one, other)


def test_direct_blocks_are_equal(compiled):
    """MPEG-4's direct blocks: two vectors that are zero stand for the expected motion."""
    random, size = np.random.default_rng(4), (96, 64)
    records = random_records(random, size)
    records["motion_x"][random.random(len(records)) < 0.6] = 0
    records["motion_y"][records["motion_x"] == 0] = 0
    velocity = random.normal(size=(8, 12, 2)).astype(np.float32)
    lists = [ListCandidates(np.array([span], np.float32), True) for span in (0.04, -0.08)]
    results = [
        operations.pool_vectors(records, size, lists, velocity, True) for operations in (FieldOperations(), compiled)
    ]
    assert results[0].exact_share < results[0].any_share
    assert acceleration._equal(*results)


def read(path: Path, setting: str, **options) -> list[Clip]:
    CHOOSER.choose(setting)
    return list(iter_clips(path, **options))


@pytest.mark.parametrize("encoding", ["veryslow", "mpeg4-b"])
def test_clips_are_equal(encoding, tmp_path, chooser, compiled):
    path = write(tmp_path / "v.mp4", scenes((192, 112))["layers"], even(1.5, 25), encoding, fps=25)
    numpy_clips, compiled_clips = read(path, "0"), read(path, "1")
    assert isinstance(chooser.current((40, 72)), CompiledOperations)
    for one, other in zip(numpy_clips, compiled_clips, strict=True):
        assert one.motion.vectors.tobytes() == other.motion.vectors.tobytes()
        assert np.array_equal(one.motion.valid, other.motion.valid)
        assert one.shares == other.shares


def test_a_change_on_the_way_changes_nothing(tmp_path, chooser, compiled, monkeypatch):
    path = write(tmp_path / "v.mp4", scenes((192, 112))["pan"], even(1.5, 25), fps=25)
    monkeypatch.setattr(acceleration, "FRAMES_BEFORE_LOADING", 12)
    monkeypatch.setattr(acceleration, "FRAMES_BEFORE_COMPILING", 12)
    (before, *_), (after, *_) = read(path, "0"), read(path, "")
    assert isinstance(chooser.current((40, 72)), CompiledOperations)
    assert before.motion.vectors.tobytes() == after.motion.vectors.tobytes()


def test_operations_that_differ_are_not_used(monkeypatch, compiled):
    monkeypatch.setattr(acceleration, "differing_operation", lambda *_: "filled")
    assert type(OperationsChooser("1").for_next_frame((40, 72))) is FieldOperations


def test_numpy_is_used_where_numba_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "codec.compiled_fields", None)
    monkeypatch.delattr("codec.compiled_fields")
    chooser = OperationsChooser("1")
    assert [type(chooser.for_next_frame((40, 72))) for _ in range(3)] == [FieldOperations] * 3


def test_few_frames_do_not_import_numba(monkeypatch):
    chooser = OperationsChooser("")
    monkeypatch.setattr(chooser, "_load", lambda: pytest.fail("numba was imported"))
    for _ in range(acceleration.FRAMES_BEFORE_LOADING):
        assert type(chooser.for_next_frame((40, 72))) is FieldOperations


def test_kernels_without_a_folder_for_the_cache(monkeypatch):
    def njit(**options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(compilation, "numba", SimpleNamespace(njit=njit))
    monkeypatch.setattr(compilation, "KERNELS", [])
    twice = compilation.kernel(numba.types.int64(numba.types.int64))(lambda value: 2 * value)
    assert not compilation.is_compiled()
    compile_kernels()
    assert twice(21) == 42


def test_the_cache_lies_in_the_users_folder_where_the_package_cannot_be_written(tmp_path):
    package = tmp_path / "codec"
    shutil.copytree(Path(compiled_fields.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "__pycache__").write_text("a file, so that no folder of this name can be made")
    code = (
        "from codec import compiled_fields as fields\n"
        "from codec.compilation import KERNELS\n"
        "dispatcher, signature = next(one for one in KERNELS if one[0].py_func.__name__ == '_divide')\n"
        "dispatcher.compile(signature)\n"
        "print(fields.__file__, dispatcher.stats.cache_path, sep='\\n')"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    file, folder = map(Path, done.stdout.splitlines())
    assert file.parent == package
    assert package not in folder.parents
    assert list(folder.glob("compiled_fields._divide-*.nbi"))


def test_kernels_call_functions_of_their_own_file_only():
    """numba's cache does not see changes in other files."""
    files = set()
    for dispatcher, _ in compilation.KERNELS:
        function = dispatcher.py_func
        waiting, seen = [function], set()
        while waiting:
            caller = waiting.pop()
            names = set(caller.__code__.co_names) - seen
            seen |= names
            for value in (caller.__globals__.get(name) for name in names):
                callee = getattr(value, "py_func", None)
                if callee is not None:
                    assert callee.__code__.co_filename == function.__code__.co_filename, callee
                    waiting.append(callee)
        files.add(function.__code__.co_filename)
    assert files == {module.__file__ for module in (compiled_fields, compiled_scene_cuts, compiled_vectors)}
