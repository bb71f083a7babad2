"""What tokens depend on besides the video: weights, spec and versions. Two corpora are one only if these agree."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from videotok.errors import CorpusError

PACKAGES = ("videotok", "av", "opencv-python", "numpy", "torch")
"""Packages that take part in turning a file into ids: another version may decode or resize by a bit differently."""


@dataclass(frozen=True)
class Fingerprint:
    """Facts in the order in which they are compared; plain values, nested one level."""

    facts: Mapping[str, Mapping[str, Any]]
    """`weights`: sha256 of each model; `spec`: clips and rates; `versions`: packages."""

    @property
    def text(self) -> str:
        """The facts as JSON: equal facts, equal text."""
        return json.dumps(self.facts, sort_keys=True)

    @property
    def sha256(self) -> str:
        """Of the text: what each row carries."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def check(self, other: "Fingerprint", folder: object) -> None:
        """Refuses to go on with what `other` began.

        Raises:
            CorpusError: they differ; names the first difference with both values.
        """
        for group in self.facts.keys() | other.facts.keys():
            here, there = self.facts.get(group, {}), other.facts.get(group, {})
            for name in sorted(here.keys() | there.keys()):
                if here.get(name) != there.get(name):
                    raise CorpusError(
                        f"{folder} was made with {group} {name} = {_short(there.get(name))}, this command has "
                        f"{_short(here.get(name))}; take another folder, or --overwrite to begin anew"
                    )


def installed() -> dict[str, str]:
    """Versions of the packages that matter."""
    return {package: version(package) for package in PACKAGES}


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
