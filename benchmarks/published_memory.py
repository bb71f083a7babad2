"""Memory that published sizes take, and what lessens it: python -m benchmarks.published_memory FOLDER --json OUT

FOLDER gets random weights of the published sizes once, in half precision: the video detokenizer (3.2 GB), Stable Video
Diffusion's autoencoder beside it. Every way of running is a process of its own, and all of its memory is counted:
`peak` is what the system gave it at most, files that are mapped into memory included; `own` leaves those out, which
the system may take back at any time.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, EulerDiscreteScheduler
from diffusers.hooks import apply_group_offloading
from torch import Tensor

from benchmarks.parity_cases import SCHEDULER, drawn, weights
from codec import atomic_path
from unet3d import LatentDetokenizer
from videotok.bundle import Bundle
from videotok.lavit.conversion import write_part
from videotok.lavit.weight_map import VIDEO_CONFIG

CPU = torch.device("cpu")
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
}
"""Stable Video Diffusion's."""
PICTURE_VAE: dict[str, Any] = {
    "block_out_channels": (64, 128, 256, 256),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
"""Half as wide as SDXL's, so that a CPU gets to the end."""
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def prepared(folder: Path) -> Path:
    """The bundle of random weights; made where it is not there."""
    place = folder / "detokenizer"
    if not (place / "config.json").is_file():
        torch.manual_seed(0)
        AutoencoderKLTemporalDecoder(**VAE).half().save_pretrained(place / "vae")
        EulerDiscreteScheduler(**SCHEDULER).save_pretrained(place / "scheduler")
        random = weights("detokenizer", VIDEO_CONFIG)
        write_part(
            "detokenizer", VIDEO_CONFIG, random, random.shapes, place, where="random weights", half=True, extra=False
        )
    return folder


def loaded(folder: Path, dtype: str) -> LatentDetokenizer:
    model = Bundle.find(folder).load_detokenizer(HALVES[dtype])
    assert isinstance(model, LatentDetokenizer)
    return model


def evaluated(model: LatentDetokenizer, steps: int = 4) -> None:
    """One sampling step of a clip of 128x64 pixels: two evaluations of the U-Net, with and without motion."""
    vectors = 0.1 * drawn("vectors", (1, steps, 20, 36, 2))
    model.sampled(drawn("latents", (1, 4, 8, 16)), vectors, 1, torch.Generator().manual_seed(0))


def _on_disk(model: LatentDetokenizer, folder: Path) -> None:
    accelerate.disk_offload(model.model, str(folder), execution_device=CPU)


def _in_groups(model: LatentDetokenizer, folder: Path) -> None:
    apply_group_offloading(
        model.model, onload_device=CPU, offload_type="leaf_level", offload_to_disk_path=str(folder / "groups")
    )


def _spared(dtype: str, spare: Callable[[LatentDetokenizer, Path], None] | None = None) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        model = loaded(folder, dtype)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            if spare is not None:
                spare(model, Path(place))
            evaluated(model)

    return run


def _decoded(chunk: int) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        vae = AutoencoderKLTemporalDecoder.from_pretrained(folder / "detokenizer" / "vae", torch_dtype=torch.float32)
        model = LatentDetokenizer.__new__(LatentDetokenizer)  # the autoencoder alone: not the U-Net's 6 GB
        model.vae, model.chunk = vae.eval().requires_grad_(False), chunk
        frames: Tensor = model.decoded(drawn("latents", (1, 8, 4, 18, 32)))
        assert frames.shape == (1, 8, 3, 144, 256)

    return run


def _picture(tiled: bool) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        del folder
        torch.manual_seed(0)
        vae = AutoencoderKL(**PICTURE_VAE).eval().requires_grad_(False)
        if tiled:
            vae.enable_tiling()
            vae.tile_sample_min_size, vae.tile_latent_min_size = 256, 32
        vae.decode(drawn("latents", (1, 4, 64, 64)), return_dict=False)  # pyright: ignore[reportArgumentType]

    return run


WAYS: dict[str, Callable[[Path], None]] = {
    "nothing but the program": lambda folder: None,
    "video detokenizer, loaded, bfloat16": lambda folder: loaded(folder, "bfloat16") and None,
    "video detokenizer, loaded, float16": lambda folder: loaded(folder, "float16") and None,
    "video detokenizer, loaded, float32": lambda folder: loaded(folder, "float32") and None,
    "one step, float32": _spared("float32"),
    "one step, bfloat16": _spared("bfloat16"),
    "one step, bfloat16, weights on disk (accelerate)": _spared("bfloat16", _on_disk),
    "one step, bfloat16, weights on disk (diffusers, leaf level)": _spared("bfloat16", _in_groups),
    "one step, float16": _spared("float16"),
    "one step, float16, weights on disk (accelerate)": _spared("float16", _on_disk),
    "one step, float16, weights on disk (diffusers, leaf level)": _spared("float16", _in_groups),
    "8 frames of 256x144 decoded at once": _decoded(8),
    "8 frames of 256x144 decoded two at a time": _decoded(2),
    "8 frames of 256x144 decoded one at a time": _decoded(1),
    "picture of 512x512, autoencoder half as wide": _picture(False),
    "the same, in tiles of 256x256": _picture(True),
}


def memory(kind: str) -> float:
    """GiB of this process: `VmHWM`, the most it had so far; `RssAnon`, what it has now and no file backs (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(kind)) / 2**20


def measured(way: str, folder: Path) -> dict[str, Any]:
    """Runs one way in this process."""
    seen, done = [memory("RssAnon")], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            seen.append(memory("RssAnon"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.monotonic()
    with torch.no_grad():
        WAYS[way](folder)
    seconds = time.monotonic() - start
    done.set()
    watcher.join()
    # not getrusage: its figure begins with that of the process that started this one
    return {
        "way": way,
        "peak_gib": round(memory("VmHWM"), 2),
        "own_gib": round(max(seen), 2),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path, help="of the random weights; 3.4 GB, and as much again meanwhile")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="ways that have one of these words in their names")
    parser.add_argument("--json", type=Path, help="written after every way")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measured(arguments.way, arguments.folder)))
        return
    prepared(arguments.folder)
    rows = []
    for way in WAYS:
        if arguments.only and not any(word in way for word in arguments.only):
            continue
        command = [sys.executable, "-m", "benchmarks.published_memory", str(arguments.folder), "--way", way]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]))
        row = rows[-1]
        print(f"{way:62} peak {row['peak_gib']:5.2f} own {row['own_gib']:5.2f} GiB {row['seconds']:6.1f} s", flush=True)
        if arguments.json:
            with atomic_path(arguments.json) as temporary:
                temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
