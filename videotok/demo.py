"""`videotok demo`: a page in the browser to try the tokenizer with one's own videos, made with Gradio.

A first tab shows what a video's tokens hold and what comes back from them; a second one asks a language model about a
video. The page listens on this machine alone and asks nothing of any other, unless the caller names another host.
"""

import math
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from codec import MediaError, VideoWriter, probe_isolated
from videotok.config import EncodeConfig
from videotok.errors import ModelError, TokensError, one_line
from videotok.pipeline import VideoTokenizer
from videotok.report.html import VIDEO_OPTIONS, render
from videotok.report.overlay import side_by_side
from videotok.report.tokens import show_tokens
from videotok.tokens import VideoTokens

if TYPE_CHECKING:
    import gradio

    from videotok.lm.loading import LoadedLanguageModel

RATES = (40, 600, 200)
"""Tokens per second that the slider chooses: least, most, and where it begins."""
QUEUE = 8
"""Requests that wait for those before them; further ones are turned away."""
KEEP_SECONDS = 3600
"""How long uploads and results stay on disk."""
USER_ERRORS = (MediaError, TokensError, ModelError, OSError)

Progress = Callable[[float, str], None]
"""Called with the share of the work that is done, and what is done now."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class DemoOptions:
    """What the page runs with, and the limits of what it accepts."""

    model: str | None = None
    """Folder or hub id of the video weights; the shipped ones if None."""
    language_model: Path | None = None
    """Folder of a language model that reads video; the shipped one if None, and none where there is none."""
    device: str = "auto"
    max_megabytes: int = 200
    """Size of an uploaded file at most."""
    max_seconds: float = 10.0
    """Seconds of a video that are encoded; the rest is left out, and the page says so."""


@dataclass(frozen=True)
class DemoResult:
    """What the first tab shows of a video."""

    facts: str
    """Markdown."""
    comparison: Path
    """mp4, the source and the reconstruction side by side."""
    keyframes: str
    """HTML: what each keyframe's patches are decoded from, and its motion."""
    vtok: Path
    decoded: Path
    """mp4 of the reconstruction alone."""


