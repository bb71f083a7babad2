"""The pages of tokens and codes: what they show, and that a browser displays them."""

import re
from pathlib import Path

import numpy as np
import pytest
from browser import browser_page, needs_browser

from videotok import VideoTokenizer, VideoTokens
from videotok.cli.main import main
from videotok.config import EncodeConfig
from videotok.image_utils import decode_jpeg
from videotok.report.tokens import colour_patches, find_code


@pytest.fixture(scope="module")
def pages(clip_mp4, tiny_model, tmp_path_factory):
    """A page of a video, and one of its tokens alone."""
    folder = tmp_path_factory.mktemp("pages")
    model = ["--model", str(tiny_model)]
    assert main(["inspect", str(clip_mp4), "--tokens", "-o", str(folder / "both.html"), *model]) == 0
    assert main(["encode", str(clip_mp4), "-o", str(folder / "clip.vtok"), "--max-clips", "1", *model]) == 0
    assert main(["inspect", str(folder / "clip.vtok"), "--tokens", *model]) == 0
    assert main(["encode", str(clip_mp4), "-o", str(folder / "long.vtok"), *model]) == 0
    return folder


@needs_browser
@pytest.mark.parametrize("width", [1366, 500])
def test_a_browser_shows_the_page(pages, width):
    with browser_page(width) as page:
        page.goto((pages / "both.html").as_uri())
        page.wait_for_function("[...document.querySelectorAll('video')].every(video => video.readyState >= 3)")
        found = page.evaluate(FOUND)
    assert found["overflow"] <= 0
    assert len(found["images"]) == 8
    assert min(found["images"]) > 400
    assert found["videos"] == [3.0, 3.0]


FOUND = """async () => {
    const videos = [...document.querySelectorAll("video")], images = [...document.images];
    images.forEach(image => image.loading = "eager");
    await Promise.all(images.map(image => image.decode()));
    return {
        videos: videos.map(video => Math.round(video.duration * 10) / 10),
        images: images.map(image => image.naturalWidth),
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    };
}"""


@needs_browser
def test_keys_and_links_step_through_keyframes(pages):
    with browser_page(height=500) as page:
        page.goto((pages / "both.html").as_uri())

        def place() -> tuple[str, bool]:
            shown = "() => document.querySelector(':target').getBoundingClientRect().top < innerHeight"
            return page.evaluate("location.hash"), page.evaluate(shown)

        for key, wanted in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowRight", 2), ("ArrowLeft", 1)]:
            page.keyboard.press(key)
            assert place() == (f"#keyframe-{wanted}", True)
        page.get_by_text("next keyframe →").click()
        assert place() == ("#keyframe-2", True)
        page.get_by_text("← previous keyframe").click()
        assert place() == ("#keyframe-1", True)


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_colour_scheme(pages, scheme):
    with browser_page(scheme=scheme) as page:
        page.goto((pages / "both.html").as_uri())
        page.wait_for_timeout(200)
        picture = decode_jpeg(page.screenshot(type="jpeg", quality=90))
    assert picture is not None
    margin = picture[:, :20].mean()
    assert margin > 240 if scheme == "light" else margin < 40
    coloured = np.ptp(picture.astype(int), axis=-1) > 40
    assert coloured.mean() > 0.05  # pictures, not paper alone


