"""An append-only journal of answers: each line is on disk before the next question is asked."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Journal:
    """Append-only JSONL, `{"id": ..., ...}` a line. A run that was killed resumes after its last complete line.

    The first line describes the run, so that two runs are never mixed in one file.

        with Journal(path, {"answerer": "blind"}) as journal:
            if "q1" not in journal.rows:
                journal.add("q1", {"answer": "yes"})
    """

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        """Read the rows that exist already.

        Args:
            path: of the file; it need not exist.
            description: of the run: whatever its answers depend on.

        Raises:
            SystemExit: the file belongs to another run, or is damaged before its last line.
        """
        self.path, self.description = path, description
        self.rows: dict[str, dict[str, Any]] = {}
        self._complete_bytes = 0
        if path.exists():
            self._read()

    def _read(self) -> None:
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1]):  # the last one is incomplete, or empty
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SystemExit(f"{self.path}: line {number + 1} is damaged; delete it, or the file") from error
            if number == 0:
                self._check_description(row)
            else:
                self.rows[row["id"]] = row
            self._complete_bytes += len(line) + 1

    def _check_description(self, row: dict[str, Any]) -> None:
        keys = row.keys() | self.description.keys()
        if differing := sorted(key for key in keys if row.get(key) != self.description.get(key)):
            raise SystemExit(
                f"{self.path} belongs to another run: {', '.join(f'{key} was {row.get(key)!r}' for key in differing)}; "
                "choose another --out, or delete the file"
            )

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        self._file.truncate(self._complete_bytes)
        if self._complete_bytes == 0:
            self._write(self.description)
        return self

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Append a row; it is on disk when this returns.

        Raises:
            ValueError: a row of that key exists already.
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