@dataclass
class Demo:
    """What happens behind the page: it has no state but the weights."""

    options: DemoOptions
    tokenizer: VideoTokenizer
    _language_model: "LoadedLanguageModel | None" = field(default=None, init=False, repr=False)

    def tokenize(self, video: Path, tokens_per_second: float, folder: Path, progress: Progress) -> DemoResult:
        """Encode a video at a rate, decode it, and write what there is to download into a folder.

        Raises:
            MediaError: the video cannot be read, or is larger than `max_megabytes`.
        """
        limit = self.options.max_megabytes
        if video.stat().st_size > limit * 1_000_000:
            raise MediaError(f"{video.name} has {video.stat().st_size / 1e6:.0f} MB, this page accepts {limit}")
        progress(0.0, "Reading")
        total = probe_isolated(video).duration_seconds
        config = EncodeConfig(
            tokens_per_second=tokens_per_second, duration_seconds=self.options.max_seconds, isolate=True
        )
        tokens = self.tokenizer.encode(
            video, config, progress=lambda done, of: progress(0.3 * done / of if of else 0.15, "Encoding")
        )
        done = 0.0

        def report(seconds: float) -> None:
            nonlocal done
            done += seconds
            progress(0.3 + 0.65 * done / tokens.duration_seconds, "Decoding")

        shown = show_tokens(self.tokenizer, tokens, video, progress=report)
        panels = {"source": np.stack(shown.source), "from tokens": np.stack(shown.decoded)}
        width, height = shown.size
        comparison, decoded = folder / f"{video.stem}-compared.mp4", folder / f"{video.stem}-decoded.mp4"
        _write_video(comparison, side_by_side(panels), tokens, (2 * width, height))
        _write_video(decoded, shown.decoded, tokens, shown.size)
        vtok = folder / f"{video.stem}.vtok"
        tokens.save(vtok)
        return DemoResult(
            facts=_facts(tokens, vtok, total),
            comparison=comparison,
            keyframes=render("demo_keyframes.html", **shown.card_values),
            vtok=vtok,
            decoded=decoded,
        )

    def answer(self, video: Path, question: str) -> str:
        """Answer a question about a video.

        Raises:
            ModelError: there is no language model.
            MediaError: the video cannot be read, or no question was asked.
        """
        if not question.strip():
            raise MediaError("there is no question; write one, such as: which way does the camera move?")
        from videotok.lm.data import TokenCache
        from videotok.lm.generation import answer

        loaded = self._load_language_model()
        settings = loaded.model.settings
        spec = loaded.tokenizer.spec(settings.encode_config.fps)
        max_clips = math.ceil(self.options.max_seconds / float(spec.duration_seconds))
        with tempfile.TemporaryDirectory() as folder:
            cache = TokenCache(
                Path(folder), loaded.tokenizer, settings, loaded.model.feature_kinds, max_clips=max_clips
            )
            encoded = cache.get(video)
        return answer(loaded.model, question.strip(), encoded) or "(the model gave an empty answer)"

    def generate(
        self, text: str, picture: Path | None, seconds: float, seed: int, path: Path, progress: Progress
    ) -> None:
        """Generate a video from a text, a picture as its first keyframe, or both, and write it as mp4.

        Raises:
            ModelError: there is no language model, or it cannot generate.
            TokensError: there is neither a text nor a picture, or they are too long for the model.
            MediaError: the picture cannot be read.
        """
        if not text.strip() and picture is None:
            raise TokensError("there is nothing to generate from; write a text, or give a picture")
        from videotok.lm.sampling import default_sampling
        from videotok.lm.video_generation import VideoGenerator, VideoPrompt

        loaded = self._load_language_model()
        sampling = replace(default_sampling(loaded.model), seed=seed)
        generator = VideoGenerator(loaded.model, loaded.tokenizer, sampling)
        start = None if picture is None else generator.encode_picture(picture)
        prompt = VideoPrompt.from_text(text.replace("<image>", " "), [], start)
        videos, fps = generator.begin([prompt]), generator.spec.fps
        done = 0.0
        with VideoWriter(path, fps, videos[0].size, options=VIDEO_OPTIONS) as writer:
            for clip in generator.frames(generator.generate([prompt], seconds, videos=videos)):
                for frame in clip.frames:
                    writer.write(frame)
                done += float(clip.num_frames / fps)
                progress(min(done / seconds, 1.0), "Generating")

    def _load_language_model(self) -> "LoadedLanguageModel":
        if self._language_model is None:
            from transformers.utils import logging

            from videotok.lm.loading import load_language_model

            logging.disable_progress_bar()  # the terminal is not where the page is
            self._language_model = load_language_model(self.options.language_model, self.options.model)
        return self._language_model

    @property
    def has_language_model(self) -> bool:
        """Whether a folder was named, or a language model ships."""
        from videotok.bundle import SHIPPED

        return self.options.language_model is not None or (SHIPPED / "lm" / "config.json").is_file()


def _write_video(path: Path, frames: Iterable[np.ndarray], tokens: VideoTokens, size: tuple[int, int]) -> None:
    with VideoWriter(path, tokens.spec.fps, size, options=VIDEO_OPTIONS) as writer:
        for frame in frames:
            writer.write(frame)


def _facts(tokens: VideoTokens, vtok: Path, total: float | None) -> str:
    """Return what the page says of a video's tokens, in Markdown."""
    facts, seconds = tokens.facts(), tokens.duration_seconds
    visual = facts["visual_tokens"] / seconds
    lines = [
        f"**{tokens.tokens_per_second:.0f} tokens/s**, {visual:.0f} of them visual",
        f"**{sum(tokens.bits_per_second().values()) / 1000:.2f} kbit/s** as plain ids; "
        f"the .vtok file has {vtok.stat().st_size:,} bytes",
        f"{tokens.num_clips} clips, {seconds:.1f} seconds at {float(tokens.spec.fps):g} frames a second",
    ]
    if total is not None and total - seconds > 0.5:
        lines.append(f"left out: what comes after {seconds:.1f} of {total:.1f} seconds")
    return "  \n".join(lines)


