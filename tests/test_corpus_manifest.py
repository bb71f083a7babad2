"""The videos of a corpus: folders, globs, manifests, URLs."""

import os
from types import SimpleNamespace
from typing import cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codec import ClipSpec, MediaError
from videotok.corpus.manifest import read_inputs
from videotok.corpus.settings import EncodePlan
from videotok.corpus.tokenize import ReadVideos
from videotok.errors import CorpusError
from videotok.inputs import local_input, scan_for_videos


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
        with local_input("memory://bucket/videos/a.mp4") as file:
            assert (file.name, file.path.suffix) == ("a.mp4", ".mp4")
            assert file.path.read_bytes() == b"video a"
        assert not file.path.exists()
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


@pytest.mark.parametrize(
    "name", ["clip [abc123].mp4", "2024-01-01T10:30:00.mp4", "a::b.mp4", "what?*.mp4", "http:.mp4"]
)
def test_a_file_that_exists_is_no_pattern_and_no_url(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"x")
    for place in (name, str(tmp_path / name)):
        assert read_inputs(place)["path"].to_pylist() == [str(tmp_path / name)]
    (tmp_path / "list.txt").write_text(name)
    path = read_inputs("list.txt")["path"][0].as_py()
    assert path == str(tmp_path / name)
    with local_input(path) as file:
        assert file.path.read_bytes() == b"x"


def test_a_folder_with_brackets_is_no_pattern(tmp_path):
    (tmp_path / "[x]").mkdir()
    (tmp_path / "[x]" / "a.mp4").write_bytes(b"x")
    (tmp_path / "[x]" / "list.csv").write_text("path\na.mp4\n")
    assert ids(read_inputs(str(tmp_path / "[x]"))) == ["a.mp4"]
    assert read_inputs(str(tmp_path / "[x]" / "list.csv"))["path"].to_pylist() == [str(tmp_path / "[x]" / "a.mp4")]


def test_what_a_folder_leaves_out_is_counted(folder):
    (folder / "c.MPEGX").write_bytes(b"x")
    (folder / "film.ogv").write_bytes(b"x")
    notes: list[str] = []
    assert "film.ogv" in ids(read_inputs(str(folder), notes.append))
    assert notes == ["3 files left out that are no videos by their names: 1 .mpegx, 1 .txt, 1 .csv"]
    scan = scan_for_videos([folder])
    assert [path.name for path in scan.videos] == ["a.MKV", "b.mp4", "c.264", "film.ogv"]
    assert str(scan) == "3 files left out that are no videos by their names: 1 .mpegx, 1 .txt, 1 .csv"


def test_a_name_that_is_not_utf8_is_left_out_and_counted(folder):
    (folder / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    notes: list[str] = []
    assert ids(read_inputs(str(folder), notes.append)) == ["a.MKV", "b.mp4", "deep/c.264"]
    assert "1 with a name that is not UTF-8" in notes[0]


@pytest.mark.parametrize(("name", "text"), [("list.txt", "{}\n"), ("list.csv", "path\n{}\n")])
@pytest.mark.parametrize(
    "path", ["b.mp4", "a\x85b.mp4", "a\u2028b.mp4", "a\x0cb.mp4", "007", "spaces inside .mp4", "été.mp4"]
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_text_of_a_manifest_stays_as_it_stands(tmp_path, name, text, path, mark):
    (tmp_path / name).write_bytes((mark + text.format(path)).encode())
    assert read_inputs(str(tmp_path / name))["path"].to_pylist() == [str(tmp_path / path)]


def test_lines_may_end_as_on_windows(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.mp4\r\nb.mp4\r\n")
    assert ids(read_inputs(str(tmp_path / "list.txt"))) == ["a.mp4", "b.mp4"]


def test_ids_and_labels_keep_their_zeros(tmp_path):
    (tmp_path / "list.csv").write_text("path,id,label,number,caption\na.mp4,007,01,1,1e3\nb.mp4,8,2,,NA\n")
    table = read_inputs(str(tmp_path / "list.csv"))
    assert ids(table) == ["007", "8"]
    assert table["label"].to_pylist() == ["01", "2"]
    assert table["number"].to_pylist() == [1, None]
    assert table["caption"].to_pylist() == ["1e3", "NA"]


def test_times_that_are_no_numbers_are_missing(tmp_path):
    """Programs write a missing number as not a number."""
    rows = {"path": ["a.mp4", "b.mp4"], "start": [float("nan"), 2.0], "duration": [1.0, float("nan")]}
    pq.write_table(pa.table(rows), tmp_path / "list.parquet")
    assert ids(read_inputs(str(tmp_path / "list.parquet"))) == ["a.mp4#t=0,1", "b.mp4#t=2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"path\n\xe9.mp4\n", "utf-8"),
        ("path\na.mp4\n".encode("utf-16"), "utf-8"),
        (b"path,start\na.mp4,-1\n", r"`start` \(=-1.0\) of row 1 must be 0 or more"),
        (b"path,start\na.mp4,inf\n", "`start`"),
        (b"path,duration\na.mp4,1\nb.mp4,-inf\n", "row 2 must be above 0"),
        (b"path,duration\na.mp4,0\n", "above 0"),
        (b"path,label\n,1\n", "row 1 has no path"),
        (b"path,path\na,b\n", "several columns"),
    ],
)
def test_manifests_that_are_refused(tmp_path, text, message):
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(CorpusError, match=message) as error:
        read_inputs(str(tmp_path / "list.csv"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TypeError("ours"), "a fault of videotok and not of the file: TypeError: ours; please report it"),
        (MediaError("cannot read {path}: it is cut short"), "cannot read b.mp4: it is cut short"),
    ],
)
def test_a_job_tells_faults_of_ours_from_those_of_a_file(folder, monkeypatch, error, message):
    path = str(folder / "b.mp4")
    reader = ReadVideos(cast(EncodePlan, SimpleNamespace(spec=ClipSpec(), image_size=8)))

    def fail(*arguments: object) -> None:
        raise type(error)(str(error).format(path=path))

    monkeypatch.setattr(reader, "_clips", fail)
    (row,) = reader.read_video(0, path, 0.0, None)
    assert row["message"].tolist() == [message]
