"""The table, beside what others have published"""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

JUDGED, EXACT = "judged, zero-shot", "exact, fine-tuned"
PUBLISHED = (
    ("Video-LaVIT", 50.1, JUDGED),
    ("VideoChat2", 49.1, JUDGED),
    ("LLaMA-VID", 47.4, JUDGED),
    ("Video-LLaVA", 45.3, JUDGED),
    ("Video-ChatGPT", 35.2, JUDGED),
    ("FrozenBiLM", 43.2, EXACT),
    ("SiaSamRea", 39.8, EXACT),
    ("CoMVT", 38.8, EXACT),
    ("E-SA", 31.8, EXACT),
)
"""Accuracy in percent on the test split, as their papers state it."""


def report(results: dict[str, Any]) -> Group:
    """Accuracy by type, and overall beside published figures, each with its protocol."""
    types = Table("questions", "asked", "exact %", "95 %", box=None)
    judged = results.get("judged")
    if judged:
        types.add_column("judged %")
        types.add_column("score 0 to 5")
    for name, row in results["exact"].items():
        cells = [
            name,
            f"{row['asked']}",
            f"{100 * row['accuracy']:.1f}",
            f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
        ]
        if judged:
            cells += [f"{100 * judged['accuracy'][name]['accuracy']:.1f}", f"{judged['score'][name]['accuracy']:.2f}"]
        types.add_row(*cells)
    beside = Table("model", "accuracy %", "protocol", box=None)
    ours = f"{results['answerer']['answerer']}, {results['split']}"
    beside.add_row(ours, f"{100 * results['exact']['all']['accuracy']:.1f}", "exact")
    if judged:
        judge = results["judge"]["judge"]
        beside.add_row(ours, f"{100 * judged['accuracy']['all']['accuracy']:.1f}", f"judged by {judge}")
    for name, accuracy, protocol in PUBLISHED:
        beside.add_row(name, f"{accuracy:.1f}", protocol)
    return Group(types, Text(), Text("\n".join(notes(results))), Text(), beside)


def notes(results: dict[str, Any]) -> list[str]:
    """What the figures leave out."""
    found = []
    wups = results["wups"]
    if wups is None:
        found.append("WUPS left out: WordNet is not installed (pip install nltk; python -m nltk.downloader wordnet)")
    else:
        found.append(f"WUPS@0.9 {100 * wups['0.9']:.1f}, WUPS@0.0 {100 * wups['0.0']:.1f}")
    if results["missing_videos"]:
        found.append(
            f"{len(results['missing_videos'])} of {results['videos']} videos are missing: {results['unanswered']} "
            "questions have no answer and count as wrong; their names are in the results"
        )
    if results["limit"]:
        found.append(f"the first {results['limit']} questions only")
    if results.get("unjudged"):
        found.append(f"{results['unjudged']} answers without a verdict that can be read: they count as wrong, score 0")
    return found
