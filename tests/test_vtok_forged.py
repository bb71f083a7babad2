"""Forged .vtok files, with a hash that fits: refused in one line, before they cost memory or time."""

import json
import tracemalloc
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.test_tokens import random_tokens, refusal, rewritten, uneven_tokens
from videotok import TokensError, VideoTokens
from videotok.image_utils import decode_jpeg, encode_jpeg, jpeg_size
from videotok.vtok import ARRAYS, is_vtok

MAX_BYTES = 4_000_000
"""Python memory that refusing a file of some kilobytes may take."""

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.integers(10**15, 10**40)
ANY_VALUE = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
FORGED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def saved(tmp_path):
    random_tokens().save(tmp_path / "clip.vtok")
    return tmp_path / "clip.vtok"


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["videotok"])


def field_paths(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the paths of all fields of a header, those inside of other fields too."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [found for key, entry in entries for found in field_paths(entry, (*path, key))]
    return [path, *inner] if path else inner


def with_field(header: dict[str, Any], path: tuple, value: Any) -> dict[str, Any]:
    """Return a header with another value in one field."""
    changed = deepcopy(header)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def load_or_refuse(path: Path) -> VideoTokens | None:
    """Load a file, or check that it is refused in one harmless line and without much memory."""
    tracemalloc.start()
    message = ""
    try:
        tokens = VideoTokens.load(path)
        assert repr(tokens).isprintable()
        json.dumps(tokens.facts())
    except TokensError as error:
        tokens, message = None, str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_BYTES
    assert message.isprintable()
    assert len(message) < len(str(path)) + 500
    return tokens


@FORGED
@given(data=st.data())
def test_any_value_in_any_header_field(saved, data):
    random_tokens().save(saved)
    header = header_of(saved)
    path = data.draw(st.sampled_from(field_paths(header)))
    load_or_refuse(rewritten(saved, with_field(header, path, data.draw(ANY_VALUE))))


@FORGED
@given(data=st.data())
def test_any_header_field_missing(saved, data):
    random_tokens().save(saved)
    header = header_of(saved)
    path = data.draw(st.sampled_from([path for path in field_paths(header) if isinstance(path[-1], str)]))
    changed = with_field(header, path, None)
    place = changed
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    tokens = load_or_refuse(rewritten(saved, changed, replace_header=True))
    assert tokens is None or path[0] in ("config", "sha256")


@FORGED
@given(
    name=st.sampled_from(ARRAYS),
    dtype=st.sampled_from(
        [np.bool_, np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float64]
    ),
    shape=st.lists(st.integers(0, 40), max_size=4),
    seed=st.integers(0, 99),
    tokens=st.sampled_from([random_tokens(), uneven_tokens()]),
)
def test_any_array_of_any_type_and_shape(saved, name, dtype, shape, seed, tokens):
    tokens.save(saved)
    array = np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)
    load_or_refuse(rewritten(saved, **{name: array}))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("patches",), 10**12, "`patches` (=1000000000000) must be a whole number from 1 to"),
        (("patches",), "13", "whole number"),
        (("patches",), 21, "`keep_mask` is U8 [3, 2], it must be U8 [3, 3]"),
        (("spec", "fps"), "1e3000000", "`spec.fps`"),
        (("spec", "fps"), "1e300", "`spec.fps`"),
        (("spec", "fps"), "1/0", "`spec.fps`"),
        (("spec", "frames"), 1e9, "`spec.frames`"),
        (("spec", "grid"), [20, 36, 3], "`spec.grid`"),
        (("source", "width"), 0, "`source.width`"),
        (("source", "duration_seconds"), "a", "`source.duration_seconds`"),
        (("source", "average_fps"), "1e99999999", "`source.average_fps`"),
        (("source", "average_fps"), 30, "`source.average_fps`"),
        (("start_seconds",), "a", "`start_seconds`"),
        (("start_seconds",), float("nan"), "`start_seconds`"),
        (("models", "keyframes", "sha256"), 5, "`models.keyframes.sha256`"),
        (("models", "detokenizer"), {}, "keyframes, motion"),
        (("codebooks", "visual"), 2**40, "`codebooks.visual`"),
        (("config", "keep_ratio"), "x", "`keep_ratio` (='x')"),
        (("config", "fps"), "1e99999999", "`fps`"),
        (("format",), 3.0, "has format 3.0"),
        (("format",), True, "has format True"),
        (("future",), [[[[[[[[[[1]]]]]]]]]], "levels deep"),
    ],
)
def test_fields_of_wrong_type_or_range(saved, path, value, message):
    assert message in refusal(rewritten(saved, with_field(header_of(saved), path, value)))


