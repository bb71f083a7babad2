"""A corpus of schema version 1, written by an earlier videotok, is read under today's names.

tests/data/corpus1 was encoded before version 2: three clips of two videos, and a file that is no video.
"""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpora import make_videos

from videotok.cli.main import main
from videotok.corpus import job
from videotok.corpus.export import PackingOptions, to_huggingface, to_packed_ids, video_tokens
from videotok.corpus.report import corpus_report, find_faults
from videotok.corpus.search import ClipFeatures, CorpusSearch
from videotok.corpus.storage import CorpusFolder, ordered_videos, read_shard, shard_paths
from videotok.errors import CorpusError
from videotok.lm.data import read_samples
from videotok.tokens import VideoTokens

VERSION_1 = Path(__file__).parent / "data" / "corpus1"


@pytest.fixture
def corpus(tmp_path) -> Path:
    return Path(shutil.copytree(VERSION_1, tmp_path / "tokens"))


def raw_rows() -> pa.Table:
    """Return the rows under the names on disk."""
    return pa.concat_tables([pq.read_table(path) for path in shard_paths(VERSION_1)])


def test_columns_have_todays_names(corpus):
    raw = raw_rows()
    assert "camera_ids" in raw.column_names
    tables = [read_shard(path) for path in shard_paths(corpus)]
    rows = pa.concat_tables(tables)
    assert "camera_ids" not in rows.column_names
    assert rows["global_motion_ids"].to_pylist() == raw["camera_ids"].to_pylist()
    some = read_shard(shard_paths(corpus)[0], ["global_motion_ids", "clip"])
    assert some.column_names == ["global_motion_ids", "clip"]
    assert some["global_motion_ids"].to_pylist() == tables[0]["global_motion_ids"].to_pylist()


def test_status_and_verify(corpus, capsys):
    facts = corpus_report(CorpusFolder(corpus))
    assert (facts["inputs"], facts["done"], facts["refused"], facts["clips"]) == (3, 2, 1, 3)
    assert list(find_faults(CorpusFolder(corpus))) == []
    assert main(["corpus", "status", str(corpus)]) == 0
    assert main(["corpus", "verify", str(corpus)]) == 0
    assert "is in order" in capsys.readouterr().out


def test_options_are_those_of_today(corpus):
    config, spec = CorpusFolder(corpus).fingerprint.config, CorpusFolder(corpus).fingerprint.spec
    assert (config.motion_quantizers, config.keep_ratio, config.predict_keyframes) == (2, None, False)
    assert (spec.fps, config.fps, spec.frames) == (Fraction(12), Fraction(12), 24)


def test_videos_become_tokens(corpus):
    raw = raw_rows().to_pylist()
    facts = CorpusFolder(corpus).facts
    assert set(facts["codebooks"]) == {"visual", "motion", "global_motion"}
    for rows in ordered_videos(corpus):
        tokens = video_tokens(rows, facts)
        wanted = [row for row in raw if row["video_id"] == rows["video_id"][0].as_py()]
        np.testing.assert_array_equal(tokens.global_motion_ids, [row["camera_ids"] for row in wanted])
        np.testing.assert_array_equal(tokens.motion_ids, [row["motion_ids"] for row in wanted])
    samples = {sample.caption: sample for sample in read_samples([corpus])}
    assert set(samples) == {"it pans", ""}
    video = samples["it pans"].video
    assert isinstance(video, VideoTokens)
    assert video.num_clips == 1


def test_exports_and_search(corpus, tmp_path):
    folder = CorpusFolder(corpus)
    (path,) = to_huggingface(folder, tmp_path / "huggingface")
    assert "global_motion_ids" in pq.read_schema(path).names
    assert to_packed_ids(folder, tmp_path / "ids", PackingOptions(row_length=700))
    query = ClipFeatures.from_rows(read_shard(shard_paths(corpus)[0]), folder.facts["codebooks"])[:1]
    hits = CorpusSearch(corpus, folder.facts["codebooks"]).nearest(query, 1)
    assert hits["look"][0]["similarity"] == pytest.approx(1)
    assert hits["motion"][0]["similarity"] == pytest.approx(1)


def test_a_job_does_not_continue_it(corpus, tiny_model, tmp_path):
    videos = make_videos(tmp_path / "videos")
    with pytest.raises(CorpusError, match=r"schema 1, now 2\): it can be read but not continued"):
        job.encode_corpus(str(videos), corpus, model=str(tiny_model))
    assert list(find_faults(CorpusFolder(corpus))) == []
