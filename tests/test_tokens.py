"""VideoTokens and .vtok files: what is saved is loaded, and nothing else is."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from codec import ClipSpec
from videotok import TokensError, VideoTokens
from videotok.config import EncodeConfig
from videotok.tokens import ModelIdentity, SourceFacts
from videotok.vtok import ARRAYS, FORMAT, digest, vtok_format

DATA = Path(__file__).parent / "data"

CODEBOOKS = {"visual": 16384, "motion": 1024, "global_motion": 1024}
SOURCE = SourceFacts("clip.mp4", 12345, "h264", 640, 360, 90, 5.5, Fraction(30000, 1001))
MODELS = {"keyframes": ModelIdentity("shipped", "a" * 64), "motion": ModelIdentity("shipped", "b" * 64)}


def random_tokens(
    clips: int = 3, patches: int = 13, quantizers: int = 2, global_motion: int = 5, seed: int = 0
) -> VideoTokens:
    rng = np.random.default_rng(seed)
    mask = rng.random((clips, patches)) < 0.5
    counts = mask.sum(axis=1)
    num_frames = np.full(clips, 24, np.int32)
    num_frames[-1] = 7
    return VideoTokens(
        spec=ClipSpec(),
        source=SOURCE,
        motion_source="native",
        models=MODELS,
        codebooks=CODEBOOKS,
        visual_ids=rng.integers(0, CODEBOOKS["visual"], counts.sum(), np.int32),
        visual_offsets=np.cumsum([0, *counts], dtype=np.int64),
        keep_mask=mask,
        motion_ids=rng.integers(0, CODEBOOKS["motion"], (clips, quantizers, 135), np.int32),
        global_motion_ids=rng.integers(0, CODEBOOKS["global_motion"], (clips, global_motion), np.int32),
        num_frames=num_frames,
        pts_seconds=np.arange(clips) * 2.0 + 1 / 3,
        damaged=rng.random(clips) < 0.3,
        start_seconds=1.5,
        config=EncodeConfig(fps=Fraction(12), start_seconds=1.5, keep_ratio=0.5),
    )


def uneven_tokens(clips: int = 3, quantizers: int = 2, seed: int = 0) -> VideoTokens:
    """Return random tokens whose clips have different numbers of motion quantizers; the first one has all of them."""
    tokens = random_tokens(clips, quantizers=quantizers, seed=seed)
    counts = np.random.default_rng(seed).integers(0, quantizers + 1, clips).astype(np.int32)
    counts[0], counts[-1] = quantizers, 0
    is_there = np.arange(quantizers)[:, None] < counts[:, None, None]
    return replace(tokens, motion_ids=tokens.motion_ids * is_there, motion_quantizers=counts)


def assert_same(a: VideoTokens, b: VideoTokens) -> None:
    assert a.facts() == b.facts()
    for name in (*(set(ARRAYS) - {"pictures", "picture_offsets"}), "visual_counts"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 3), st.integers(0, 4), st.integers(0, 99))
def test_round_trip(tmp_path_factory, clips, patches, quantizers, global_motion, seed):
    path = tmp_path_factory.mktemp("tokens") / "clip.vtok"
    tokens = random_tokens(clips, patches, quantizers, global_motion, seed)
    tokens.save(path)
    assert_same(tokens, VideoTokens.load(path))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 99))
def test_round_trip_of_different_quantizers(tmp_path_factory, clips, quantizers, seed):
    path = tmp_path_factory.mktemp("tokens") / "clip.vtok"
    tokens = uneven_tokens(clips, quantizers, seed)
    tokens.save(path)
    assert vtok_format(path) == 4
    assert_same(tokens, VideoTokens.load(path))
    with safe_open(path, framework="numpy") as file:
        assert file.get_tensor("motion_ids").shape == (tokens.motion_quantizers.sum(), 135)


def test_equal_quantizers_are_saved_as_format_3(tmp_path):
    """Earlier versions can read such a file."""
    random_tokens().save(tmp_path / "a.vtok")
    assert vtok_format(tmp_path / "a.vtok") == 3
    uneven_tokens().first_quantizers(0).save(tmp_path / "b.vtok")
    assert vtok_format(tmp_path / "b.vtok") == 3


def test_equal_tokens_give_equal_bytes(tmp_path):
    random_tokens().save(tmp_path / "a.vtok")
    random_tokens().save(tmp_path / "b.vtok")
    assert (tmp_path / "a.vtok").read_bytes() == (tmp_path / "b.vtok").read_bytes()


def test_file_is_compact(tmp_path):
    random_tokens().save(tmp_path / "a.vtok")
    with safe_open(tmp_path / "a.vtok", framework="numpy") as file:
        assert file.get_tensor("visual_ids").dtype == np.uint16
        assert file.get_tensor("motion_ids").dtype == np.uint16
        assert file.get_tensor("keep_mask").shape == (3, 2)  # 13 patches in 2 bytes


def test_counts():
    tokens = random_tokens()
    assert tokens.num_clips == 3
    assert tokens.motion_counts.tolist() == [5 + 2 * 135] * tokens.num_clips
    assert tokens.num_tokens == len(tokens.visual_ids) + 3 * 275
    assert tokens.duration_seconds == pytest.approx((24 + 24 + 7) / 12)
    assert tokens.tokens_per_second == pytest.approx(tokens.num_tokens / tokens.duration_seconds)
    np.testing.assert_array_equal(np.concatenate([tokens.visual_ids_of(i) for i in range(3)]), tokens.visual_ids)


def test_quantizers_are_nested():
    tokens = random_tokens(quantizers=3)
    coarse = tokens.first_quantizers(1)
    np.testing.assert_array_equal(coarse.motion_ids, tokens.motion_ids[:, :1])
    assert coarse.num_tokens == tokens.num_tokens - 3 * 2 * 135
    with pytest.raises(ValueError, match="between 0 and 3"):
        tokens.first_quantizers(4)


def test_each_clip_has_its_own_quantizers():
    tokens = uneven_tokens(4, 3, seed=1)
    counts = tokens.motion_quantizers
    assert sorted(set(counts.tolist())) == [0, 2, 3]
    assert tokens.motion_counts.tolist() == (5 + 135 * counts).tolist()
    assert tokens.num_tokens == len(tokens.visual_ids) + 4 * 5 + 135 * counts.sum()
    assert [len(tokens.motion_ids_of(clip)) for clip in range(4)] == counts.tolist()
    coarse = tokens.first_quantizers(1)
    assert coarse.motion_quantizers.tolist() == np.minimum(counts, 1).tolist()
    part = tokens.part(1, 4)
    assert part.motion_quantizers.tolist() == counts[1:].tolist()
    assert part.num_motion_quantizers == counts[1:].max()
    assert tokens.facts()["motion_quantizers_per_clip"] == {"min": 0, "mean": counts.mean(), "max": 3}
    uniform = replace(tokens, motion_quantizers=np.full(4, 3, np.int32))
    assert tokens.bits_per_second()["motion"] == pytest.approx(
        uniform.bits_per_second()["motion"] - (12 - counts.sum()) * 135 * 10 / tokens.duration_seconds
    )


def test_parts_begin_at_independent_clips():
    skipped = ~random_tokens(4).keep_mask
    skipped[[0, 2]] = False
    tokens = replace(random_tokens(4), skip_mask=skipped, pictures=(b"a", b"b", b"c", b"d"))
    part = tokens.part(2, 4)
    assert part.num_clips == 2
    np.testing.assert_array_equal(part.visual_ids_of(1), tokens.visual_ids_of(3))
    np.testing.assert_array_equal(part.skip_mask, skipped[2:])
    assert part.pictures == (b"c", b"d")
    assert part.start_seconds == pytest.approx(1.5 + 4)
    assert_same(tokens.part(0, 4), tokens)
    with pytest.raises(ValueError, match="begin at clip 2"):
        tokens.part(3, 4)
    for first, stop in ((-1, 2), (2, 2), (2, 5)):
        with pytest.raises(ValueError, match=r"0\.\.4"):
            tokens.part(first, stop)


def test_repr_prints_no_data():
    assert (
        repr(random_tokens())
        == f"VideoTokens(clip.mp4, clips=3, visual={len(random_tokens().visual_ids)}, motion=825, 4.58 s)"
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("visual_ids", np.zeros(3, np.int64), r"`visual_ids` must be int32 \[any\], got int64 \[3\]"),
        ("visual_ids", np.zeros(1, np.int32), "number of visual ids"),
        ("keep_mask", np.ones((3, 13), np.bool_), "as many ids as `keep_mask`"),
        ("motion_ids", np.full((3, 2, 135), 1024, np.int32), "from 1024 to 1024, their codebook from 0 to 1023"),
        ("global_motion_ids", np.full((3, 5), -1, np.int32), "from -1 to -1"),
        ("num_frames", np.array([24, 25, 1], np.int32), "between 1 and 24"),
        ("num_frames", np.array([24, 0, 1], np.int32), "between 1 and 24"),
        ("pts_seconds", np.array([0.0, 2.0, 1.0]), "rise"),
        ("pts_seconds", np.array([0.0, np.nan, 1.0]), "finite"),
        ("skip_mask", np.ones((3, 13), np.bool_), "empty in clip 0"),
        ("skip_mask", np.zeros((3, 12), np.bool_), r"`skip_mask` must be bool \[3, 13\]"),
        (
            "skip_mask",
            random_tokens().keep_mask & (np.arange(3) > 0)[:, None],
            "never name a patch that `keep_mask` keeps",
        ),
        ("pictures", (b"one",), "none, or one per clip"),
        ("motion_quantizers", np.array([2, 1, 2], np.int32), "0 past the quantizers that a clip has"),
        ("motion_quantizers", np.array([1, 1, 1], np.int32), "run from 1 to 1"),
        ("motion_quantizers", np.array([2, -1, 2], np.int32), "run from -1 to 2"),
        ("motion_quantizers", np.array([2, 2], np.int32), r"int32 \[3\], got int32 \[2\]"),
        ("motion_source", "guess", "must be native"),
        ("models", {"keyframes": MODELS["keyframes"]}, "must name keyframes, motion"),
    ],
)
def test_contradictions_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        replace(random_tokens(), **{name: value})


def rewritten(path: Path, header: dict | None = None, *, replace_header: bool = False, **arrays: np.ndarray) -> Path:
    """Change some entries of the header, or all of it, or some arrays of a file, with a hash that fits.

    Returns:
        The path.
    """
    with safe_open(path, framework="numpy") as file:
        old = json.loads(file.metadata()["videotok"])
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    new, arrays = ({} if replace_header else old) | (header or {}), kept | arrays
    new["sha256"] = digest(new, arrays)
    save_file(arrays, path, {"videotok": json.dumps(new)})
    return path


@pytest.fixture
def saved(tmp_path):
    random_tokens().save(tmp_path / "clip.vtok")
    return tmp_path / "clip.vtok"


def refusal(path: Path) -> str:
    """Return the one line that loading a file is refused with."""
    with pytest.raises(TokensError) as caught:
        VideoTokens.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["format1.vtok", "format2.vtok"])
def test_files_of_earlier_formats_are_read(name):
    """The files were written by earlier versions; formats.json has what these versions said of them."""
    tokens, expected = VideoTokens.load(DATA / name), json.loads((DATA / "formats.json").read_text())[name]
    assert vtok_format(DATA / name) == int(name[6])
    assert tokens.codebooks == {"visual": 64, "motion": 32, "global_motion": expected["codebooks"]["camera"]}
    assert tokens.models["keyframes"].sha256 == expected["keyframes_sha256"]
    assert tokens.keep_mask.nonzero()[1].tolist() == expected["kept"]
    assert tokens.skip_mask.nonzero()[1].tolist() == expected["skipped"]
    assert tokens.motion_ids[:, :, :5].tolist() == expected["motion_ids"]
    assert tokens.motion_ids.sum() == expected["motion_sum"]
    assert [len(picture) for picture in tokens.pictures] == expected["jpeg_bytes"]
    for array in ("visual_ids", "visual_offsets", "global_motion_ids", "num_frames", "pts_seconds"):
        assert getattr(tokens, array).tolist() == expected[array], array
    assert tokens.config is None


def test_a_file_of_format_2_is_saved_as_format_3(tmp_path):
    tokens = VideoTokens.load(DATA / "format2.vtok")
    tokens.save(tmp_path / "a.vtok")
    assert vtok_format(tmp_path / "a.vtok") == 3
    assert_same(VideoTokens.load(tmp_path / "a.vtok"), tokens)


def test_arrays_of_another_format_are_refused(saved, tmp_path):
    path = tmp_path / "old.vtok"
    path.write_bytes((DATA / "format1.vtok").read_bytes())
    assert "a .vtok file of format 2" in refusal(rewritten(path, {"format": 2}))
    assert "a .vtok file of format 2" in refusal(rewritten(saved, {"format": 2}))


def test_the_config_is_recorded(saved):
    assert VideoTokens.load(saved).config == random_tokens().config
    later = random_tokens().config.to_dict() | {"option_of_tomorrow": 1}
    assert VideoTokens.load(rewritten(saved, {"config": later})).config == random_tokens().config
    assert "keep_ratio" in refusal(rewritten(saved, {"config": later | {"keep_ratio": 7}}))


def test_skipped_patches_and_pictures_are_stored(tmp_path):
    skipped = ~random_tokens().keep_mask
    skipped[0] = False
    tokens = replace(random_tokens(), skip_mask=skipped, pictures=(b"one", b"two and more", b"3"))
    tokens.save(tmp_path / "a.vtok")
    again = VideoTokens.load(tmp_path / "a.vtok")
    assert again.pictures == tokens.pictures
    np.testing.assert_array_equal(again.skip_mask, skipped)
    assert again.independent.tolist() == [True, False, False]
    bits = again.bits_per_second()
    assert bits["pictures"] == pytest.approx(8 * 16 / again.duration_seconds)
    assert bits["visual"] == pytest.approx((14 * len(again.visual_ids) + 2 * 3 * 13) / again.duration_seconds)


@pytest.mark.parametrize("ends", [[0, 3, 2, 8], [1, 3, 5, 8], [0, 3, 5, 9]])
def test_pictures_that_overlap_are_damage(tmp_path, ends):
    replace(random_tokens(), pictures=(b"one", b"two", b"34")).save(tmp_path / "a.vtok")
    assert "damaged" in refusal(rewritten(tmp_path / "a.vtok", picture_offsets=np.array(ends, np.uint64)))


def test_newer_format_names_both(saved):
    message = refusal(rewritten(saved, {"format": FORMAT + 1}))
    assert f"has format {FORMAT + 1}" in message
    assert f"formats 1 to {FORMAT}" in message


def test_damage_names_both_hashes(saved):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1  # most likely still a valid id: only the hash can tell
    saved.write_bytes(data)
    assert "its header says" in refusal(saved)


def test_changed_headers_are_found(saved):
    assert "damaged" in refusal(rewritten(saved, {"codebooks": CODEBOOKS | {"motion": 4}}))
    assert "damaged" in refusal(rewritten(saved, {"spec": {"frames": 24, "fps": "0", "grid": [20, 36]}}))
    assert "damaged" in refusal(rewritten(saved, {"source": None}))


def test_missing_and_foreign_arrays_are_found(saved):
    assert "surplus" in refusal(rewritten(saved, surplus=np.zeros(1)))


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated_file(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    assert "cut short or damaged" in refusal(saved)


def test_every_changed_byte_is_found(saved):
    intact = saved.read_bytes()
    for place in range(0, len(intact), 5):
        data = bytearray(intact)
        data[place] ^= 0x15
        saved.write_bytes(data)
        refusal(saved)


def test_not_a_token_file(tmp_path):
    text = tmp_path / "text.vtok"
    text.write_text("hello")
    assert "not a .vtok file" in refusal(text)
    other = tmp_path / "other.vtok"
    save_file({"x": np.zeros(3)}, other)
    assert "not a .vtok" in refusal(other)
    assert "no such file" in refusal(tmp_path / "missing.vtok")
    refusal(tmp_path)
