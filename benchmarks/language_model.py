"""What the shipped language model can do: `python -m benchmarks.language_model PART … --json OUT`.

questions     motion questions about scenes of held-out photographs and recordings, as `videotok lm ask` answers them
real          which way the camera moves in real footage, compared with the motion between its pictures
direction     pictures and "the camera moves left": the direction of the decoded video, by optical flow
prediction    bits per token of a video's second clip, beside context models of order 0 and 2, by stream
continuation  a video's second clip, generated from the first one: PSNR and LPIPS, beside its motion repeated
"""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.language_model_answers import questions, real_footage
from benchmarks.language_model_videos import STREAMS, continuation, direction, prediction
from videotok.io_utils import read_json, sha256_of_files, write_json
from videotok.lm.loading import load_language_model, shipped_language_model
from videotok.lm.model import VideoLanguageModel
from videotok.pipeline import VideoTokenizer


def main() -> None:
    """Measure the parts that were asked for, and write them."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    loaded = load_language_model(options.lm)
    parts: dict[str, Callable[[argparse.Namespace, VideoLanguageModel, VideoTokenizer], dict]] = {
        "questions": questions,
        "real": real_footage,
        "direction": direction,
        "prediction": prediction,
        "continuation": continuation,
    }
    found = {}
    for part in options.parts:
        found[part] = parts[part](options, loaded.model, loaded.tokenizer)
        print(part, found[part])
        if options.json:
            write_json(options.json, {"options": {k: str(v) for k, v in vars(options).items()}, **found})
    if options.figures:
        entries = read_json(options.figures) | figure_entries(found, options, _sha256(options.lm))
        write_json(options.figures, entries)


def _sha256(folder: Path | None) -> str:
    return sha256_of_files(sorted((folder or shipped_language_model()).glob("model*.safetensors")))


def figure_entries(found: dict, options: argparse.Namespace, sha256: str) -> dict[str, dict[str, Any]]:
    """Return the entries of docs/figures.json of what was measured; tables of `benchmarks.figure_tables` show them."""
    data = {
        "questions": f"{options.videos} scenes of held-out photographs and recordings, percent right",
        "real": "windows of 2, 4 and 8 s whose camera's motion is clear, percent right, 95 % interval over videos",
        "direction": f"{options.pictures} held-out photographs, each with six texts, {options.seconds:g} s",
        "prediction": f"second clips of {found.get('prediction', {}).get('videos')} held-back videos, bits an id",
        "continuation": f"second clips of {found.get('continuation', {}).get('videos')} videos of `natural`",
    }
    rows = {
        "questions": [{"name": name, **_percent(row)} for name, row in found.get("questions", {}).items()],
        "real": [
            {"name": f"{group}: {name}", **_percent(row)}
            for group, shares in found.get("real", {}).items()
            for name, row in shares.items()
            if isinstance(row, dict)
        ],
        "direction": [
            {"name": name, **_percent(row, "pixels a step")} for name, row in found.get("direction", {}).items()
        ],
        "prediction": [{"name": name, **found["prediction"][name]} for name in STREAMS if "prediction" in found],
        "continuation": [
            {"name": name, **row} for name, row in found.get("continuation", {}).get("mean", {}).items()
        ],
    }  # fmt: skip
    command = f"python -m benchmarks.language_model {' '.join(found)} --data FOOTAGE --natural NATURAL --lpips LPIPS"
    facts = {"command": command, "date": datetime.now(UTC).date().isoformat(), "weights": {"lm": sha256[:12]}}
    return {f"lm-{part}": {"data": data[part], **facts, "rows": rows[part]} for part in found if rows[part]}


def _percent(row: dict[str, Any], *kept: str) -> dict[str, Any]:
    """Return a row with its shares in percent; numbers of questions and videos, and what is `kept`, stay."""
    return {key: 100 * value if isinstance(value, float) and key not in kept else value for key, value in row.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="+", choices=("questions", "real", "direction", "prediction", "continuation"))
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data, for what was held back")
    parser.add_argument("--natural", type=Path, help="folder of videos to continue")
    parser.add_argument("--lm", type=Path, help="folder of a language model; default: the shipped one")
    parser.add_argument("--cache", type=Path, default=Path("cache/language_model"), help="folder of encoded videos")
    parser.add_argument("--videos", type=int, default=180, help="scenes that questions are asked about")
    parser.add_argument("--pictures", type=int, default=12, help="photographs, each with all directions")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each generated video")
    parser.add_argument("--footage", type=int, default=30, help="held-back videos whose second clip is predicted")
    parser.add_argument("--trained-footage", type=int, default=300, help="videos that the context models count")
    parser.add_argument("--continued", type=int, default=20, help="videos that are continued")
    parser.add_argument("--lpips", type=Path, help="weights of the LPIPS network (SqueezeNet, safetensors)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--figures", type=Path, help="docs/figures.json: put these figures into it")
    return parser


if __name__ == "__main__":
    main()
