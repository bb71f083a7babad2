"""Encode every file of some folders, each in a process of its own: is each encoded, or refused in one line?

    python -m benchmarks.any_file FOLDERS… [--sample N] [--phase P] [--read | --decode] [--clips N] [--timeout 120]
                                  [--sheets FOLDER] [--json OUT]

A file is `done` (exit code 0), `refused` (exit code 2 and one line), a `fault` (a traceback, another exit code, or more
than one line), a `crash` (a signal) or a `hang` (no end within the timeout). With `--read` only the codec runs. With
`--decode` the tokens are decoded too, and the first frame is compared with the picture that the FFmpeg program shows:
its shape, which way up it is, and its colours (benchmarks/first_picture.py). The processes are forked after all is
imported. `seconds` is CPU time and `megabytes` the peak memory of the process.

JSON: a row for each file.
"""

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import torch

from benchmarks.first_picture import Look, Pair, compare_first_picture, write_sheets
from benchmarks.forked import REFUSED, Outcome, run_forked
from codec import MediaError, iter_clips
from videotok.cli.main import main as command_line
from videotok.io_utils import write_json
from videotok.pipeline import VideoTokenizer


@dataclass(frozen=True)
class Result:
    """What became of one file."""

    file: str
    outcome: Outcome
    look: Look | None = None
    """How the first decoded frame looks; None if it was not compared."""

    def __str__(self) -> str:
        outcome, look = self.outcome, self.look
        last = outcome.message.splitlines()[-1] if outcome.message and outcome.name != "done" else str(look or "")
        return f"{outcome.name:8} {outcome.seconds:6.1f} s {outcome.megabytes:6.0f} MB  {Path(self.file).name}  {last}"


def files_of(folder: Path, sample: int = 0, phase: float = 0.0) -> list[Path]:
    """Return the files of a folder, or the file itself; with `sample`, at most so many, evenly chosen.

    Args:
        folder: or a file.
        sample: how many files; 0: all.
        phase: which of each group of neighbours is chosen: 0 for the first, 0.5 for the middle one.
    """
    files = sorted(one for one in folder.rglob("*") if one.is_file()) if folder.is_dir() else [folder]
    if not 0 < sample < len(files):
        return files
    return [files[int((number + phase) * len(files) / sample)] for number in range(sample)]


def read(path: Path, clips: int) -> int:
    """Read the clips of a file; return an exit code, and print a refusal."""
    try:
        for _ in iter_clips(path, max_clips=clips or None):
            pass
    except MediaError as error:
        print(error, file=sys.stderr, flush=True)
        return REFUSED
    return 0


def encode_and_decode(path: Path, clips: int, folder: Path) -> int:
    """Encode a file and decode its tokens as the command line does; leave the first frame's look in the folder.

    Returns:
        the exit code.
    """
    tokens = folder / "out.vtok"
    limit = ["--max-clips", str(clips)] if clips else []
    code = command_line(["encode", str(path), "-o", str(tokens), *limit])
    code = code or command_line(["decode", str(tokens), "--steps", "1"])
    if not code:
        compare_first_picture(path, tokens, next(folder.glob("out-decoded.*"))).save(folder)
    return code


def encode(path: Path, clips: int) -> int:
    """Encode a file as the command line does; return its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        limit = ["--max-clips", str(clips)] if clips else []
        return command_line(["encode", str(path), "-o", f"{folder}/out.vtok", *limit])


def try_file(path: Path, arguments: argparse.Namespace) -> tuple[Result, Pair | None]:
    """Return what becomes of a file, and its first picture beside the decoded one where these were compared."""
    if not arguments.decode:
        function = partial(read if arguments.read else encode, path, arguments.clips)
        return Result(str(path), run_forked(function, arguments.timeout)), None
    with tempfile.TemporaryDirectory() as folder:
        function = partial(encode_and_decode, path, arguments.clips, Path(folder))
        outcome = run_forked(function, arguments.timeout)
        pair = Pair.load(Path(folder))
    return Result(str(path), outcome, pair.look if pair else None), pair


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders with files, or files")
    parser.add_argument("--sample", type=int, default=0, help="files of each folder, evenly chosen (default: all)")
    parser.add_argument("--phase", type=float, default=0.0, help="0 to 1: which files --sample chooses (default 0)")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--read", action="store_true", help="only read the files' clips, without tokenizing them")
    way.add_argument("--decode", action="store_true", help="decode the tokens too, and compare the first frame")
    parser.add_argument(
        "--sheets", type=Path, help="with --decode: folder for pages of first pictures, source | decoded"
    )
    parser.add_argument("--clips", type=int, default=0, help="clips of each file (default: all)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each file (default 120)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    found = [file for folder in arguments.folders for file in files_of(folder, arguments.sample, arguments.phase)]
    cv2.setNumThreads(1)
    torch.set_num_threads(1)  # a process that has threads of OpenMP cannot be forked
    tokenizer = VideoTokenizer.from_pretrained()  # imports all that encoding needs, once and not in each process
    if arguments.decode:
        _ = tokenizer.detokenizer
    results, pairs = [], []
    for path in found:
        result, pair = try_file(path, arguments)
        results.append(result)
        pairs += [(path.name, pair)] if pair else []
        print(result, flush=True)
    counts = Counter(result.outcome.name for result in results)
    print(", ".join(f"{number} {name}" for name, number in counts.most_common()))
    print(f"peak memory {max((result.outcome.megabytes for result in results), default=0):.0f} MB")
    wrong = [result for result in results if result.look and result.look.problems]
    print(f"{len(pairs)} first pictures compared, {len(wrong)} with a doubt")
    if arguments.sheets:
        write_sheets(pairs, arguments.sheets)
    if arguments.json:
        write_json(arguments.json, [asdict(result) for result in results])
    sys.exit(0 if all(result.outcome.is_good for result in results) else 1)


if __name__ == "__main__":
    main()
