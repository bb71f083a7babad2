"""Figures of README and cards: measured once, kept in docs/figures.json, and the same in every document."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.figure_tables import MEASUREMENTS, VIEWS, Column, TableView

SHIPPED = figures.weights_in_use()
ENTRY = {
    "data": "two clips",
    "date": "2026-01-02",
    "command": "python -m benchmarks.startup NATURAL/x",
    "weights": {"keyframes": SHIPPED["keyframes"]},
    "rows": [{"name": "help", "cpu_seconds": 0.254}, {"name": "decode", "cpu_seconds": 3.06}],
}


def test_documents_show_the_figures_of_the_file(tmp_path):
    """What is in the documents is what `python -m benchmarks.figures --write` writes."""
    entries = json.loads(figures.FIGURES.read_text(encoding="utf-8"))
    names = []
    for path in figures.documents():
        text = path.read_text(encoding="utf-8")
        for name, block in figures.BLOCK.findall(text):
            assert block == figures.render(name, entries, SHIPPED), (
                f"{path.name}: `python -m benchmarks.figures --write`"
            )
            names.append(name)
        assert text.count("<!-- figures:") == len(figures.BLOCK.findall(text)), f"{path.name}: an open table"
    assert {"readme-rates", "quality-rates", "card-keyframes", "readme-weights"} <= set(names)


def test_every_table_has_figures():
    entries = json.loads(figures.FIGURES.read_text(encoding="utf-8"))
    for name, view in VIEWS.items():
        if set(view.measurements) <= set(entries):
            assert "|---|" in figures.render(name, entries, SHIPPED)
        else:
            assert set(view.measurements) <= {*MEASUREMENTS, *entries}, f"{name}: nothing measures it"


def test_shipped_weights_are_counted():
    rows = {row["name"]: row for row in figures.weights_entry()["rows"]}
    assert rows["motion"]["parameters"] == pytest.approx(2.68, abs=0.01)  # as stored, codebooks included
    assert rows["motion"]["megabytes"] == pytest.approx(5.39, abs=0.01)
    assert sum(row["megabytes"] for row in rows.values()) <= 90


def test_a_table_is_written_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures: readme-startup -->\nold\n<!-- /figures -->\nafter\n")
    assert figures.write_documents({"startup": ENTRY}, [page], SHIPPED) == [page]
    assert page.read_text().splitlines() == [
        "before",
        "<!-- figures: readme-startup -->",
        "| start-up included | CPU s |",
        "|---|---|",
        "| `videotok --help` | 0.3 |",
        "| decode it | 3.1 |",
        "",
        "Two clips. Measured 2026-01-02, `python -m benchmarks.startup NATURAL/x`.",
        "<!-- /figures -->",
        "after",
    ]
    assert figures.write_documents({"startup": ENTRY}, [page], SHIPPED) == []
    assert figures.write_documents({}, [page], SHIPPED) == [page]  # nothing was measured yet
    assert page.read_text() == "before\n<!-- figures: readme-startup -->\n<!-- /figures -->\nafter\n"


def test_figures_of_other_weights_say_so():
    other = figures.render("readme-startup", {"startup": ENTRY}, SHIPPED | {"keyframes": "0" * 12})
    assert "**Measured with earlier weights (keyframes).**" in other
    assert "earlier" not in figures.render("readme-startup", {"startup": ENTRY}, SHIPPED)


def test_a_table_of_nothing_is_a_fault():
    with pytest.raises(ValueError, match="no row"):
        TableView(("startup",), (Column("CPU s", "cpu_seconds", 1),), {"heplp": "help"}).render(ENTRY["rows"])


def test_rates_are_means_over_videos():
    result = [
        {"codec": "videotok", "setting": "default", "psnr": 20.0, "lpips": None, "tokens_per_second": 200},
        {"codec": "videotok", "setting": "default", "psnr": 30.0, "lpips": None, "tokens_per_second": 100},
        {"codec": "x264, half", "setting": "crf 51", "psnr": 21.0, "lpips": 0.4},
    ]
    rows = MEASUREMENTS["rates"].rows(result)
    assert rows == [
        {"name": "videotok, default", "tokens_per_second": 150.0, "psnr": 25.0},
        {"name": "x264, half, crf 51", "psnr": 21.0, "lpips": 0.4},
    ]


def test_keyframes_are_means_over_keyframes():
    one = {"selector": "learned", "tokens": 64.0, "keyframes": 3, "psnr": 20.0}
    rows = MEASUREMENTS["keyframes"].rows([one, one | {"keyframes": 1, "psnr": 24.0}, one | {"selector": "random"}])
    assert rows == [{"name": "64", "tokens": 64.0, "psnr": 21.0}]


def test_sharpness_is_a_share_of_the_sources():
    base = {"motion_quantizers": 2, "last": False, "psnr": None}
    result = [
        base | {"method": "source", "sharpness": 10.0},
        base | {"method": "detokenized", "sharpness": 7.5, "psnr": 22.0},
        base | {"method": "detokenized", "sharpness": 1.0, "psnr": 2.0, "last": True},
    ]
    rows = {row["name"]: row for row in MEASUREMENTS["from-tokens"].rows(result)}
    assert rows["detokenized, 2"] == {
        "name": "detokenized, 2",
        "psnr": 22.0,
        "sharpness": 7.5,
        "sharpness_share": 0.75,
    }


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Replace the benchmarks' processes: each writes `rows`, or fails where a name is in `failing`."""
    monkeypatch.chdir(tmp_path)
    ran, failing = [], set()

    def run(command: list[str], check: bool) -> None:
        assert check
        if command[2] in failing:
            raise subprocess.CalledProcessError(1, command)
        ran.append(command[2:])
        rows = [{"command": "help", "cpu_seconds": 0.123456}] if command[2] == "benchmarks.startup" else []
        Path(command[-1]).write_text(json.dumps(rows))

    monkeypatch.setattr(figures.subprocess, "run", run)
    monkeypatch.setattr(figures, "PACKAGES", ("codec",))  # the code: little of it
    return ran, failing


