"""Damage video files in many ways and read each: is it read, or refused in one line?

    python -m benchmarks.mutations FILES… --number 1500 [--seed 0] [--seconds 3] [--keep FOLDER] [--json OUT]

Each file is first cut to some seconds, as it is (`-c copy`) into several containers, and encoded anew by other codecs.
A mutation is one or more damages of one cut, all drawn from the seed, and is read in a forked process in one of several
ways (from the beginning, from a later time, with pictures, by a re-encoding, by two decoders, vectors alone). What
became of it is `done`, `refused` (a MediaError of one printable line), `fault` (any other exception, or clips that make
no sense: times that do not increase, vectors that are not finite), `crash` (a signal) or `hang`.

JSON: a row for each mutation that was neither read nor refused, and counts.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np

from benchmarks.forked import REFUSED, Outcome, run_forked
from codec import ClipSpec, MediaError, iter_clips, iter_motion, probe
from videotok.io_utils import write_json

COPIES = ("mp4", "mkv", "ts", "avi", "flv", "mov", "nut", "mpg", "3gp")
"""Containers that cuts are copied to; those that do not take a file's codec are left out."""

FRAGMENTS = ["-movflags", "frag_keyframe+empty_moov"]

ENCODERS = {
    "mp4": ["libx265", "-preset", "ultrafast"],
    "webm": ["libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"],
    "mkv": ["libsvtav1", "-preset", "12"],
    "ogv": ["libtheora"],
    "avi": ["msmpeg4v2"],
    "wmv": ["wmv2"],
    "flv": ["flv"],
    "mov": ["prores_ks"],
    "mxf": ["mpeg2video", "-bf", "2"],
    "vob": ["mpeg2video", "-bf", "2", "-flags", "+ildct+ilme"],
    "rm": ["rv20"],
    "m4v": ["mpeg4", "-bf", "2"],
    "gif": ["gif"],
    "webp": ["libwebp_anim"],
    "mjpg": ["mjpeg"],
    "h265": ["libx265", "-preset", "ultrafast"],
}
"""By container, the encoder of a cut of 160 x 90 and its options."""

EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\x80\0\0\0")
"""Numbers of four bytes, most significant first, that sizes and counts are replaced by."""


def cut(path: Path, number: int, folder: Path, seconds: float) -> list[Path]:
    """Write the first seconds of the `number`th video into `folder`, copied and encoded; return what could be."""
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "quiet", "-y", "-i", str(path)]
    ways = [(f"{path.stem}.copy.{suffix}", ["-c:v", "copy"]) for suffix in COPIES]
    ways += [(f"{path.stem}.fragments.mp4", ["-c:v", "copy", *FRAGMENTS])]
    small = ["-vf", "scale=160:90", "-c:v"]
    turn = [list(ENCODERS.items())[(number + step) % len(ENCODERS)] for step in (0, 5, 10)]
    ways += [(f"{path.stem}.{encoder[0]}.{suffix}", [*small, *encoder]) for suffix, encoder in turn]
    made = []
    for name, options in ways:
        target = folder / name
        if not target.exists():
            command = [*program, "-t", str(seconds), "-an", "-sn", "-dn", *options, "-strict", "-2", str(target)]
            if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
                target.unlink(missing_ok=True)
        if target.exists() and target.stat().st_size > 500:
            made.append(target)
    return made


def span(data: bytes, chance: random.Random) -> slice:
    """Return a random part of the data, from one byte to a quarter of it; short ones are as likely as long ones."""
    length = round(2 ** chance.uniform(0, max(1.0, np.log2(len(data) / 4 + 2))))
    begin = chance.randrange(max(1, len(data) - length))
    return slice(begin, begin + length)


def flip_bits(data: bytes, chance: random.Random, until: int | None = None) -> bytes:
    """Flip 1 to 1000 bits in the first `until` bytes."""
    changed = bytearray(data)
    for _ in range(round(10 ** chance.uniform(0, 3))):
        changed[chance.randrange(min(until or len(data), len(data)))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def damage_numbers(data: bytes, chance: random.Random) -> bytes:
    """Replace a number of four bytes, in the first or last 4 kB, by an extreme one."""
    at = chance.randrange(min(4096, len(data) - 4))
    at = at if chance.random() < 0.6 else len(data) - 4 - at
    return data[:at] + chance.choice(EXTREMES) + data[at + 4 :]


def move(data: bytes, chance: random.Random) -> bytes:
    """Move a part of the data to another place."""
    part = span(data, chance)
    rest = data[: part.start] + data[part.stop :]
    at = chance.randrange(len(rest) + 1)
    return rest[:at] + data[part] + rest[at:]


def overwrite(data: bytes, chance: random.Random, fill: Callable[[int], bytes]) -> bytes:
    """Replace a part of the data by what `fill` returns for its length."""
    part = span(data, chance)
    return data[: part.start] + fill(len(data[part])) + data[part.stop :]


def splice(data: bytes, chance: random.Random, others: list[Path]) -> bytes:
    """Join the beginning of one file and the end of another, or write a part of one over the other."""
    other = chance.choice(others).read_bytes()
    if chance.random() < 0.5:
        return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]
    part = span(other, chance)
    at = chance.randrange(len(data))
    return data[:at] + other[part] + data[at + len(other[part]) :]


