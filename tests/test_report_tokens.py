"""The pages of tokens: what stands on them, and that a real browser shows them."""

import json
import re
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest

from videotok import VideoTokenizer, VideoTokens
from videotok.cli.main import main
from videotok.config import EncodeConfig
from videotok.report.tokens import gather_word, said

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """
<script>
const seen = {errors: []};
addEventListener("error", event => seen.errors.push(String(event.message || event.target.src).slice(0, 80)), true);
addEventListener("load", async () => {
  const videos = [...document.querySelectorAll("video")], images = [...document.images];
  images.forEach(image => image.loading = "eager");
  await Promise.all(images.map(image => image.decode().catch(error => seen.errors.push(String(error)))));
  for (let tries = 0; tries < 600 && videos.some(video => video.readyState < 3); tries++)
    await new Promise(done => setTimeout(done, 50));
  seen.videos = videos.map(video => [video.readyState, video.videoWidth, Math.round(video.duration * 10) / 10]);
  seen.images = images.map(image => image.naturalWidth);
  seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  await fetch("/seen", {method: "POST", body: JSON.stringify(seen)});
});
</script>
"""


@pytest.fixture(scope="module")
def pages(clip_mp4, tiny_model, tmp_path_factory):
    """A page of a video, and one of its tokens alone."""
    folder = tmp_path_factory.mktemp("pages")
    model = ["--model", str(tiny_model)]
    assert main(["inspect", str(clip_mp4), "--tokens", "-o", str(folder / "both.html"), *model]) == 0
    assert main(["encode", str(clip_mp4), "-o", str(folder / "clip.vtok"), "--max-clips", "1", *model]) == 0
    assert main(["inspect", str(folder / "clip.vtok"), "--tokens", *model]) == 0
    return folder


def browser(folder: Path, width: int, *arguments: str) -> list[str]:
    """The command that runs a browser of its own."""
    assert BROWSER
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    return [*command, f"--user-data-dir={folder / 'browser'}", f"--window-size={width},1400", *arguments]


def looked_at(text: str, folder: Path, width: int) -> tuple[dict[str, Any], str]:
    """What a browser sees of a page, as PROBE tells it, and what its console says."""
    told: Queue[dict[str, Any]] = Queue()

    class Door(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/" else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if self.path == "/":
                self.wfile.write(text.replace("</title>", f"</title>{PROBE}", 1).encode())

        def do_POST(self):
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Door) as server, (folder / "console.txt").open("w") as console:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        process = subprocess.Popen(browser(folder, width, address), stderr=console, stdout=subprocess.DEVNULL)
        try:
            seen = told.get(timeout=90)
        finally:
            process.terminate()
            process.wait(20)
            server.shutdown()
    return seen, (folder / "console.txt").read_text()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1366, 500])
def test_a_browser_shows_the_page(pages, tmp_path, width):
    seen, console = looked_at((pages / "both.html").read_text(encoding="utf-8"), tmp_path, width)
    # the server here has no icon
    said = [line for line in console.splitlines() if "CONSOLE" in line and "favicon" not in line]
    assert said == []
    assert seen["errors"] == []
    assert seen["overflow"] <= 0
    assert len(seen["images"]) == 8
    assert min(seen["images"]) > 400
    assert [video[0] >= 3 for video in seen["videos"]] == [True, True]  # enough is there to play
    assert [video[2] for video in seen["videos"]] == [3.0, 3.0]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_page_is_not_blank(pages, tmp_path):
    place, page = tmp_path / "page.png", (pages / "both.html").as_uri()
    command = browser(tmp_path, 1366, f"--screenshot={place}", "--virtual-time-budget=8000", page)
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    picture = cv2.imread(str(place))
    assert picture is not None
    assert picture.shape[:2] == (1400, 1366)
    coloured = np.ptp(picture.astype(int), axis=-1) > 40
    assert coloured.mean() > 0.05  # pictures, not paper alone


def test_the_page_stands_alone(pages):
    text = (pages / "both.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.findall(r"https?://(?!www\.w3\.org)", re.sub(r"data:[^\"]*", "", text))


def test_every_word_stands_on_the_page(pages):
    text, tokens = (pages / "clip-tokens.html").read_text(encoding="utf-8"), VideoTokens.load(pages / "clip.vtok")
    assert [int(word) for word in re.findall(r'title="word (\d+)"', text)] == tokens.visual_ids.tolist()
    assert f"{len(tokens.visual_ids)} words" in text
    assert text.count("<video") == 1  # no source was given
    assert "on the decoded picture" in text


def test_three_kinds_of_patches():
    picture = np.full((40, 60, 3), (200, 40, 40), np.uint8)
    kept, carried = np.zeros((2, 3), bool), np.zeros((2, 3), bool)
    kept[0, 0] = carried[1, 2] = True
    shown = said(picture, kept, carried)
    assert (shown[:20, :20] == picture[:20, :20]).all()
    assert shown[30, 50, 2] > shown[30, 50, 0] + 30  # bluish
    assert np.ptp(shown[5, 30].astype(int)) < 20  # grey
    assert shown[5, 30].mean() < 60


def test_the_patches_of_a_word(tiny_model, clip_mp4, tmp_path, capsys):
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    word = int(tokenizer.encode(clip_mp4, EncodeConfig(predict_keyframes=False)).visual_ids[0])
    place = tmp_path / "word.html"
    command = ["inspect", str(clip_mp4.parent), "--word", str(word), "-o", str(place), "--model", str(tiny_model)]
    assert main(command) == 0
    tokens = tokenizer.encode(clip_mp4, EncodeConfig(predict_keyframes=False))
    count = int((tokens.visual_ids == word).sum())
    text = place.read_text(encoding="utf-8")
    assert text.count("<img") == count > 0
    assert f"{count} of {len(tokens.visual_ids)} words in 2 keyframes" in text
    assert f"{count} patches with word {word}" in capsys.readouterr().out
    unused = next(other for other in range(64) if other not in tokens.visual_ids)
    assert gather_word(tokenizer, unused, [clip_mp4], None).total == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("clip.mp4 --tokens -o page.pdf", "ends in .html"),
        ("clip.mp4 clip.mp4 --tokens", "name one"),
        ("clip.mp4 --tokens --source clip.mp4", "its own source"),
        ("clip.vtok --tokens --max-clips 1", "encoded already"),
        ("clip.mp4 --word 64", "the words of this model are 0 to 63"),
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
