"""Motion of known clips, through every encoder: sign, size and units of the vectors."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codec import Clip, ClipSpec, MediaError, VideoWriter, iter_clips, probe
from codec.container import open_video
from codec.decoder import read_frames
from codec.motion_vectors import lattice_to_grid, vectors_to_lattice
from tests.videos import error_pixels, even, scenes, truth, write
from videotok.virtual_camera import Scene

SIZE = (256, 144)
SPEC = ClipSpec(frames=12)
SECONDS = 1.0


def first_clip(path: Path, **options) -> Clip:
    return next(iter_clips(path, SPEC, **options))


@pytest.fixture(scope="module")
def moving() -> dict[str, Scene]:
    return scenes(SIZE)


@pytest.mark.parametrize(
    ("encoding", "scene", "limit"),
    [
        ("ultrafast", "pan", 1.5),
        ("medium", "pan", 0.8),
        ("medium", "zoom", 0.8),
        ("medium", "layers", 1.0),
        ("veryslow", "pan", 1.2),
        ("zerolatency", "turn", 1.2),
        ("mpeg4", "pan", 1.3),
        ("mpeg4-b", "pan", 1.6),
        ("mpeg2-b", "pan", 1.2),
    ],
)
def test_vectors_match_the_known_motion(encoding, scene, limit, moving, tmp_path):
    times = even(SECONDS, 30)
    path = write(tmp_path / "clip.mp4", moving[scene], times, encoding)
    clip = first_clip(path)
    assert clip.motion_source == "native"
    assert clip.num_frames == SPEC.frames
    assert clip.motion.valid[1:].mean() > 0.6
    assert error_pixels(moving[scene], clip, [float(time) for time in times], SPEC) < limit


@pytest.mark.parametrize("fps", [24, 25, Fraction(30000, 1001), 60, 10])
def test_motion_does_not_depend_on_the_frame_rate(fps, moving, tmp_path):
    times = even(SECONDS, fps)
    clip = first_clip(write(tmp_path / "clip.mp4", moving["pan"], times, "medium", fps))
    assert error_pixels(moving["pan"], clip, [float(time) for time in times], SPEC) < 1.2
    # a pan of (0.24, -0.12) frames a second, whatever the source's rate
    total = np.median(clip.motion.vectors[1:], axis=(1, 2)).sum(0) / (clip.num_frames - 1) * 12
    assert total == pytest.approx([0.24, -0.12], abs=0.02)


def test_variable_frame_rate(moving, tmp_path):
    rng = np.random.default_rng(0)
    times = [Fraction(int(pts), 600) for pts in np.cumsum(rng.integers(6, 60, 40))]
    path = write(tmp_path / "clip.mp4", moving["pan"], times, "medium", time_base=Fraction(1, 600))
    clip = first_clip(path)
    shown = [float(time) for time in times]
    assert error_pixels(moving["pan"], clip, shown, SPEC) < 1.5


def test_motion_of_a_reencoding(moving, tmp_path):
    times = even(SECONDS, 25)
    clip = first_clip(write(tmp_path / "clip.mp4", moving["layers"], times, fps=25), motion_source="reencode")
    assert clip.motion_source == "reencode"
    assert error_pixels(moving["layers"], clip, [float(time) for time in times], SPEC) < 0.8


def test_reference_distances_are_taken_into_account(moving, tmp_path):
    """Taking `source * motion` as the motion of one frame, as Video-LaVIT does, more than doubles the error."""
    times = even(SECONDS, 30)
    path = write(tmp_path / "clip.mp4", moving["pan"], times, "veryslow")
    errors = []
    with open_video(path) as (container, stream):
        for frame in read_frames(container, stream, with_vectors=True):
            if frame.vectors is None:
                continue
            lattice = vectors_to_lattice(frame.vectors, *SIZE)
            signed = np.where(lattice.known[0][..., None], lattice.vectors[0], -lattice.vectors[1])
            pooled = lattice_to_grid(signed, lattice.known.any(0), *SIZE, SPEC.grid)
            exact, _ = moving["pan"].motion(frame.pts_seconds, frame.pts_seconds - 1 / 30, SPEC.grid)
            errors.append(np.linalg.norm((pooled.vectors - exact) * SIZE, axis=-1)[pooled.weight > 0.5].mean())
    per_step = np.mean(errors) * 30 / 12
    ours = error_pixels(moving["pan"], first_clip(path), [float(time) for time in times], SPEC)
    assert ours < per_step / 2


def test_the_first_vector_field_leads_into_the_keyframe(moving, tmp_path):
    times = even(2.2, 30)
    clips = list(iter_clips(write(tmp_path / "clip.mp4", moving["pan"], times), SPEC))
    assert not clips[0].motion.valid[0].any()
    assert np.array_equal(clips[0].motion.vectors[0], clips[0].motion.vectors[1])
    exact, _ = truth(moving["pan"], clips[1], [float(time) for time in times], SPEC)
    assert clips[1].motion.valid[0].mean() > 0.6
    assert np.median(clips[1].motion.vectors[0] - exact[0], axis=(0, 1)) == pytest.approx([0, 0], abs=0.004)


def test_native_vectors_that_do_not_exist(moving, tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 10, SIZE, codec="libx265", options={"x265-params": "log-level=none"}) as writer:
        for time in even(0.5, 10):
            writer.write(moving["pan"].frame(float(time)))
    with pytest.raises(MediaError, match="hevc video has no usable motion vectors"):
        first_clip(path, motion_source="native")
    assert first_clip(path).motion_source == "reencode"


@pytest.mark.parametrize(
    ("codec", "options", "exact", "inferred"),
    [
        ("libx264", {"bf": "0", "refs": "1"}, (1, 1), (0, 0)),
        ("libx264", {"tune": "zerolatency", "refs": "4"}, (0, 0.2), (0.8, 1)),
        ("libx264", {"preset": "veryslow", "x264-params": "ref=8:bframes=8:b-pyramid=normal"}, (0.2, 0.7), (0.3, 0.8)),
        ("mpeg4", {"b": "4M", "bf": "0"}, (1, 1), (0, 0)),
        # a block without motion in both directions looks like a direct block of MPEG-4, whose vectors are inferred
        ("mpeg2video", {"b": "4M", "bf": "2"}, (0.95, 1), (0, 0.05)),
    ],
    ids=["one reference", "four references", "pyramid", "mpeg4", "mpeg2 with B frames"],
)
def test_shares_of_exact_and_inferred_vectors(codec, options, exact, inferred, moving, tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 25, SIZE, codec=codec, options=options | {"g": "100"}) as writer:
        for time in even(0.9, 25):
            writer.write(moving["zoom"].frame(float(time)))
    shares = first_clip(path).shares
    assert shares.exact + shares.inferred + shares.missing == pytest.approx(1)
    assert shares.missing < 0.3
    present = shares.exact + shares.inferred
    assert exact[0] - 1e-6 <= shares.exact / present <= exact[1] + 1e-6
    assert inferred[0] - 1e-6 <= shares.inferred / present <= inferred[1] + 1e-6


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "interlaced=1:bframes=0"}),  # frames of field macroblocks: MBAFF
        ("mpeg2video", {"flags": "+ildct+ilme", "field_order": "tt", "b": "4M", "bf": "0"}),
    ],
    ids=["MBAFF", "MPEG-2"],
)
def test_interlaced_video_is_reencoded(codec, options, moving, tmp_path):
    """Vectors between fields are not used as vectors between frames."""
    path = tmp_path / "clip.mkv"
    times = even(SECONDS, 25)
    with VideoWriter(path, 25, SIZE, codec=codec, options=options) as writer:
        for time in times:
            writer.write(moving["pan"].frame(float(time)))
    facts = probe(path)
    assert facts.is_interlaced
    assert not facts.has_native_vectors
    clip = first_clip(path)
    assert clip.motion_source == "reencode"
    assert clip.shares.missing < 0.2
    assert error_pixels(moving["pan"], clip, [float(time) for time in times], SPEC) < 1.0
    with pytest.raises(MediaError, match="interlaced video has no usable motion vectors"):
        first_clip(path, motion_source="native")
