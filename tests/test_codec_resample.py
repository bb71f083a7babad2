"""Frame schedule, resampler, and operations on motion fields."""

from fractions import Fraction

import av
import numpy as np
import pytest

from codec import ClipSpec
from codec.decoder import SourceFrame
from codec.field_operations import FieldOperations
from codec.motion_composition import AccumulatedMotion, FrameWithMotion
from codec.motion_fields import StepField, WeightedField, compose, fill_holes, orient, pool
from codec.resample import FrameSchedule, Resampler, fine_grid
from codec.side_data import Orientation

SPEC = ClipSpec(frames=4, fps=Fraction(10), grid=(4, 6))
GRID = fine_grid(SPEC)


def constant(x: float, y: float, valid: bool = True, grid: tuple[int, int] = GRID) -> StepField:
    return StepField(np.full((*grid, 2), (x, y), np.float32), np.full(grid, valid))


def frames_at(*times: float, motion: StepField | None = None) -> list[FrameWithMotion]:
    """Return frames shown at these times, the last one for 0.1 s, each moved by `motion` since the one before."""
    picture = av.VideoFrame(32, 32, "yuv420p")
    motion = motion or constant(0.01, 0)
    return [FrameWithMotion(SourceFrame(picture, time, 0.1, None, index), motion) for index, time in enumerate(times)]


def test_times_of_a_schedule():
    schedule = FrameSchedule(Fraction(10), start_seconds=2.0, duration_seconds=0.35, origin_seconds=1.0)
    assert schedule.first_index == -1
    assert [schedule.time(index) for index in (-1, 0, 3)] == pytest.approx([2.9, 3.0, 3.3])
    assert schedule.num_frames == 4
    assert FrameSchedule(Fraction(10)).num_frames == float("inf")
    assert FrameSchedule(Fraction(10)).first_index == 0


def test_the_origin_is_the_first_frame_unless_it_is_known():
    assert FrameSchedule(Fraction(10)).with_origin(5.0).time(1) == pytest.approx(5.1)
    assert FrameSchedule(Fraction(10), origin_seconds=1.0).with_origin(5.0).time(1) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("since", "until", "shown"),
    [
        (0.0, 0.05, True),  # on screen at 0.0
        (0.02, 0.08, False),  # between 0.0 and 0.1
        (0.02, 0.1001, False),  # replaced within the tolerance of 0.1
        (0.02, 0.11, True),  # on screen at 0.1
        (0.1005, 0.15, True),  # begins within the tolerance of 0.1
        (0.102, 0.15, False),  # begins too late for 0.1
    ],
)
def test_which_frames_are_shown(since, until, shown):
    schedule = FrameSchedule(Fraction(10))
    assert schedule.is_shown(since, until, None), "before the first frame is known, every frame may be shown"
    assert schedule.is_shown(since, until, 0.0) == shown
    assert schedule.is_shown(since + 7, until + 7, 7.0) == shown


def test_resampled_frames_compose_the_motion_between_them():
    frames = frames_at(0.0, 0.05, 0.1, 0.2)
    resampled = list(Resampler(SPEC, FrameSchedule(SPEC.fps)).resample(frames))
    assert [frame.pts_seconds for frame in resampled] == pytest.approx([0.0, 0.1, 0.2])
    assert [frame.motion.vectors[0, 0, 0] for frame in resampled] == pytest.approx([0.01, 0.02, 0.01])
    assert all(frame.motion.valid.shape == SPEC.grid for frame in resampled)
    assert [len(frame.shares) for frame in resampled] == [1, 2, 1]


def test_a_frame_that_stays_is_repeated_without_motion():
    resampled = list(Resampler(SPEC, FrameSchedule(SPEC.fps)).resample(frames_at(0.0, 0.3)))
    assert [frame.motion.vectors.any() for frame in resampled] == [True, False, False, True]
    assert all(frame.motion.valid.all() for frame in resampled)
    assert all(frame.picture is not None for frame in resampled)


def test_a_cut_has_no_motion():
    first, second = frames_at(0.0, 0.1)
    cut = FrameWithMotion(second.frame, second.motion, is_cut=True)
    _, resampled = Resampler(SPEC, FrameSchedule(SPEC.fps)).resample([first, cut])
    assert resampled.is_cut
    assert not resampled.motion.vectors.any()
    assert not resampled.motion.valid.any()


def test_composition_reads_the_earlier_field_where_the_later_one_points():
    grid = (4, 8)
    earlier = constant(0, 0, grid=grid)
    earlier.vectors[:, 4:] = (0.25, 0)
    earlier.valid[:, 6:] = False
    composed = compose(constant(0.5, 0, grid=grid), earlier)  # half a frame to the right
    assert composed.vectors[0, :4, 0] == pytest.approx([0.75] * 4)
    assert composed.valid[0].tolist() == [True, True, False, False, False, False, False, False]
    assert not compose(constant(0, 0, valid=False, grid=grid), earlier).valid.any()


def test_accumulated_motion_is_that_of_all_steps():
    accumulated = AccumulatedMotion(GRID)
    for _ in range(40):  # more than are stored
        accumulated.add_step(constant(0.01, -0.005).vectors)
    assert accumulated.total(FieldOperations()) == pytest.approx(constant(0.4, -0.2).vectors, abs=1e-6)


def test_weighted_mean():
    one = WeightedField(constant(1, 0).vectors, np.full(GRID, 0.75, np.float32))
    other = WeightedField(constant(0, 2).vectors, np.full(GRID, 0.25, np.float32))
    other.weight[0], one.weight[0] = 0, 0
    mean = FieldOperations().weighted_mean([one, other])
    assert mean.vectors[1, 0] == pytest.approx([0.75, 0.5])
    assert mean.weight[1, 0] == pytest.approx(1)
    assert not mean.vectors[0].any()


def test_pooling_takes_means_and_needs_half_of_a_cell():
    field = constant(0, 0, grid=(2, 4))
    field.vectors[:, 1] = (1, 0)
    field.valid[:, 0] = False
    field.valid[0, 2], field.valid[1] = False, False
    pooled = pool(field, 2)
    assert pooled.vectors[0].tolist() == [[0.5, 0], [0, 0]]
    assert pooled.valid[0].tolist() == [False, False]
    field.valid[0] = True
    assert pool(field, 2).valid[0].tolist() == [True, True]


def test_rotation_turns_positions_and_vectors():
    field = constant(0, 0, grid=(2, 3))
    field.vectors[0, 2] = (1, 0)  # top right, pointing right
    field.valid[0, 2] = False
    turned = orient(field, Orientation(is_transposed=True, flips_y=True))
    assert turned.vectors.shape == (3, 2, 2)
    assert turned.vectors[0, 0].tolist() == [0, -1]  # top left, pointing up
    assert not turned.valid[0, 0]
    half = orient(field, Orientation(flips_x=True, flips_y=True))
    assert np.array_equal(orient(turned, Orientation(is_transposed=True, flips_y=True)).vectors, half.vectors)
    assert np.array_equal(orient(turned, Orientation(is_transposed=True, flips_x=True)).vectors, field.vectors)


def test_holes_are_filled_from_around():
    vectors, known = constant(0.25, -0.5).vectors, np.ones(GRID, bool)
    known[2:6, 3:9] = False
    damaged = np.where(known[..., None], vectors, np.float32(7))
    assert fill_holes(damaged, known) == pytest.approx(vectors, abs=1e-6)
    assert fill_holes(damaged, np.ones(GRID, bool)) is damaged
    assert not fill_holes(damaged, np.zeros(GRID, bool)).any()
