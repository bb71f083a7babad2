"""Whether a corpus' search finds what is alike: `python -m benchmarks.corpus_search TOKENS --labels scene --json OUT`

Every clip is looked for among all others, by look and by motion. How often is the nearest one of the same video; and
how many of the five nearest of other videos carry the same label (a column of the manifest)? Beside it, what chance
gives.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from codec import atomic_path
from videotok.corpus.search import Codes, Index
from videotok.corpus.storage import CorpusFolder, read_shard, shard_paths

NEAREST = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Whether a corpus' search finds what is alike.")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--labels", nargs="*", default=[], help="columns of the manifest")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = CorpusFolder(arguments.tokens)
    codebooks = folder.facts["codebooks"]
    rows = pa.concat_tables([read_shard(path) for path in shard_paths(arguments.tokens)])
    codes, index = Codes.of(rows, codebooks), Index(arguments.tokens, codebooks)
    labels = {name: np.array(rows[name].to_pylist()) for name in ("video_id", *arguments.labels)}
    found = {kind: _figures(_likeness(index, codes, kind), labels) for kind in ("look", "motion")}
    print(f"{rows.num_rows} clips of {len(set(labels['video_id']))} videos")
    for kind, figures in found.items():
        for name, (share, chance) in figures.items():
            print(f"{kind:<7} {name:<32} {share:.3f}   by chance {chance:.3f}")
    if arguments.json:
        with atomic_path(arguments.json) as temporary:
            temporary.write_text(json.dumps({"clips": rows.num_rows, "figures": found}, indent=2) + "\n")


def _likeness(index: Index, codes: Codes, kind: str) -> np.ndarray:
    """float [clips, clips]."""
    compare = index.look if kind == "look" else index.motion
    count = len(codes.visual)
    one = (slice(number, number + 1) for number in range(count))
    return np.stack([compare(Codes(codes.visual[i], codes.motion[i], codes.camera[i]), codes) for i in one])


def _figures(likeness: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Name of a figure -> (measured, by chance)."""
    videos = labels["video_id"]
    same = videos[:, None] == videos[None]
    has_another = same.sum(1) > 1
    np.fill_diagonal(likeness, -np.inf)
    hits = same[np.arange(len(same)), likeness.argmax(1)]
    by_chance = (same.sum(1) - 1) / (len(same) - 1)
    figures = {"nearest is of the same video": (hits[has_another].mean(), by_chance[has_another].mean())}
    nearest = np.argsort(np.where(same, -np.inf, likeness), axis=1)[:, ::-1][:, :NEAREST]
    for name, values in labels.items():
        if name != "video_id":
            alike = values[:, None] == values[None]
            share = np.take_along_axis(alike, nearest, 1).mean()
            figures[f"same {name}, other videos"] = (share, alike[~same].mean())
    return {name: (float(share), float(chance)) for name, (share, chance) in figures.items()}


if __name__ == "__main__":
    main()
