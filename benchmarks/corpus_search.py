"""Quality of the search in a corpus: `python -m benchmarks.corpus_search TOKENS --labels scene --json OUT`

Every clip is searched among all others, by look and by motion: how often the nearest clip is of the same video, and how
many of the five nearest clips of other videos have the same label (a column of the manifest), each beside chance.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa

from videotok.corpus.search import ClipFeatures, CodeRarity, CorpusSearch
from videotok.corpus.storage import CorpusFolder, read_shard, shard_paths
from videotok.io_utils import write_json

NUM_NEAREST = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality of the search in a corpus.")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--labels", nargs="*", default=[], help="columns of the manifest")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = CorpusFolder(arguments.tokens)
    codebooks = folder.facts["codebooks"]
    rows = pa.concat_tables([read_shard(path) for path in shard_paths(arguments.tokens)])
    clips, rarity = ClipFeatures.from_rows(rows, codebooks), CorpusSearch(arguments.tokens, codebooks).rarity
    labels = {name: np.array(rows[name].to_pylist()) for name in ("video_id", *arguments.labels)}
    found = {kind: _figures(_similarity(rarity, clips, kind), labels) for kind in ("look", "motion")}
    print(f"{rows.num_rows} clips of {len(set(labels['video_id']))} videos")
    for kind, figures in found.items():
        for name, (share, chance) in figures.items():
            print(f"{kind:<7} {name:<32} {share:.3f}   by chance {chance:.3f}")
    if arguments.json:
        write_json(arguments.json, {"clips": rows.num_rows, "figures": found})


def _similarity(rarity: CodeRarity, clips: ClipFeatures, kind: str) -> np.ndarray:
    """Return the similarity of every clip to every other, float [clips, clips]."""
    compare = rarity.look_similarity if kind == "look" else rarity.motion_similarity
    return np.stack([compare(clips[number : number + 1], clips) for number in range(len(clips))])


def _figures(similarity: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Return figures by name: (measured, by chance)."""
    videos = labels["video_id"]
    same = videos[:, None] == videos[None]
    has_another = same.sum(1) > 1
    np.fill_diagonal(similarity, -np.inf)
    hits = same[np.arange(len(same)), similarity.argmax(1)]
    by_chance = (same.sum(1) - 1) / (len(same) - 1)
    figures = {"nearest is of the same video": (hits[has_another].mean(), by_chance[has_another].mean())}
    nearest = np.argsort(np.where(same, -np.inf, similarity), axis=1)[:, ::-1][:, :NUM_NEAREST]
    for name, values in labels.items():
        if name != "video_id":
            has_label = values[:, None] == values[None]
            share = np.take_along_axis(has_label, nearest, 1).mean()
            figures[f"same {name}, other videos"] = (share, has_label[~same].mean())
    return {name: (float(share), float(chance)) for name, (share, chance) in figures.items()}


if __name__ == "__main__":
    main()