def test_the_page_needs_no_other_file(pages):
    text = (pages / "both.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.findall(r"https?://(?!www\.w3\.org)", re.sub(r"data:[^\"]*", "", text))


def test_a_video_that_is_read_again_has_the_same_page(pages, clip_mp4, tiny_model, tmp_path, monkeypatch):
    """The clips of a few keyframes are kept, those of many are read a second time."""
    monkeypatch.setattr("videotok.cli.inspect.MAX_KEPT_CLIPS", 1)
    again = tmp_path / "again.html"
    assert main(["inspect", str(clip_mp4), "--tokens", "-o", str(again), "--model", str(tiny_model)]) == 0
    assert again.read_bytes() == (pages / "both.html").read_bytes()


def test_every_code_is_on_the_page(pages):
    text, tokens = (pages / "clip-tokens.html").read_text(encoding="utf-8"), VideoTokens.load(pages / "clip.vtok")
    assert [int(code) for code in re.findall(r'title="code (\d+)"', text)] == tokens.visual_ids.tolist()
    assert f"{len(tokens.visual_ids)} codes" in text
    assert text.count("<video") == 1  # no source was given
    assert "on the decoded picture" in text


def test_what_is_left_out_is_said(pages, clip_mp4, tiny_model, tmp_path, capsys):
    model = ["--model", str(tiny_model), "--max-keyframes", "1"]
    assert main(["inspect", str(pages / "long.vtok"), "--tokens", "-o", str(tmp_path / "tokens.html"), *model]) == 0
    text, tokens = (tmp_path / "tokens.html").read_text(encoding="utf-8"), VideoTokens.load(pages / "long.vtok")
    assert "left out: 1 of 2 keyframes; --max-keyframes shows more" in capsys.readouterr().out
    assert "The first 1 of 2 keyframes are shown" in text
    assert "2.0 of 3.0 seconds" in text
    assert [int(code) for code in re.findall(r'title="code (\d+)"', text)] == tokens.visual_ids_of(0).tolist()
    assert text.count('class="bar"') == 2  # the bars are of all keyframes
    assert text.count('href="#keyframe-') == 1
    assert main(["inspect", str(clip_mp4), "--tokens", "-o", str(tmp_path / "video.html"), *model]) == 0
    assert "left out: the video after 2.0 of 3.0 s" in capsys.readouterr().out
    assert (tmp_path / "video.html").read_text(encoding="utf-8").count("<section") == 1


def test_three_kinds_of_patches():
    picture = np.full((40, 60, 3), (200, 40, 40), np.uint8)
    kept, skipped = np.zeros((2, 3), bool), np.zeros((2, 3), bool)
    kept[0, 0] = skipped[1, 2] = True
    shown = colour_patches(picture, kept, skipped)
    assert (shown[:20, :20] == picture[:20, :20]).all()
    assert shown[30, 50, 2] > shown[30, 50, 0] + 30  # bluish
    assert np.ptp(shown[5, 30].astype(int)) < 20  # grey
    assert shown[5, 30].mean() < 60


def test_the_patches_of_a_code(tiny_model, clip_mp4, tmp_path, capsys):
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    tokens = tokenizer.encode(clip_mp4, EncodeConfig(predict_keyframes=False))
    code = int(tokens.visual_ids[0])
    path = tmp_path / "code.html"
    command = ["inspect", str(clip_mp4.parent), "--code", str(code), "-o", str(path), "--model", str(tiny_model)]
    assert main(command) == 0
    count = int((tokens.visual_ids == code).sum())
    text = path.read_text(encoding="utf-8")
    assert text.count("<img") == count > 0
    assert f"{count} of {len(tokens.visual_ids)} codes in 2 keyframes" in text
    assert f"{count} patches with code {code}" in capsys.readouterr().out
    unused = next(other for other in range(64) if other not in tokens.visual_ids)
    assert find_code(tokenizer, unused, [clip_mp4], None).total == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("clip.mp4 --tokens -o page.pdf", "ends in .html"),
        ("clip.mp4 clip.mp4 --tokens", "name one"),
        ("clip.mp4 --tokens --source clip.mp4", "its own source"),
        ("clip.vtok --tokens --max-clips 1", "encoded already"),
        ("clip.mp4 --code 64", "must lie in 0..63"),
        ("nothing.mp4 --tokens", "no such file"),
        ("nothing.vtok --tokens", "no such file"),
    ],
)
def test_bad_requests(pages, clip_mp4, tiny_model, monkeypatch, capsys, options, says):
    monkeypatch.chdir(pages)
    if not Path("clip.mp4").exists():
        Path("clip.mp4").symlink_to(clip_mp4)
    assert main(["inspect", *options.split(), "--model", str(tiny_model)]) == 2
    assert says in capsys.readouterr().err
