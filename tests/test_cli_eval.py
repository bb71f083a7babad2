"""`videotok eval`: figures that agree with the frames, and a page that stands alone."""

import base64
import io
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest

from videotok.cli.main import main
from videotok.evaluation import figures, measured
from videotok.report.html import HEIGHT, NAME_HEIGHT, Curve, chart


@pytest.fixture(scope="module")
def outputs(clip_mp4: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict], str]:
    """The page, its rows, and a file's name that is no video."""
    folder = tmp_path_factory.mktemp("eval")
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    page, rows = folder / "report.html", folder / "rows.json"
    request = ["eval", str(clip_mp4), str(broken), "-o", str(page), "--json", str(rows), "--levels", "2,1"]
    assert main([*request, "--model", str(tiny_model)]) == 0
    return page.read_text(), json.loads(rows.read_text()), broken.name


def test_every_rung_of_every_clip_has_its_row(outputs):
    _, rows, _ = outputs
    first = [(row["rung"], row["levels"]) for row in rows if row["clip"] == 0]
    coded = [(rung, levels) for levels in (1, 2) for rung in ("warp", "bidirectional", "detokenized")]
    still = [("hold", None), ("crossfade", None), ("warp_raw", None), ("bidirectional_raw", None)]
    assert sorted(first, key=str) == sorted([*still, *coded, ("tokens", 2)], key=str)
    assert not any("bidirectional" in row["rung"] for row in rows if row["clip"] == 1)
    means = {row["rung"]: row["psnr"] for row in rows if row["clip"] == 0}
    assert means["hold"] < means["warp_raw"] < means["bidirectional_raw"]
    assert means["tokens"] < means["detokenized"]


def test_the_page_shows_the_figures_of_its_rows(outputs):
    page, rows, broken = outputs
    (raw,) = (row for row in rows if row["clip"] == 0 and row["rung"] == "bidirectional_raw")
    assert f"<td>{raw['psnr']:.2f}</td><td>{raw['ssim']:.3f}</td>" in page.replace("\n", "")
    assert broken in page
    assert page.count("<svg") == 2
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_videos_of_the_page_hold_the_whole_clip_side_by_side(outputs):
    page, _, _ = outputs
    (film,) = re.findall(r'src="data:video/mp4;base64,([^"]+)"', page)
    with av.open(io.BytesIO(base64.b64decode(film))) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 24
    assert frames[0].shape == (144, 4 * 256, 3)
    source, warped = frames[0][30:, :256].astype(int), frames[0][30:, 256:512].astype(int)
    assert np.abs(source - warped).mean() < 4  # the first frame of a warp is the keyframe


def test_figures_are_of_the_frames_between():
    truth = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    assert range(24)[measured(truth)] == range(1, 23)
    assert range(10)[measured(truth[:10])] == range(1, 9)
    other = truth.copy()
    other[0] = other[23] = 0
    assert figures(truth, other).psnr == [100.0] * 22


@pytest.mark.parametrize("levels", ["", "0", "1;2", "two"])
def test_levels_that_are_no_numbers_are_refused(levels, clip_mp4, tmp_path, capsys):
    assert main(["eval", str(clip_mp4), "-o", str(tmp_path / "a.html"), "--levels", levels]) == 2
    assert "such as 1,2,4" in capsys.readouterr().err


def test_nothing_to_measure_is_one_line(tmp_path, capsys):
    assert main(["eval", str(tmp_path), "-o", str(tmp_path / "a.html")]) == 2
    assert "no video in" in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()


def test_names_of_curves_do_not_lie_on_each_other():
    curves = [Curve(f"curve {index}", [(0, 20), (1, 20 + index / 100)], "warp") for index in range(9)]
    text = str(chart(curves, "nine curves", "x"))
    heights = sorted(float(y) for y in re.findall(r'class="name"[^>]* y="([\d.]+)"', text))
    assert len(heights) == 9
    assert min(np.diff(heights)) >= NAME_HEIGHT - 0.2
    assert heights[0] > 0
    assert heights[-1] < HEIGHT
