"""Rate-distortion curves beside video codecs: `python -m benchmarks.rate_distortion VIDEOS… --json OUT --svg FOLDER`.

The first clips of each video, 256x144 at 12 fps, are encoded and decoded by videotok at several rates (`RATES`) and by
x264, x265 and libaom at their lowest rates, at full size and at half the size and rate (`CODECS`). All are compared
with the same frames, all of them: PSNR, SSIM, MS-SSIM, LPIPS with `--lpips`, sharpness and flicker. Rates:

    tokens_per_second         videotok's ids
    kbit_per_second           of all that a .vtok file holds, ids at the width of their codebooks; of a codec, its
                              stream without the container and without the text that x264 and x265 leave in it
    coded_kbit_per_second     of the ids and masks under an adaptive context model, see benchmarks/entropy.py

Codecs run by imageio-ffmpeg's program, with one keyframe at the beginning and their slowest sensible presets; frames of
half the rate are repeated, those of half the size enlarged bicubically. JSON: a row for each video and setting; curves
are means over videos.
"""

import argparse
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import imageio_ffmpeg
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.entropy import coded_bits
from benchmarks.footage import add_footage_arguments, footage
from codec import MediaError, atomic_path
from videotok import DecodeConfig, EncodeConfig, VideoTokenizer
from videotok.evaluation import SIZE, frames_of, source_clips
from videotok.io_utils import write_json
from videotok.metrics import mean_figures, measure
from videotok.perceptual import LPIPS
from videotok.report.html import Curve, chart

RATES = {
    "32 tokens, global motion": EncodeConfig(tokens_per_keyframe=32, motion_quantizers=0),
    "64 tokens, 1 quantizer": EncodeConfig(tokens_per_keyframe=64, motion_quantizers=1),
    "120 tokens/s, rate control": EncodeConfig(tokens_per_second=120),
    "default": EncodeConfig(),
    "200 tokens/s, rate control": EncodeConfig(tokens_per_second=200),
    "192 tokens, 2 quantizers": EncodeConfig(tokens_per_keyframe=192, motion_quantizers=2),
    "256 tokens, 4 quantizers": EncodeConfig(tokens_per_keyframe=256, motion_quantizers=4),
}
"""Settings of videotok, from the lowest rate to the highest."""


@dataclass(frozen=True)
class Codec:
    """How the ffmpeg program is asked for one codec."""

    encoder: str
    options: tuple[str, ...]
    crf: tuple[int, ...]
    """Constant rate factors, the lowest quality first."""


