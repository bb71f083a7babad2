"""The videos of a corpus: folders, globs, manifests, URLs."""

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videotok.corpus.manifest import read_inputs
from videotok.corpus.tokenize import local_copy
from videotok.errors import CorpusError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.MKV", "deep/c.264", "notes.txt", "table.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def ids(table: pa.Table) -> list[str]:
    return table["video_id"].to_pylist()


def test_folder(folder):
    table = read_inputs(str(folder))
    assert ids(table) == ["a.MKV", "b.mp4", "deep/c.264"]
    assert table["path"].to_pylist()[2] == str(folder / "deep" / "c.264")
    assert table["start"].null_count == table["caption"].null_count == 3


@pytest.mark.parametrize("place", ["{}", "file://{}"])
def test_glob(folder, place):
    assert ids(read_inputs(place.format(folder) + "/*.mp4")) == ["b.mp4"]
    assert ids(read_inputs(place.format(folder) + "/**/*.264")) == ["deep/c.264"]


def test_one_file(folder):
    assert ids(read_inputs(str(folder / "b.mp4"))) == ["b.mp4"]


def test_text_manifest(folder):
    (folder / "list.txt").write_text("# mine\nb.mp4\n\ndeep/c.264\ns3://bucket/z.mp4\n/elsewhere/y.mp4\n")
    table = read_inputs(str(folder / "list.txt"))
    assert ids(table) == ["/elsewhere/y.mp4", "b.mp4", "deep/c.264", "s3://bucket/z.mp4"]
    assert table["path"].to_pylist() == [
        "/elsewhere/y.mp4",
        str(folder / "b.mp4"),
        str(folder / "deep/c.264"),
        "s3://bucket/z.mp4",
    ]


def test_csv_manifest_keeps_further_columns(folder):
    (folder / "list.csv").write_text(
        "path,start,duration,caption,label,weight\nb.mp4,2,3.5,a dog,7,0.5\nb.mp4,,,,8,1\na.MKV,4,,,9,2\n"
    )
    table = read_inputs(str(folder / "list.csv"))
    assert ids(table) == ["a.MKV#t=4", "b.mp4", "b.mp4#t=2,5.5"]
    assert table["start"].to_pylist() == [4.0, None, 2.0]
    assert table["duration"].to_pylist() == [None, None, 3.5]
    assert table["label"].to_pylist() == [9, 8, 7]
    assert table.schema.field("weight").type == pa.float64()


def test_parquet_manifest_with_ids(folder):
    rows = {"path": ["b.mp4", "b.mp4"], "id": [1, 2], "caption": ["one", "two"], "tags": [["x"], ["y", "z"]]}
    pq.write_table(pa.table(rows), folder / "list.parquet")
    table = read_inputs(str(folder / "list.parquet"))
    assert ids(table) == ["1", "2"]
    assert table["tags"].to_pylist() == [["x"], ["y", "z"]]


def test_remote_folder_and_manifest():
    memory = fsspec.filesystem("memory")
    memory.pipe(
        {"/bucket/videos/a.mp4": b"video a", "/bucket/videos/b.txt": b"text", "/bucket/list.txt": b"videos/a.mp4\n"}
    )
    try:
        assert ids(read_inputs("memory://bucket/videos")) == ["a.mp4"]
        table = read_inputs("memory://bucket/list.txt")
        assert table["path"].to_pylist() == ["memory:///bucket/videos/a.mp4"]
        with local_copy("memory://bucket/videos/a.mp4") as copy:
            assert copy.suffix == ".mp4"
            assert copy.read_bytes() == b"video a"
        assert not copy.exists()
    finally:
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.csv", None, "does not exist"),
        ("a.csv", "file,start\nb.mp4,1\n", "columns file, start"),
        ("a.csv", "path\n", "0 rows"),
        ("a.csv", "path,start\nb.mp4,soon\n", "`start` must be double"),
        ("a.csv", "path,visual_ids\nb.mp4,1\n", "`visual_ids`"),
        ("a.csv", "path\nb.mp4\nb.mp4\n", "names b.mp4 2 times"),
        ("a.parquet", "no parquet", "cannot read"),
        ("nothing://x", None, "nothing"),
    ],
)
def test_refused(tmp_path, name, text, message):
    place = name if "://" in name else tmp_path / name
    if text is not None:
        place.write_text(text)
    with pytest.raises(CorpusError, match=message) as error:
        read_inputs(str(place))
    assert "\n" not in str(error.value)


def test_folder_without_videos_is_refused(tmp_path):
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(CorpusError, match=r"no video .* 1 files"):
        read_inputs(str(tmp_path))
