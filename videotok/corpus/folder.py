"""The folder of a corpus: what was asked for, what is done, what was refused.

tokens/
  corpus.json       schema version, fingerprint, codebooks, where the videos came from
  inputs.parquet    every video that was asked for
  clips/part-*.parquet
  errors.parquet    videos that were refused, and why
  report.json, report.txt
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from videotok.corpus import durable
from videotok.corpus.fingerprint import Fingerprint
from videotok.corpus.schema import ERRORS, INPUTS, VERSION, clip_schema
from videotok.corpus.shards import shard_paths
from videotok.errors import CorpusError


class CorpusFolder:
    """Reads and writes what stands beside the shards.

    Raises (all methods that read):
        CorpusError: there is no corpus, a newer one, or a damaged one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @property
    def exists(self) -> bool:
        """Whether a job has been begun here."""
        return (self.folder / "corpus.json").is_file()

    @property
    def facts(self) -> dict[str, Any]:
        """corpus.json."""
        path = self.folder / "corpus.json"
        if not self.exists:
            raise CorpusError(f"{self.folder} is no corpus: it has no corpus.json; `videotok corpus encode` makes one")
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            version = facts["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{path} is damaged: {error}") from error
        if version != VERSION:
            raise CorpusError(
                f"{self.folder} has schema {version}, this videotok reads schema {VERSION}; update videotok"
            )
        return facts

    @property
    def fingerprint(self) -> Fingerprint:
        """What the tokens here depend on."""
        return Fingerprint(self.facts["fingerprint"])

    @property
    def inputs(self) -> pa.Table:
        """Every video asked for; see `manifest.read_inputs`."""
        return self._read("inputs.parquet", INPUTS)

    @property
    def errors(self) -> pa.Table:
        """Refused videos; columns of `schema.ERRORS`."""
        return self._read("errors.parquet", ERRORS)

    @property
    def schema(self) -> pa.Schema:
        """Of the shards."""
        fingerprint = self.fingerprint
        metadata = {
            "videotok.schema": str(VERSION),
            "videotok.fingerprint": fingerprint.text,
            "videotok.fingerprint_sha256": fingerprint.sha256,
        }
        return clip_schema(self.inputs.schema, metadata)

    def begin(self, facts: dict[str, Any]) -> None:
        """Makes the folder, or begins it anew: nothing of what was here before counts any more."""
        try:
            (self.folder / "clips").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CorpusError(f"cannot write {self.folder}: {error.strerror}; choose another place") from error
        for name in ("errors.parquet", "inputs.parquet"):
            durable.remove(self.folder / name)
        self._write_json("corpus.json", {"schema": VERSION} | facts)
        # killed here, the next job knows the shards by their fingerprint
        for path in shard_paths(self.folder):
            durable.remove(path)

    def write_inputs(self, inputs: pa.Table) -> None:
        durable.write_table(self.folder / "inputs.parquet", inputs)

    def write_errors(self, errors: pa.Table) -> None:
        durable.write_table(self.folder / "errors.parquet", errors.sort_by("video_id"))

    def write_report(self, report: dict[str, Any], text: str) -> None:
        self._write_json("report.json", report)
        durable.write_bytes(self.folder / "report.txt", text.encode())

    @property
    def is_being_written(self) -> bool:
        """Whether a job is at work here, on this machine."""
        try:
            with self.locked():
                return False
        except CorpusError:
            return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other jobs out. The lock goes with the process, however it ends.

        Raises:
            CorpusError: another job is at work here.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CorpusError(
                    f"{self.folder} is being written by another job; wait for it, or choose another folder"
                ) from error
            yield

    def _write_json(self, name: str, facts: dict[str, Any]) -> None:
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        durable.write_bytes(self.folder / name, f"{text}\n".encode())

    def _read(self, name: str, schema: pa.Schema) -> pa.Table:
        path = self.folder / name
        if not path.exists():
            return schema.empty_table()
        try:
            return pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise CorpusError(f"{path} is damaged ({' '.join(str(error).split())})") from error
