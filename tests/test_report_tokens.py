"""The pages of tokens and codes: what they show, and that a browser displays them."""

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
from videotok.report.tokens import colour_patches, find_code

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """
<script>
const found = {errors: []};
addEventListener("error", event => found.errors.push(String(event.message || event.target.src).slice(0, 80)), true);
addEventListener("load", async () => {
  const videos = [...document.querySelectorAll("video")], images = [...document.images];
  images.forEach(image => image.loading = "eager");
  await Promise.all(images.map(image => image.decode().catch(error => found.errors.push(String(error)))));
  for (let tries = 0; tries < 600 && videos.some(video => video.readyState < 3); tries++)
    await new Promise(done => setTimeout(done, 50));
  found.videos = videos.map(video => [video.readyState, video.videoWidth, Math.round(video.duration * 10) / 10]);
  found.images = images.map(image => image.naturalWidth);
  found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
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


def display(text: str, folder: Path, width: int) -> tuple[dict[str, Any], str]:
    """Return what a browser finds on a page, as PROBE reports it, and what it writes to its console."""
    reports: Queue[dict[str, Any]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/" else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if self.path == "/":
                self.wfile.write(text.replace("</title>", f"</title>{PROBE}", 1).encode())

        def do_POST(self):
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, (folder / "console.txt").open("w") as console:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        process = subprocess.Popen(browser(folder, width, address), stderr=console, stdout=subprocess.DEVNULL)
        try:
            found = reports.get(timeout=90)
        finally:
            process.terminate()
            process.wait(20)
            server.shutdown()
    return found, (folder / "console.txt").read_text()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1366, 500])
def test_a_browser_shows_the_page(pages, tmp_path, width):
    found, console = display((pages / "both.html").read_text(encoding="utf-8"), tmp_path, width)
    # the server here has no icon
    messages = [line for line in console.splitlines() if "CONSOLE" in line and "favicon" not in line]
    assert messages == []
    assert found["errors"] == []
    assert found["overflow"] <= 0
    assert len(found["images"]) == 8
    assert min(found["images"]) > 400
    assert [video[0] >= 3 for video in found["videos"]] == [True, True]  # enough is there to play
    assert [video[2] for video in found["videos"]] == [3.0, 3.0]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_page_is_not_blank(pages, tmp_path):
    path, page = tmp_path / "page.png", (pages / "both.html").as_uri()
    command = browser(tmp_path, 1366, f"--screenshot={path}", "--virtual-time-budget=8000", page)
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.shape[:2] == (1400, 1366)
    coloured = np.ptp(picture.astype(int), axis=-1) > 40
    assert coloured.mean() > 0.05  # pictures, not paper alone


def test_the_page_needs_no_other_file(pages):
    text = (pages / "both.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.findall(r"https?://(?!www\.w3\.org)", re.sub(r"data:[^\"]*", "", text))


def test_every_code_is_on_the_page(pages):
    text, tokens = (pages / "clip-tokens.html").read_text(encoding="utf-8"), VideoTokens.load(pages / "clip.vtok")
    assert [int(code) for code in re.findall(r'title="code (\d+)"', text)] == tokens.visual_ids.tolist()
    assert f"{len(tokens.visual_ids)} codes" in text
    assert text.count("<video") == 1  # no source was given
    assert "on the decoded picture" in text


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
