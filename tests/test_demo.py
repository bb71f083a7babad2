"""`videotok demo`, driven by a headless browser: upload a video, wait, see the result; errors as text."""

import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import av
import pytest
import torch
from browser import browser_page, needs_browser

from tests.conftest import SIZE
from videotok import VideoTokenizer, VideoTokens
from videotok.cli.main import main
from videotok.image_utils import display_size

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="no gradio: `pip install 'videotok[demo]'`")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A language model with random weights, for the video weights that ship: with those the rate can be chosen."""
    from videotok.lm.loading import new_tiny_model
    from videotok.lm.model import VideoSettings

    folder, tokenizer = tmp_path_factory.mktemp("lm"), VideoTokenizer.from_pretrained()
    weights = {part: tokenizer.bundle.identity(part).sha256 for part in ("keyframes", "motion")}
    torch.manual_seed(0)
    settings = VideoSettings("12", 1, max_clips=2, models=weights)
    new_tiny_model(tokenizer, settings, False, width=32, layers=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def address(language_model):
    """The address of the page, served by the command in a process of its own."""
    options = f"--lm {language_model} --device cpu --max-megabytes 1 --max-seconds 2"
    command = [sys.executable, "-m", "videotok.cli.main", "demo", *options.split()]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        stdout=pipe,
        stderr=pipe,
        text=True,
        cwd=ROOT,
        # a job in the background of a shell, such as these tests may be, ignores it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            assert process.stdout
            assert process.stderr
            line = process.stdout.readline()
            found = re.match(r"http://127\.0\.0\.1:\d+/", line)
            assert found, line + process.stderr.read()
            yield found[0]
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (0, "videotok: the page is closed\n")
        finally:
            process.kill()


@needs_browser
@needs_gradio
def test_a_video_is_uploaded_and_its_result_seen(address, clip_mp4, tmp_path):
    with browser_page() as page:
        hosts = set()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "://" in request.url else None)
        page.goto(address)
        page.locator("input[type=file]").first.set_input_files(clip_mp4)
        page.get_by_text("left out: what comes after 2.0 of 3.0 seconds").wait_for()
        rate = float(re.search(r"(\d+) tokens/s", page.locator("body").inner_text())[1])
        assert 100 < rate < 220  # 200 were asked for

        # source and reconstruction side by side play, and every keyframe has its card
        width = 2 * display_size(*SIZE)[0]
        page.wait_for_function(f"[...document.querySelectorAll('video')].some(one => one.videoWidth === {width})")
        assert page.locator(".keyframes section").count() == 1
        assert page.locator(".keyframes .stage i").count() > 0
        assert page.locator(".keyframes img").evaluate_all("all => all.every(one => one.naturalWidth > 400)")

        with page.expect_download() as download:
            page.get_by_text("Download .vtok").click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
        tokens = VideoTokens.load(tmp_path / "clip.vtok")
        assert round(tokens.tokens_per_second) == rate
        with page.expect_download() as download:
            page.get_by_text("Download .mp4").click()
        download.value.save_as(tmp_path / "decoded.mp4")
        with av.open(str(tmp_path / "decoded.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == 24

        # another rate gives other tokens
        number = page.get_by_label("number input for Tokens per second of video")
        number.fill("60")
        number.press("Tab")
        page.get_by_role("button", name="Encode and decode").click()
        page.wait_for_function(f"!document.body.innerText.includes('{rate:.0f} tokens/s')")
        page.get_by_text("tokens/s").wait_for()
        coarser = float(re.search(r"(\d+) tokens/s", page.locator("body").inner_text())[1])
        assert 40 < coarser < 70
    assert hosts == {address.split("/")[2]}  # nothing is asked of any other machine


@needs_browser
@needs_gradio
def test_what_does_not_work_is_said_as_text(address, tmp_path):
    broken, large = tmp_path / "broken<b>.mp4", tmp_path / "large.mp4"
    broken.write_bytes(b"no video at all")
    large.write_bytes(bytes(1_500_000))
    with browser_page() as page:
        page.goto(address)
        page.get_by_role("button", name="Encode and decode").click()
        problem = page.get_by_label("This did not work")
        problem.wait_for()
        assert "there is no video" in problem.input_value()
        page.locator("input[type=file]").first.set_input_files(broken)
        page.wait_for_function("[...document.querySelectorAll('textarea')].some(one => one.value.includes('broken'))")
        assert "/" not in problem.input_value()  # where the upload lies on this machine is not told
    with browser_page(allow_errors=True) as page:
        page.goto(address)
        page.locator("input[type=file]").first.set_input_files(large)
        page.get_by_text(re.compile("exceeds.*1.*MB|too large|Maximum", re.IGNORECASE)).first.wait_for()


@needs_browser
@needs_gradio
def test_a_language_model_answers_and_generates(address, clip_mp4):
    with browser_page() as page:
        page.goto(address)
        page.get_by_role("tab", name="Language model").click()
        panel = page.get_by_role("tabpanel").filter(has=page.get_by_text("Ask about a video"))
        panel.locator("input[type=file]").first.set_input_files(clip_mp4)
        panel.get_by_label("Question").fill("what moves")
        panel.locator("video").first.wait_for()
        panel.get_by_role("button", name="Ask").click()
        page.wait_for_function(
            "[...document.querySelectorAll('label')].some(one => one.innerText.startsWith('Answer')"
            " && one.querySelector('textarea')?.value)",
        )
        panel.get_by_role("button", name="Generate").click()
        page.wait_for_function(
            "[...document.querySelectorAll('textarea')].some(one => one.value.includes('nothing to generate from'))",
        )
        panel.get_by_label("Text").fill("it moves left")
        panel.get_by_role("button", name="Generate").click()
        page.wait_for_function("[...document.querySelectorAll('video')].some(one => one.src.includes('generated'))")


@needs_gradio
def test_the_page_says_where_there_is_no_language_model(tiny_model, tmp_path):
    # in a process of its own: gradio leaves an event loop open
    code = f"""if True:
        from pathlib import Path
        import videotok.bundle
        from videotok import VideoTokenizer
        from videotok.demo import Demo, DemoOptions, build_page
        videotok.bundle.SHIPPED = Path({str(tmp_path)!r})
        demo = Demo(DemoOptions(), VideoTokenizer.from_pretrained({str(tiny_model)!r}))
        print(build_page(demo, videotok.bundle.SHIPPED).get_config_file())
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    assert "There is no language model here" in found.stdout
    assert "What was generated" not in found.stdout


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("videotok.cli.demo.find_spec", lambda name: None)
    assert main(["demo"]) == 2
    assert "pip install 'videotok[demo]'" in capsys.readouterr().err


def test_a_folder_without_a_language_model_is_refused(tmp_path, capsys):
    assert main(["demo", "--lm", str(tmp_path)]) == 2
    assert "no language model is there" in capsys.readouterr().err
