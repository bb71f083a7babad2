"""`videotok inspect` and `videotok info` of a video: motion drawn as a video and as a contact sheet, and its facts."""

import json

import av
import numpy as np
import pytest
from PIL import Image

from codec import ClipSpec, VectorShares, iter_clips
from tests.conftest import FPS, SECONDS
from videotok.cli.main import main
from videotok.report.flow_vis import HATCH_COLOUR, KEYFRAME_COLOUR, MotionPainter, direction_colours, flow_strength
from videotok.report.overlay import CAPTION_HEIGHT, SHARE_COLOURS, Panel, draw_motion, format_time, side_by_side

GREY = np.full((90, 160, 3), 128, np.uint8)
ALL_VALID = np.ones((10, 16), bool)


def field(dx: float, dy: float) -> np.ndarray:
    return np.broadcast_to(np.array([dx, dy], np.float32), (10, 16, 2)).copy()


def test_the_video_has_every_frame_and_a_caption(clip_mp4, tmp_path, capsys):
    out = tmp_path / "motion.mp4"
    assert main(["inspect", str(clip_mp4), "-o", str(out)]) == 0
    assert "2 clips" in capsys.readouterr().out
    with av.open(str(out)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == 12
    assert len(frames) == SECONDS * 12 < SECONDS * FPS
    assert frames[0].shape == (576 + CAPTION_HEIGHT, 960, 3)
    boxed = [np.abs(frame[2, 10:-10].astype(int) - KEYFRAME_COLOUR).mean() < 40 for frame in frames]
    assert [number for number, box in enumerate(boxed) if box] == [0, 24]
    assert main(["inspect", str(clip_mp4), "-o", str(out)]) == 2


def test_the_contact_sheet_has_a_row_for_each_clip(clip_mp4, tmp_path):
    one, both = tmp_path / "one.png", tmp_path / "both.png"
    assert main(["inspect", str(clip_mp4), "-o", str(one), "--max-clips", "1"]) == 0
    assert main(["inspect", str(clip_mp4), "-o", str(both)]) == 0
    with Image.open(one) as first, Image.open(both) as second:
        assert first.width == second.width
        assert second.height > first.height + 200


def test_an_unknown_kind_of_output_is_refused(clip_mp4, tmp_path, capsys):
    assert main(["inspect", str(clip_mp4), "-o", str(tmp_path / "motion.txt")]) == 2
    assert ".png" in capsys.readouterr().err


@pytest.mark.parametrize(("dx", "dy", "channel"), [(-0.05, 0.0, 0), (0.05, 0.0, 2)])
def test_the_colour_shows_where_the_content_goes(dx, dy, channel):
    """A vector to the left says that the content came from there: it moves to the right, which is red."""
    image = MotionPainter((160, 90), 12).paint(GREY, field(dx, dy), ALL_VALID).astype(int)
    median = np.median(image.reshape(-1, 3), axis=0)
    assert median[channel] - median[2 - channel] > 60


def test_arrows_point_where_the_content_goes():
    painter = MotionPainter((160, 90), 12)
    still = painter.paint(GREY, field(0, 0), ALL_VALID).astype(int)
    cell = np.zeros((10, 16, 2), np.float32)
    cell[3:7, 5:11] = (-0.06, 0.0)
    changed = np.abs(painter.paint(GREY, cell, ALL_VALID).astype(int) - still).max(-1) > 90
    # heads reach past the moving cells on the right, nothing reaches past them on the left
    assert changed[:, 112:].any()
    assert not changed[:, :44].any()


def test_cells_without_a_vector_are_hatched():
    painter = MotionPainter((160, 90), 12)
    half = ALL_VALID.copy()
    half[:, :8] = False
    image = painter.paint(GREY, field(0, 0), half).astype(int)
    pink = np.abs(image - HATCH_COLOUR).sum(-1) < 120
    assert pink[:, :80].mean() > 0.1
    assert not pink[:, 80:].any()
    assert not (
        np.abs(painter.paint(GREY, field(0, 0), half, hatched=False).astype(int) - HATCH_COLOUR).sum(-1) < 120
    ).any()


def test_faster_is_stronger():
    assert flow_strength(np.array([0.0, 0.25, 1.0, 9.0])) == pytest.approx([0, 0.5, 1, 1])
    assert direction_colours(np.array([[1.0, 0.0]], np.float32))[0].argmax() == 0


def test_the_bar_shows_the_shares():
    panel = Panel(100, 10)
    panel.bar((0, 0, 100, 9), VectorShares(0.5, 0.3, 0.2))
    row = panel.array[5]
    for (name, colour), count in zip(SHARE_COLOURS.items(), (50, 30, 20), strict=True):
        assert (row == colour).all(-1).sum() == count, name


def test_times_are_minutes_and_seconds():
    assert format_time(62.0834) == "1:02.083"


def test_panels_stand_side_by_side():
    panels = {"left": np.zeros((2, 40, 60, 3), np.uint8), "right": np.full((2, 40, 60, 3), 255, np.uint8)}
    frames = list(side_by_side(panels))
    assert [frame.shape for frame in frames] == [(40, 120, 3)] * 2
    assert frames[0][30:, :60].max() == 0
    assert frames[0][30:, 60:].min() == 255


def test_frames_are_needed(clip_mp4):
    clip = next(iter_clips(clip_mp4, ClipSpec()))
    with pytest.raises(ValueError, match="frames=True"):
        draw_motion(MotionPainter((160, 96), 12), clip, 1)


def test_info_of_a_video(clip_mp4, capsys):
    assert main(["info", str(clip_mp4)]) == 0
    table = capsys.readouterr().out
    assert "exact" in table
    assert "native" in table
    assert main(["info", str(clip_mp4), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert sum(facts["vectors"].values()) == pytest.approx(1)
    assert facts["cuts_seconds"] == []
    assert (facts["width"], facts["height"], facts["motion_source"]) == (160, 96, "native")
