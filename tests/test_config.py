"""EncodeConfig and DecodeConfig: every value out of range is refused at once, with a line that says what is allowed."""

import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videotok.config import DecodeConfig, EncodeConfig, parse_rate

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
ANY_VALUE = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner), max_leaves=5
)


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        ("12", 12),
        (" 12.5 ", Fraction(25, 2)),
        ("30000/1001", Fraction(30000, 1001)),
        ("1e2", 100),
        (6, 6),
        (np.float32(6), 6),
        (np.int64(24), 24),
        (Decimal("12.5"), Fraction(25, 2)),
        (Fraction(1, 3600), Fraction(1, 3600)),
    ],
)
def test_rates(value, rate):
    assert EncodeConfig(fps=value).fps == rate


@pytest.mark.parametrize(
    "value",
    [
        *("1e-6", "1e400", "1e99999999", "9" * 5000, "inf", "nan", "", "/", "1/0", "0", "-3", "1001", "\x1b[31m12"),
        *("\u0661\u0662", 10**400, Decimal("1e99999999"), float("inf"), float("nan"), None, True, [12]),
    ],
    ids=lambda value: ascii(value)[:12],
)
def test_rates_that_are_refused_at_once(value):
    began = time.monotonic()
    with pytest.raises(ValueError, match="1/3600") as caught:
        parse_rate(value)
    assert time.monotonic() - began < 1
    assert_harmless(str(caught.value))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("motion_source", "x", "auto, native, reencode, mpeg4"),
        ("motion_source", ["native"], "auto, native, reencode, mpeg4"),
        ("keyframe_storage", "png", "tokens, jpeg"),
        ("patch_selection", None, "threshold, sample"),
        ("max_clips", 0, "at least 1"),
        ("max_clips", -1, "at least 1"),
        ("max_clips", 10**20, "at most"),
        ("max_clips", 10**400, "at most"),
        ("max_clips", 1.0, "whole number"),
        ("stream", -1, "from 0"),
        ("seed", "1", "whole number"),
        ("isolate", "no", "True or False"),
        ("keep_ratio", float("nan"), "above 0 and at most 1"),
        ("keep_ratio", "half", "above 0 and at most 1"),
        ("start_seconds", float("inf"), "0 or more, and finite"),
        ("start_seconds", float("nan"), "0 or more, and finite"),
        ("start_seconds", "1", "0 or more, and finite"),
        ("start_seconds", -0.5, "0 or more, and finite"),
        ("duration_seconds", float("nan"), "above 0, and finite"),
        ("duration_seconds", 0, "above 0, and finite"),
        ("duration_seconds", 10**400, "above 0, and finite"),
    ],
)
def test_values_out_of_range(option, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        EncodeConfig(**{option: value})
    assert f"`{option}`" in str(caught.value)
    assert_harmless(str(caught.value))


@pytest.mark.parametrize("size", [(8000, 8000), (64,), "64x48", (64.0, 48), (True, 64), 64])
def test_sizes_that_are_refused(size):
    with pytest.raises(ValueError, match="16 to 4096"):
        DecodeConfig(size=size)


@pytest.mark.parametrize("config", [EncodeConfig, DecodeConfig])
@given(data=st.data())
def test_any_value_is_taken_or_refused_in_one_line(config, data):
    name = data.draw(st.sampled_from(sorted(config().to_dict())))
    value = data.draw(ANY_VALUE)
    try:
        accepted = config.from_dict({name: value})
    except ValueError as error:
        assert_harmless(str(error))
    else:
        assert config.from_dict(accepted.to_dict()) == accepted


def test_numbers_too_long_to_print_are_refused():
    with pytest.raises(ValueError, match="many digits") as caught:
        EncodeConfig(max_clips=10**5000)
    assert_harmless(str(caught.value))
    with pytest.raises(ValueError, match="16 to 4096") as caught:
        DecodeConfig(size=(10**5000, 64))
    assert_harmless(str(caught.value))


def test_fractions_are_stored_as_numbers():
    options: Any = {"start_seconds": Fraction(3, 2), "duration_seconds": np.float32(0.5)}
    assert EncodeConfig.from_dict(EncodeConfig(**options).to_dict()) == EncodeConfig(
        start_seconds=1.5, duration_seconds=0.5
    )


def assert_harmless(message: str) -> None:
    """Check that a message is one short line without control characters."""
    assert message.isprintable(), ascii(message)
    assert len(message) < 250
