"""`videotok encode`: a video file to a .vtok file."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from videotok.cli.console import Refusal, parse_fps, progress_bar, refuse_unwritable

if TYPE_CHECKING:
    from videotok.keyframes import KeyframeTokenizerProtocol
    from videotok.tokens import VideoTokens


def encode(
    video: Annotated[Path, typer.Argument(help="Any video file FFmpeg reads.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .vtok file; beside the video by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace an output that exists.")] = False,
    fps: Annotated[str, typer.Option(help="Frames a second of a clip's 24 frames; 6 for understanding.")] = "12",
    keep: Annotated[
        float | None, typer.Option(help="Share of a keyframe's patches to keep on average, above 0 to 1.")
    ] = None,
    visual_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens a keyframe on average instead, never more in all; hard keyframes get more."),
    ] = None,
    predict_keyframes: Annotated[
        bool, typer.Option(help="Say of a keyframe only what the clip before does not explain; else clips stand alone.")
    ] = True,
    keyframe: Annotated[
        Literal["tokens", "image"],
        typer.Option(help="`image` keeps keyframes as JPEG too: exact pictures, for more bytes."),
    ] = "tokens",
    image_quality: Annotated[int, typer.Option(min=1, max=100, help="Of the JPEG pictures.")] = 90,
    search: Annotated[
        int | None,
        typer.Option(min=0, help="Steps that look for words of a nearer picture: 4 gain some 0.4 dB and take a while."),
    ] = None,
    motion_quantizers: Annotated[
        int | None, typer.Option(min=0, help="Levels of motion ids; more follow the motion more closely.")
    ] = None,
    motion_source: Annotated[
        Literal["auto", "native", "reencode", "mpeg4"],
        typer.Option(
            help="The stream's own vectors, those of a re-encoding, or the first where there are any; "
            "mpeg4: as the published Video-LaVIT weights learned them."
        ),
    ] = "auto",
    selector: Annotated[
        Literal["threshold", "sample"],
        typer.Option(help="sample: the published selector draws which patches it keeps, as its own code does."),
    ] = "threshold",
    seed: Annotated[int, typer.Option(help="Of --selector sample.")] = 0,
    start: Annotated[float, typer.Option(min=0, help="Seconds of the video to leave out.")] = 0.0,
    duration: Annotated[float | None, typer.Option(help="Seconds of the video to encode.")] = None,
    max_clips: Annotated[int | None, typer.Option(min=1, help="Clips to encode at most.")] = None,
    isolate: Annotated[
        bool, typer.Option("--isolate", help="Decode in a process of its own: for files nobody vouches for.")
    ] = False,
    split_cuts: Annotated[bool, typer.Option("--split-cuts", help="Begin a new clip with every new scene.")] = False,
    model: Annotated[str | None, typer.Option(help="Folder or hub id of other weights than the shipped ones.")] = None,
    keyframe_model: Annotated[
        Path | None, typer.Option(help="Folder of another keyframe tokenizer, such as diffusers' VQModel.")
    ] = None,
) -> None:
    """Turn a video into tokens."""
    place = output or video.with_suffix(".vtok")
    refuse_unwritable(place, force, video)
    if keep is not None and not 0 < keep <= 1:
        raise Refusal(f"--keep {keep} must be above 0 and at most 1: it is the share of patches to keep")
    if keep is not None and visual_tokens is not None:
        raise Refusal("--keep and --visual-tokens both say how many tokens to spend; give one of them")
    if duration is not None and duration <= 0:
        raise Refusal(f"--duration {duration} must be above 0 seconds")
    rate = parse_fps(fps)

    from codec import probe, probe_isolated
    from videotok.bundle import Bundle

    began = time.monotonic()
    bundle = Bundle.find(model, keyframe_model)
    # a file that is no video is refused at once, and not after torch is loaded
    (probe_isolated if isolate else probe)(video)

    from videotok.pipeline import VideoTokenizer

    tokenizer = VideoTokenizer(bundle)
    if motion_quantizers is not None and motion_quantizers > tokenizer.motion_encoder.num_quantizers:
        raise Refusal(
            f"--motion-quantizers {motion_quantizers}: this model has {tokenizer.motion_encoder.num_quantizers} levels"
        )
    refuse_tokens(tokenizer.keyframe_encoder, keep, visual_tokens)
    if selector == "sample":
        sample_patches(tokenizer.keyframe_encoder, seed)
    if search is not None:
        search_words(tokenizer.keyframe_encoder, search)
    with progress_bar() as bar:
        task = bar.add_task(video.name, total=None, of="?")

        def show(done: float, total: float | None) -> None:
            bar.update(task, completed=done, total=total, of="?" if total is None else f"{total:.1f}")

        tokens = tokenizer.encode(
            video,
            tokenizer.spec(rate),
            keep=keep,
            visual_tokens=visual_tokens,
            predict_keyframes=predict_keyframes,
            keyframe=keyframe,
            image_quality=image_quality,
            motion_quantizers=motion_quantizers,
            motion_source=motion_source,
            start_seconds=start,
            duration_seconds=duration,
            max_clips=max_clips,
            split_at_cuts=split_cuts,
            isolate=isolate,
            progress=show,
        )
    tokens.save(place)
    print(closing_line(place, tokens, time.monotonic() - began))


def refuse_tokens(model: "KeyframeTokenizerProtocol", keep: float | None, visual_tokens: int | None) -> None:
    """Turns down a number of tokens that the keyframe tokenizer cannot give."""
    patches = model.num_patches
    if visual_tokens is not None and visual_tokens > patches:
        raise Refusal(f"--visual-tokens {visual_tokens}: a keyframe of this model has {patches} patches at most")
    if not model.drops_patches and (visual_tokens or patches) < patches:
        raise Refusal(f"--visual-tokens {visual_tokens}: this model has {patches} for every keyframe and drops none")
    if not model.drops_patches and (keep or 1) < 1:
        raise Refusal(f"--keep {keep}: this model has {patches} tokens for every keyframe and drops none")


def sample_patches(model: "KeyframeTokenizerProtocol", seed: int) -> None:
    """Makes the published selector draw; ours has nothing to draw from."""
    from torch import Generator

    from videotok.lavit.modeling_keyframes import LavitKeyframes

    if not isinstance(model, LavitKeyframes):
        raise Refusal("--selector sample: only the published Video-LaVIT weights sample; leave it out")
    model.sampling = Generator().manual_seed(seed)


def search_words(model: "KeyframeTokenizerProtocol", steps: int) -> None:
    """Makes our own tokenizer look for better words in so many steps; others have no way to."""
    from videotok.keyframes import KeyframeTokenizer

    if not isinstance(model, KeyframeTokenizer):
        raise Refusal(f"--search {steps}: only videotok's own keyframe tokenizer searches; leave it out")
    model.register_to_config(search=steps)


def closing_line(place: Path, tokens: "VideoTokens", seconds: float) -> str:
    """What was made of the video, and how fast."""
    counts = tokens.visual_counts
    damaged = f" ({tokens.damaged.sum()} of them damaged)" if tokens.damaged.any() else ""
    carried = f", {tokens.skip_mask.mean():.0%} carried on" if tokens.skip_mask.any() else ""
    return (
        f"{place}: {tokens.num_clips} clips{damaged}, {len(tokens.visual_ids)} visual tokens "
        f"({counts.min()}/{counts.mean():.0f}/{counts.max()} a keyframe{carried}), "
        f"{tokens.num_clips * tokens.motion_tokens_per_clip} motion tokens, "
        f"{tokens.tokens_per_second:.0f} tokens/s of video, "
        f"{seconds:.1f} s taken, {tokens.duration_seconds / seconds:.1f} times real time"
    )