DAMAGES: dict[str, Callable[[bytes, random.Random, list[Path]], bytes]] = {
    "bits": lambda data, chance, _: flip_bits(data, chance),
    "header bits": lambda data, chance, _: flip_bits(data, chance, 512),
    "numbers": lambda data, chance, _: damage_numbers(data, chance),
    "truncated": lambda data, chance, _: data[: chance.randrange(1, len(data))],
    "beginning lost": lambda data, chance, _: data[chance.randrange(1, len(data)) :],
    "deleted": lambda data, chance, _: (part := span(data, chance)) and data[: part.start] + data[part.stop :],
    "repeated": lambda data, chance, _: (part := span(data, chance)) and data[: part.stop] + data[part.start :],
    "moved": lambda data, chance, _: move(data, chance),
    "zeros": lambda data, chance, _: overwrite(data, chance, bytes),
    "noise": lambda data, chance, _: overwrite(data, chance, chance.randbytes),
    "spliced": splice,
}


def mutate(path: Path, chance: random.Random, others: list[Path]) -> tuple[bytes, str]:
    """Return the content of a file with one to three damages, and their names."""
    data, names = path.read_bytes(), []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        name = chance.choice(list(DAMAGES))
        names.append(name)
        data = DAMAGES[name](data, chance, others) or b"\0"
    return data, " + ".join(names)


def check_clips(path: Path, **options: object) -> None:
    """Read all clips of a video.

    Raises:
        AssertionError: they make no sense.
    """
    last = float("-inf")
    for clip in iter_clips(path, ClipSpec(), **options):  # pyright: ignore[reportArgumentType]
        if clip.pts_seconds <= last:
            raise AssertionError(f"a clip at {clip.pts_seconds} s follows one at {last} s")
        last = clip.pts_seconds
        if not (np.isfinite(clip.motion.vectors).all() and clip.num_frames and np.isfinite(last)):
            raise AssertionError(f"a clip of {clip.num_frames} frames at {last} s, or its vectors, are not finite")


def check_motion(path: Path) -> None:
    """Read the motion of all frames of a video.

    Raises:
        AssertionError: it makes no sense.
    """
    for frame in iter_motion(path):
        if not np.isfinite(frame.vectors).all() or not np.isfinite(frame.pts_seconds):
            raise AssertionError("vectors that are not finite")


READERS: dict[str, Callable[[Path], object]] = {
    "from the beginning": lambda path: check_clips(path),
    "from 1.5 s": lambda path: check_clips(path, start_seconds=1.5),
    "pictures": lambda path: check_clips(path, frames=True, frame_size=(64, 36)),
    "re-encoded": lambda path: check_clips(path, motion_source="reencode"),
    "two decoders": lambda path: check_clips(path, decoders=2),
    "fields alone": lambda path: check_clips(path, keyframes=False, split_at_cuts=True),
    "vectors": check_motion,
    "facts": probe,
}


@dataclass(frozen=True)
class Result:
    """What became of one mutation."""

    file: str
    damage: str
    reader: str
    outcome: Outcome


def read(reader: str, path: Path) -> int:
    """Read a file in one of the ways of `READERS`; return an exit code, and print a refusal."""
    try:
        READERS[reader](path)
    except MediaError as error:
        os.write(2, str(error).encode(errors="surrogateescape"))
        return REFUSED
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="videos")
    parser.add_argument("--number", type=int, default=1500, help="mutations (default 1500)")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation (default 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of the cuts (default 3)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each mutation (default 60)")
    parser.add_argument("--memory", type=float, default=1500.0, help="megabytes that are too many (default 1500)")
    parser.add_argument(
        "--keep", type=Path, help="folder for cuts, and for mutations that are neither read nor refused"
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        (folder / "cuts").mkdir(parents=True, exist_ok=True)
        cuts = [
            made
            for number, path in enumerate(arguments.files)
            for made in cut(path, number, folder / "cuts", arguments.seconds)
        ]
        print(f"{len(cuts)} cuts of {len(arguments.files)} videos", flush=True)
        check_clips(cuts[0])  # compiled code is loaded once, here, and not in each process
        results = []
        for number in range(arguments.first, arguments.first + arguments.number):
            chance = random.Random(f"{arguments.seed} {number}")
            path = chance.choice(cuts)
            data, damage = mutate(path, chance, cuts)
            target = Path(temporary) / f"{number}{path.suffix}"
            target.write_bytes(data)
            reader = chance.choice(list(READERS))
            outcome = run_forked(partial(read, reader, target), arguments.timeout)
            result = Result(path.name, damage, reader, outcome)
            results.append(result)
            if not outcome.is_good or outcome.megabytes > arguments.memory:
                print(f"{number}: {result}", flush=True)
                (folder / target.name).write_bytes(data)
            target.unlink(missing_ok=True)
            if not len(results) % 100:
                print(dict(Counter(one.outcome.name for one in results)), flush=True)
    report(results, arguments.json)


def report(results: list[Result], path: Path | None) -> None:
    """Print counts and the largest figures, write them as JSON, and exit with 1 if there was any fault."""
    counts = Counter(result.outcome.name for result in results)
    damages = Counter(f"{result.damage}: {result.outcome.name}" for result in results if "+" not in result.damage)
    megabytes = max(result.outcome.megabytes for result in results)
    seconds = max(result.outcome.seconds for result in results)
    print(", ".join(f"{number} {name}" for name, number in counts.most_common()))
    print(f"peak memory {megabytes:.0f} MB, most CPU seconds {seconds:.1f}")
    if path:
        rows = [asdict(result) for result in results if not result.outcome.is_good]
        figures = {"counts": counts, "damages": damages, "peak_megabytes": megabytes, "most_cpu_seconds": seconds}
        write_json(path, figures | {"rows": rows})
    sys.exit(0 if all(result.outcome.is_good for result in results) else 1)


if __name__ == "__main__":
    main()