def run_figures(out: Path, *arguments: str) -> int:
    return figures.main(["natural", "--lpips", "l.safetensors", "--out", str(out), *arguments])


def test_what_is_measured_is_kept_and_not_measured_again(benchmark, tmp_path, capsys):
    ran, failing = benchmark
    out = tmp_path / "figures.json"
    failing.add("benchmarks.keyframes")
    assert run_figures(out) == 1
    assert "keyframes: failed with exit code 1" in capsys.readouterr().err
    assert {command[0] for command in ran} == {
        f"benchmarks.{one.benchmark}" for name, one in MEASUREMENTS.items() if name != "keyframes" and not one.slow
    }
    entry = json.loads(out.read_text())["startup"]
    assert entry["rows"] == [{"name": "help", "command": "help", "cpu_seconds": 0.12346}]
    assert entry["command"].startswith("python -m benchmarks.startup NATURAL/")
    assert entry["weights"] == {part: SHIPPED[part] for part in MEASUREMENTS["startup"].weights}
    assert entry["versions"]["torch"]

    ran.clear()
    failing.clear()
    assert run_figures(out) == 0
    assert [command[0] for command in ran] == ["benchmarks.keyframes"]
    ran.clear()
    assert run_figures(out, "--only", "startup") == 0
    assert [command[0] for command in ran] == ["benchmarks.startup"]


def test_figures_of_changed_weights_or_code_are_measured_again(benchmark, tmp_path):
    ran, _ = benchmark
    out = tmp_path / "figures.json"
    assert run_figures(out) == 0
    entries = json.loads(out.read_text())
    entries["startup"]["weights"]["motion"] = "0" * 12
    entries["rates"]["code"] = "0" * 12
    out.write_text(json.dumps(entries))
    ran.clear()
    assert run_figures(out) == 0
    assert sorted(command[0] for command in ran) == ["benchmarks.rate_distortion", "benchmarks.startup"]


def test_a_quick_trial_never_replaces_figures(capsys):
    with pytest.raises(SystemExit):
        figures.main(["natural", "--lpips", "l.safetensors", "--quick"])
    assert "--out" in capsys.readouterr().err