def build_page(demo: Demo, folder: Path) -> "gradio.Blocks":
    """Return the page.

    Args:
        folder: where results are written, each in a folder of its own.
    """
    import gradio

    with gradio.Blocks(title="videotok", analytics_enabled=False, delete_cache=(KEEP_SECONDS, KEEP_SECONDS)) as page:
        gradio.Markdown("# videotok\nVideo as a short sequence of discrete tokens, and back.")
        with gradio.Tab("Tokens of a video"):
            _tokens_tab(demo, folder)
        with gradio.Tab("Language model"):
            _language_tab(demo, folder)
    return page


def _tokens_tab(demo: Demo, folder: Path) -> None:
    import gradio

    options, (least, most, start) = demo.options, RATES
    gradio.Markdown(f"Files of at most {options.max_megabytes} MB; the first {options.max_seconds:g} s are encoded.")
    with gradio.Row():
        with gradio.Column(scale=1):
            video = gradio.Video(label="Video", sources=["upload"], height=280)
            rate = gradio.Slider(least, most, value=start, step=10, label="Tokens per second of video")
            button = gradio.Button("Encode and decode", variant="primary")
            problem = gradio.Textbox(label="This did not work", visible=False, lines=2)
        with gradio.Column(scale=2):
            gradio.Markdown("The source, and what comes back from the tokens")
            comparison = gradio.Video(show_label=False, autoplay=True, loop=True, interactive=False)
            facts = gradio.Markdown()
            with gradio.Row():
                vtok = gradio.DownloadButton("Download .vtok", visible=False, size="sm")
                decoded = gradio.DownloadButton("Download .mp4", visible=False, size="sm")
    gradio.Markdown(
        "In colour: patches that have a code; point at one to read its number. Bluish: predicted from the clip before. "
        "Dark: left to the decoder. Motion: the mean of the clip; colour is direction, strength is speed."
    )
    keyframes = gradio.HTML()
    outputs = [problem, facts, comparison, keyframes, vtok, decoded]

    def run(path: str | None, tokens_per_second: float, progress: Any = gradio.Progress()) -> list[Any]:  # noqa: B008
        work = partial(_tokenize, demo, path, tokens_per_second, folder, progress)
        result = _attempt(work, path)
        hidden = gradio.DownloadButton(visible=False)
        if isinstance(result, _Problem):
            return [gradio.Textbox(result.text, visible=True), "", None, "", hidden, hidden]
        return [
            gradio.Textbox(visible=False),
            result.facts,
            str(result.comparison),
            result.keyframes,
            gradio.DownloadButton(value=str(result.vtok), visible=True),
            gradio.DownloadButton(value=str(result.decoded), visible=True),
        ]

    gradio.on([video.upload, rate.release, button.click], run, [video, rate], outputs, trigger_mode="always_last")


def _tokenize(demo: Demo, path: str | None, rate: float, folder: Path, progress: Any) -> DemoResult:
    if path is None:
        raise MediaError("there is no video; drop one into the field above")
    return demo.tokenize(Path(path), rate, _result_folder(folder), partial(_show_progress, progress))