def test_quantizers_that_ask_for_all_memory(saved):
    """A few bytes a clip must not become motion ids of 255 quantizers in memory."""
    uneven_tokens(200).save(saved)
    counts = np.zeros(200, np.uint8)
    counts[0] = 255
    ids = np.zeros((255, 400), np.uint16)
    assert load_or_refuse(rewritten(saved, motion_ids=ids, motion_quantizers=counts)) is None
    assert "ask for 20400000 ids, 102000 are stored" in refusal(saved)
    assert "add up to 255" in refusal(rewritten(saved, motion_ids=ids[:9]))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "null", '"text"', "{", "{}" * 2])
def test_headers_that_are_no_object(saved, text):
    save_file({"x": np.zeros(1)}, saved, {"videotok": text})
    assert load_or_refuse(saved) is None


def test_types_that_numpy_does_not_have(saved):
    header = b'{"__metadata__": {"videotok": "{}"}, "x": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}'
    saved.write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    assert load_or_refuse(saved) is None


def test_fields_of_tomorrow_are_left_out(saved):
    header = with_field(header_of(saved), ("future",), {"a": [1, "b"]})
    assert load_or_refuse(rewritten(saved, with_field(header, ("source", "camera"), "x"))) is not None


def test_escapes_in_a_name_are_not_printed(saved):
    tokens = VideoTokens.load(rewritten(saved, with_field(header_of(saved), ("source", "file"), "\x1b[31mred\x07\n")))
    assert tokens.source.file == "\x1b[31mred\x07\n"
    assert r"\x1b[31mred\x07\n" in repr(tokens)


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (1081, 1919)])
@pytest.mark.parametrize("quality", [1, 89, 90, 100])
def test_pictures_of_one_colour_are_decoded(size, quality):
    data = encode_jpeg(np.full((*size[::-1], 3), 128, np.uint8), quality)
    assert jpeg_size(data) == size
    image = decode_jpeg(data)
    assert image is not None
    assert image.shape == (*size[::-1], 3)


def test_pictures_larger_than_their_data_are_refused():
    data = bytearray(encode_jpeg(np.full((64, 64, 3), 128, np.uint8), 90))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (65_000).to_bytes(2, "big") * 2
    assert jpeg_size(bytes(data)) == (65_000, 65_000)
    assert decode_jpeg(bytes(data)) is None
    data[frame + 1] = 0xC2  # progressive: a picture of any size in some bytes
    assert jpeg_size(bytes(data)) is None
    assert decode_jpeg(b"\x89PNG\r\n\x1a\n") is None


@given(st.binary(max_size=60), st.integers(0, 400))
def test_damaged_pictures_are_decoded_or_refused(noise, place):
    data = bytearray(encode_jpeg(np.full((16, 16, 3), 128, np.uint8), 90))
    data[place : place + len(noise)] = noise
    image = decode_jpeg(bytes(data))
    assert image is None or image.size <= 3 * 256 * len(data)


def test_content_decides_what_is_a_vtok_file(saved, tmp_path, clip_mp4):
    other = saved.rename(tmp_path / "clip.dat")
    assert is_vtok(other)
    assert not is_vtok(clip_mp4)
    assert not is_vtok(tmp_path)
    assert not is_vtok(tmp_path / "missing")
    with pytest.raises(TokensError, match=r"is a video \(h264, 160x96\), not a \.vtok file; encode it first"):
        VideoTokens.load(clip_mp4)
