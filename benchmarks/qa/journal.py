"""A journal of answers: a line each, on disk before the next question is asked"""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Journal:
    """Append-only JSONL, `{"id": ..., ...}` a line. A run that was killed goes on behind its last whole line.

    Its first line says what the run is: another run is not mixed in.

        with Journal(path, {"answerer": "blind"}) as journal:
            if "q1" not in journal.rows:
                journal.add("q1", {"answer": "yes"})
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        """Reads what is there.

        Raises:
            SystemExit: the file is of another run, or damaged before its last line.
        """
        self.path, self.facts = path, facts
        self.rows: dict[str, dict[str, Any]] = {}
        self._whole = 0
        if path.exists():
            self._read()

    def _read(self) -> None:
        data = self.path.read_bytes()
        lines = data.split(b"\n")
        for number, line in enumerate(lines[:-1]):  # what stands behind the last line feed was cut off by a kill
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SystemExit(f"{self.path}: line {number + 1} is damaged; delete it, or the file") from error
            if number == 0 and row != self.facts:
                differing = sorted(key for key in row.keys() | self.facts.keys() if row.get(key) != self.facts.get(key))
                raise SystemExit(
                    f"{self.path} is of another run: {', '.join(f'{key} was {row.get(key)!r}' for key in differing)}; "
                    "choose another --out, or delete it"
                )
            if number:
                self.rows[row["id"]] = row
            self._whole += len(line) + 1

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        self._file.truncate(self._whole)
        if self._whole == 0:
            self._write(self.facts)
        return self

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Writes a row; when this returns it is on disk.

        Raises:
            ValueError: there is a row of that key.
        """
        if key in self.rows:
            raise ValueError(f"{key} is in {self.path} already")
        self.rows[key] = {"id": key, **row}
        self._write(self.rows[key])

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
