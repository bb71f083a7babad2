"""Memory of the published model sizes: `python -m benchmarks.lavit_memory FOLDER --json OUT`.

FOLDER gets random weights of the published sizes once, in half precision: the video detokenizer (3.2 GB), and an
autoencoder of Stable Video Diffusion's size. Every case runs in a process of its own, and all of its memory is counted:
`peak` is its largest resident size, with files that are mapped into memory; `own` is without these, which the system
may take back at any time.
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

from benchmarks.lavit_parity_cases import SCHEDULER, random_checkpoint, random_tensor
from unet3d import LatentVideoDetokenizer
from videotok.bundle import Bundle
from videotok.io_utils import write_json
from videotok.lavit.conversion import write_part
from videotok.lavit.weight_map import VIDEO_CONFIG

CPU = torch.device("cpu")
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
}
"""Of Stable Video Diffusion."""
IMAGE_VAE: dict[str, Any] = {
    "block_out_channels": (64, 128, 256, 256),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
"""Half as wide as SDXL's, so that a CPU finishes in time."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def write_random_bundle(folder: Path) -> None:
    """Write a bundle of random weights, unless it exists."""
    place = folder / "detokenizer"
    if not (place / "config.json").is_file():
        torch.manual_seed(0)
        AutoencoderKLTemporalDecoder(**VAE).half().save_pretrained(place / "vae")
        EulerDiscreteScheduler(**SCHEDULER).save_pretrained(place / "scheduler")
        weights = random_checkpoint("detokenizer", VIDEO_CONFIG)
        write_part(
            "detokenizer",
            VIDEO_CONFIG,
            weights,
            weights.shapes,
            place,
            where="random weights",
            half=True,
            allow_extra=False,
        )


def load(folder: Path, dtype: str) -> LatentVideoDetokenizer:
    """Load the video detokenizer of the bundle."""
    model = Bundle.find(folder).load_detokenizer(DTYPES[dtype])
    assert isinstance(model, LatentVideoDetokenizer)
    return model


def run_one_step(model: LatentVideoDetokenizer, steps: int = 4) -> None:
    """Do one sampling step of a clip of 128x64 pixels: two evaluations of the U-Net, with and without motion."""
    vectors = 0.1 * random_tensor("vectors", (1, steps, 20, 36, 2))
    model.sample_latents(random_tensor("latents", (1, 4, 8, 16)), vectors, 1, torch.Generator().manual_seed(0))


def _offload_by_accelerate(model: LatentVideoDetokenizer, folder: Path) -> None:
    accelerate.disk_offload(model.denoiser, str(folder), execution_device=CPU)


def _offload_by_diffusers(model: LatentVideoDetokenizer, folder: Path) -> None:
    apply_group_offloading(
        model.denoiser, onload_device=CPU, offload_type="leaf_level", offload_to_disk_path=str(folder / "groups")
    )


def _step_case(
    dtype: str, offload: Callable[[LatentVideoDetokenizer, Path], None] | None = None
) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        model = load(folder, dtype)
        with tempfile.TemporaryDirectory(dir=folder) as offload_folder:
            if offload is not None:
                offload(model, Path(offload_folder))
            run_one_step(model)

    return run


def _decode_case(chunk: int) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        vae = AutoencoderKLTemporalDecoder.from_pretrained(folder / "detokenizer" / "vae", torch_dtype=torch.float32)
        model = LatentVideoDetokenizer.__new__(LatentVideoDetokenizer)  # the autoencoder alone: not the U-Net's 6 GB
        model.vae, model.decode_chunk_size = vae.eval().requires_grad_(False), chunk
        frames: Tensor = model.decode_latents(random_tensor("latents", (1, 8, 4, 18, 32)))
        assert frames.shape == (1, 8, 3, 144, 256)

    return run


def _image_case(tiled: bool) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        del folder
        torch.manual_seed(0)
        vae = AutoencoderKL(**IMAGE_VAE).eval().requires_grad_(False)
        if tiled:
            vae.enable_tiling()
            vae.tile_sample_min_size, vae.tile_latent_min_size = 256, 32
        vae.decode(random_tensor("latents", (1, 4, 64, 64)), return_dict=False)  # pyright: ignore[reportArgumentType]

    return run


CASES: dict[str, Callable[[Path], None]] = {
    "nothing but the program": lambda folder: None,
    "video detokenizer, loaded, bfloat16": lambda folder: load(folder, "bfloat16") and None,
    "video detokenizer, loaded, float16": lambda folder: load(folder, "float16") and None,
    "video detokenizer, loaded, float32": lambda folder: load(folder, "float32") and None,
    "one step, float32": _step_case("float32"),
    "one step, bfloat16": _step_case("bfloat16"),
    "one step, bfloat16, weights on disk (accelerate)": _step_case("bfloat16", _offload_by_accelerate),
    "one step, bfloat16, weights on disk (diffusers, leaf level)": _step_case("bfloat16", _offload_by_diffusers),
    "one step, float16": _step_case("float16"),
    "one step, float16, weights on disk (accelerate)": _step_case("float16", _offload_by_accelerate),
    "one step, float16, weights on disk (diffusers, leaf level)": _step_case("float16", _offload_by_diffusers),
    "8 frames of 256x144 decoded at once": _decode_case(8),
    "8 frames of 256x144 decoded two at a time": _decode_case(2),
    "8 frames of 256x144 decoded one at a time": _decode_case(1),
    "image of 512x512, autoencoder half as wide": _image_case(False),
    "the same, in tiles of 256x256": _image_case(True),
}


def memory_gib(kind: str) -> float:
    """Return memory of this process (Linux): `VmHWM`, the peak so far; `RssAnon`, now and without mapped files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(kind)) / 2**20


def measure(case: str, folder: Path) -> dict[str, Any]:
    """Run a case in this process, and return its memory and time."""
    samples, done = [memory_gib("RssAnon")], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            samples.append(memory_gib("RssAnon"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.monotonic()
    with torch.no_grad():
        CASES[case](folder)
    seconds = time.monotonic() - start
    done.set()
    watcher.join()
    # getrusage would start from the peak of the process that started this one
    return {
        "case": case,
        "peak_gib": round(memory_gib("VmHWM"), 2),
        "own_gib": round(max(samples), 2),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path, help="folder of the random weights; 3.4 GB, and temporarily twice that")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="cases with one of these words in their names")
    parser.add_argument("--json", type=Path, help="file of the results, written after every case")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.folder)))
        return
    write_random_bundle(arguments.folder)
    rows = []
    for case in CASES:
        if arguments.only and not any(word in case for word in arguments.only):
            continue
        command = [sys.executable, "-m", "benchmarks.lavit_memory", str(arguments.folder), "--case", case]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1]))
        row = rows[-1]
        print(
            f"{case:62} peak {row['peak_gib']:5.2f} own {row['own_gib']:5.2f} GiB {row['seconds']:6.1f} s", flush=True
        )
        if arguments.json:
            write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
