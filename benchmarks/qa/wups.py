"""WUPS: how near an answer's words are to the right ones in WordNet (Malinowski and Fritz, arXiv 1410.0210, eq. 5)"""

from collections.abc import Callable
from functools import lru_cache

DOWN_WEIGHT = 0.1
"""Of a pair of words less alike than the threshold."""

Similarity = Callable[[str, str], float]


def wordnet_similarity() -> Similarity | None:
    """Wu and Palmer's similarity of two words, 0 to 1, the best of their meanings as nouns (as the authors' script).

    None where WordNet is not installed (`pip install nltk`, `python -m nltk.downloader wordnet`).
    """
    try:
        from nltk.corpus import wordnet

        wordnet.synsets("word")
    except (ImportError, LookupError, OSError):  # the last: some of WordNet's files are missing
        return None
    version = wordnet.get_version()
    # asked for, and parsed, at every comparison of two meanings: two thirds of the time
    wordnet.get_version = lambda: version

    @lru_cache(maxsize=200_000)
    def similarity(left: str, right: str) -> float:
        if left == right:
            return 1.0
        pairs = ((a, b) for a in wordnet.synsets(left, "n") for b in wordnet.synsets(right, "n"))
        return max((a.wup_similarity(b) or 0.0 for a, b in pairs), default=0.0)

    return similarity


def wups(prediction: str, answer: str, threshold: float, similarity: Similarity) -> float:
    """0 to 1: each word of either side against its best match on the other, multiplied, the worse side."""
    found, right = prediction.split(), answer.split()
    if not found or not right:
        return float(found == right)
    return min(_side(found, right, threshold, similarity), _side(right, found, threshold, similarity))


def _side(these: list[str], those: list[str], threshold: float, similarity: Similarity) -> float:
    product = 1.0
    for word in these:
        best = max(similarity(word, other) for other in those)
        product *= best if best >= threshold else DOWN_WEIGHT * best
    return product