CODECS = {
    "x264": Codec("libx264", ("-preset", "veryslow", "-bsf:v", "filter_units=remove_types=6"), (51, 45, 40)),
    "x265": Codec("libx265", ("-preset", "veryslow", "-x265-params", "info=0:log-level=error"), (51, 45, 40)),
    "libaom": Codec("libaom-av1", ("-cpu-used", "3", "-lag-in-frames", "35"), (63, 55, 48)),
}
HALVED = {"": 1, ", half": 2}
"""Name of a reduction -> factor of width, height and frame rate."""
CURVES = {"psnr": "PSNR in dB", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS"}
COLOURS = {"videotok": "detokenized", "videotok, coded": "tokens", "x264": "warp", "x265": "bidirectional"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Rate-distortion curves of videotok beside video codecs.")
    add_footage_arguments(parser)
    parser.add_argument("--model", help="folder or hub id of other weights than the shipped ones")
    parser.add_argument("--max-clips", type=int, default=4, help="clips of two seconds of a video (default 4)")
    parser.add_argument("--lpips", type=Path, help="weights of the LPIPS network (SqueezeNet, safetensors)")
    parser.add_argument("--svg", type=Path, help="folder for the curves")
    parser.add_argument("--codecs", nargs="*", default=list(CODECS), choices=list(CODECS), help="codecs to measure")
    parser.add_argument("--rates", nargs="*", default=list(RATES), choices=list(RATES), help="videotok's, likewise")
    options = parser.parse_args()
    tokenizer = VideoTokenizer.from_pretrained(options.model)
    lpips = LPIPS.load(options.lpips) if options.lpips else None
    rows: list[dict[str, Any]] = []
    for video in footage(options.videos):
        try:
            rates = {name: RATES[name] for name in options.rates}
            rows += measure_video(tokenizer, video, options.max_clips, options.codecs, lpips, rates)
        except MediaError as error:
            print(f"left out: {error}")
        if options.json:
            write_json(options.json, rows)
    print_table(rows)
    if options.svg:
        write_curves(rows, options.svg)


def measure_video(
    tokenizer: VideoTokenizer,
    video: Path,
    max_clips: int,
    codecs: Sequence[str],
    lpips: LPIPS | None,
    rates: Mapping[str, EncodeConfig] = RATES,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each setting of videotok and of the codecs.

    Raises:
        MediaError: the video cannot be read.
    """
    tokens = tokenizer.encode(video, EncodeConfig(max_clips=max_clips))
    clips = zip(source_clips(tokens, video, SIZE), tokens.num_frames, strict=True)
    source = np.concatenate([frames_of(clip)[:count] for clip, count in clips])
    for setting, config in rates.items():
        tokens = tokenizer.encode(video, replace(config, max_clips=max_clips))
        decoded = np.stack(list(tokenizer.decode(tokens, DecodeConfig(size=SIZE, keyframe_source="tokens"))))
        streams = coded_bits(tokens, tokenizer.keyframes.grid, tokenizer.motion.code_grid)
        yield {
            "video": video.name,
            "codec": "videotok",
            "setting": setting,
            "tokens_per_second": tokens.tokens_per_second,
            "kbit_per_second": sum(tokens.bits_per_second().values()) / 1000,
            "coded_kbit_per_second": sum(streams.values()) / tokens.duration_seconds / 1000,
            "coded_bits_by_stream": streams,
            **mean_figures([measure(source, decoded, lpips)]).to_dict(),
        }
    fps = EncodeConfig().fps
    for name in codecs:
        for suffix, factor in HALVED.items():
            for crf in CODECS[name].crf:
                coded = encode_with(CODECS[name], crf, source, fps, factor)
                kbits = coded.num_bytes * 8 / (len(source) / float(fps)) / 1000
                yield {
                    "video": video.name,
                    "codec": f"{name}{suffix}",
                    "setting": f"crf {crf}",
                    "kbit_per_second": kbits,
                    "coded_kbit_per_second": kbits,
                    **mean_figures([measure(source, coded.frames, lpips)]).to_dict(),
                }


@dataclass(frozen=True)
class CodedVideo:
    """What a codec made of frames."""

    num_bytes: int
    """Of the stream, headers included, without its container."""
    frames: np.ndarray
    """uint8 [n, H, W, 3] RGB, decoded, at the size and rate of the frames that were encoded."""


def encode_with(codec: Codec, crf: int, frames: np.ndarray, fps: Fraction, factor: int) -> CodedVideo:
    """Encode frames uint8 [n, H, W, 3] with a codec and decode them, at 1 / factor of their size and rate.

    Raises:
        RuntimeError: the ffmpeg program failed.
    """
    count, height, width = frames.shape[:3]
    small = (width // factor, height // factor)
    shown = frames[::factor]
    if factor > 1:
        shown = np.stack([cv2.resize(frame, small, interpolation=cv2.INTER_AREA) for frame in shown])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coded.mkv"
        raw = [
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            f"{small[0]}x{small[1]}",
            "-r",
            str(fps / factor),
            "-i",
            "-",
        ]
        rate = ["-c:v", codec.encoder, *codec.options, "-crf", str(crf), "-b:v", "0", "-g", "9999"]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *raw, *rate, "-pix_fmt", "yuv420p", str(path)]
        ran = subprocess.run(command, input=shown.tobytes(), capture_output=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"ffmpeg failed with {codec.encoder}: {ran.stderr.decode(errors='replace').strip()}")
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            num_bytes = sum(packet.size for packet in container.demux(stream))
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
            num_bytes += len(stream.codec_context.extradata or b"")
    if factor > 1:
        decoded = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in decoded])
    return CodedVideo(num_bytes, np.repeat(decoded, factor, axis=0)[:count])


def grouped(rows: list[dict[str, Any]]) -> Mapping[tuple[str, str], list[dict[str, Any]]]:
    """Return rows by codec and setting, in the order in which they were measured."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["codec"], row["setting"]].append(row)
    return groups


def mean(rows: list[dict[str, Any]], name: str) -> float | None:
    """Return the mean over videos of one value; None where it was not measured."""
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(values)) if values else None


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the means over videos of every setting, and videotok's bits by stream."""
    columns = ("tokens_per_second", "kbit_per_second", "coded_kbit_per_second", *CURVES, "sharpness", "flicker")
    table = Table("codec", "setting", "videos", "tokens/s", "kbit/s", "coded", *CURVES.values(), "sharpness", "flicker")
    for (codec, setting), group in grouped(rows).items():
        values = [mean(group, name) for name in columns]
        digits = (0, 2, 2, 2, 3, 3, 3, 2, 2)
        cells = ["" if value is None else f"{value:.{places}f}" for value, places in zip(values, digits, strict=True)]
        table.add_row(codec, setting, str(len(group)), *cells)
    console = Console(width=170)
    console.print(table)
    for (codec, setting), group in grouped(rows).items():
        if codec == "videotok":
            streams = {
                name: np.mean([row["coded_bits_by_stream"].get(name, 0) for row in group])
                for name in group[-1]["coded_bits_by_stream"]
            }
            shares = ", ".join(f"{name} {bits / sum(streams.values()):.0%}" for name, bits in streams.items())
            console.print(f"coded bits, {setting}: {shares}")


def write_curves(rows: list[dict[str, Any]], folder: Path) -> None:
    """Write an SVG for each figure: its mean over the mean rate, a curve for each codec."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, title in CURVES.items():
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for (codec, _), group in grouped(rows).items():
            rate, coded, value = mean(group, "kbit_per_second"), mean(group, "coded_kbit_per_second"), mean(group, name)
            if rate is None or coded is None or value is None:
                continue
            points[codec].append((rate, value))
            if codec == "videotok":
                points["videotok, coded"].append((coded, value))
        curves = [
            Curve(codec, sorted(found), COLOURS.get(codec.split(", half")[0], "crossfade"), dashed="half" in codec)
            for codec, found in points.items()
        ]
        if curves:
            with atomic_path(folder / f"{name}.svg") as temporary:
                label = f"{title} over kbit/s"
                temporary.write_text(str(chart(curves, label, label, standalone=True)))


if __name__ == "__main__":
    main()