def _language_tab(demo: Demo, folder: Path) -> None:
    import gradio

    if not demo.has_language_model:
        gradio.Markdown(
            "There is no language model here. `videotok lm train` makes one, and `videotok demo --lm FOLDER` asks it."
        )
        return
    gradio.Markdown("### Ask about a video")
    with gradio.Row():
        video = gradio.Video(label="Video", sources=["upload"], height=240)
        with gradio.Column():
            question = gradio.Textbox(label="Question", placeholder="which way does the camera move?")
            ask = gradio.Button("Ask", variant="primary")
            answer = gradio.Textbox(label="Answer", lines=3)
            unanswered = gradio.Textbox(label="This did not work", visible=False, lines=2)
    gradio.Markdown("### Generate a video")
    with gradio.Row():
        with gradio.Column():
            text = gradio.Textbox(label="Text", placeholder="the camera moves left")
            picture = gradio.Image(label="First keyframe (optional)", type="filepath", sources=["upload"], height=240)
            most = demo.options.max_seconds
            seconds = gradio.Slider(min(0.5, most), most, value=min(4, most), step=0.1, label="Seconds")
            seed = gradio.Number(label="Seed", value=0, precision=0)
            start = gradio.Button("Generate", variant="primary")
        with gradio.Column():
            generated = gradio.Video(label="What was generated", autoplay=True, loop=True, interactive=False)
            ungenerated = gradio.Textbox(label="This did not work", visible=False, lines=2)

    def run_ask(path: str | None, text: str) -> list[Any]:
        result = _attempt(partial(_answer, demo, path, text), path)
        if isinstance(result, _Problem):
            return [gradio.Textbox(result.text, visible=True), ""]
        return [gradio.Textbox(visible=False), result]

    def run_generate(
        text: str,
        path: str | None,
        seconds: float,
        seed: int,
        progress: Any = gradio.Progress(),  # noqa: B008
    ) -> list[Any]:
        result = _attempt(partial(_generate, demo, text, path, seconds, seed, folder, progress), path)
        if isinstance(result, _Problem):
            return [gradio.Textbox(result.text, visible=True), None]
        return [gradio.Textbox(visible=False), str(result)]

    gradio.on([ask.click, question.submit], run_ask, [video, question], [unanswered, answer])
    gradio.on([start.click, text.submit], run_generate, [text, picture, seconds, seed], [ungenerated, generated])


def _answer(demo: Demo, path: str | None, question: str) -> str:
    if path is None:
        raise MediaError("there is no video; drop one into the field on the left")
    return demo.answer(Path(path), question)


def _generate(
    demo: Demo, text: str, picture: str | None, seconds: float, seed: int, folder: Path, progress: Any
) -> Path:
    path = _result_folder(folder) / "generated.mp4"
    shown = partial(_show_progress, progress)
    demo.generate(text, None if picture is None else Path(picture), seconds, seed or 0, path, shown)
    return path


def _show_progress(progress: Any, share: float, what: str) -> None:
    progress(share, desc=what)


def _result_folder(folder: Path) -> Path:
    """Return a new folder for the results of one request, and remove those of long ago."""
    for old in folder.glob("result-*"):
        if time.time() - old.stat().st_mtime > KEEP_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="result-", dir=folder))


@dataclass(frozen=True)
class _Problem:
    """Why a request failed, in one line."""

    text: str


def _attempt(work: Callable[[], Result], path: str | None) -> Result | _Problem:
    """Return what `work` returns, or why it failed; the page shows that as text.

    Args:
        path: where an upload lies on disk, which messages do not tell.
    """
    try:
        return work()
    except USER_ERRORS as error:
        text = one_line(error)
    except Exception as error:
        traceback.print_exc()
        text = (
            f"a fault of videotok and not of your file: {type(error).__name__}: {one_line(error)}; "
            "the terminal that the page was started from shows more"
        )
    return _Problem(text.replace(path, Path(path).name) if path else text)


@contextmanager
def serve(options: DemoOptions, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serve the page in other threads as long as the block runs, and give its address.

    Uploads and results lie in a temporary folder that is removed at the end.

    Args:
        host: address to listen on; 127.0.0.1 is reached from this machine alone.
        port: any free one from 7860 on if None.

    Raises:
        ModelError: there is no such model or device.
        OSError: the port is taken, or the address is not of this machine.
    """
    tokenizer = VideoTokenizer.from_pretrained(options.model, device=options.device)
    with tempfile.TemporaryDirectory(prefix="videotok-demo-") as folder:
        # read when gradio is imported, and when a page is built
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(Path(folder) / "uploads")}
        import gradio

        page = build_page(Demo(options, tokenizer), Path(folder))
        page.queue(max_size=QUEUE, default_concurrency_limit=1)
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            max_file_size=f"{options.max_megabytes}mb",
            theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            footer_links=[],
        )
        try:
            yield address
        finally:
            page.close(verbose=False)
