"""The figures of README and cards: which benchmarks give them, and what documents show (benchmarks/figures.py)."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]
"""One line of a table: its "name", and values by key."""

NATURAL, LPIPS = "NATURAL", "LPIPS"
"""Stand for the folder of test videos and for the LPIPS network in commands."""


@dataclass(frozen=True)
class Measurement:
    """A benchmark whose figures documents show."""

    benchmark: str
    """Module in `benchmarks`; it writes its result to `--json FILE`."""
    videos: tuple[str, ...]
    """Files of NATURAL; empty for the whole folder."""
    options: tuple[str, ...]
    """Other arguments."""
    quick: tuple[str, ...]
    """Arguments added in a quick trial, which besides has one video only."""
    weights: tuple[str, ...]
    """Models that the figures depend on; none: nor do they depend on the packages."""
    data: str
    """What was measured; stands under its tables."""
    rows: Callable[[Any], list[Row]]
    """Makes rows of what the benchmark wrote."""
    slow: bool = False
    """Measured with `--only` or `--slow` alone."""


def _means(groups: Mapping[str, Iterable[Row]], keys: Sequence[str], weight: str | None = None) -> list[Row]:
    """Return a row for each group: means of `keys`, of the rows that have them, weighted by the value of `weight`."""
    found = []
    for name, group in groups.items():
        row: Row = {"name": name}
        for key in keys:
            having = [one for one in group if one.get(key) is not None]
            if having:
                weights = [one[weight] for one in having] if weight else None
                row[key] = float(np.average([one[key] for one in having], weights=weights))
        found.append(row)
    return found


def _grouped(rows: Iterable[Row], name: Callable[[Row], str]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[name(row)].append(row)
    return groups


QUALITY = ("psnr", "ssim", "ms_ssim", "lpips", "sharpness", "flicker")
RATE = ("tokens_per_second", "kbit_per_second", "coded_kbit_per_second")


def _rate_rows(result: list[Row]) -> list[Row]:
    return _means(_grouped(result, lambda row: f"{row['codec']}, {row['setting']}"), (*RATE, *QUALITY))


def _keyframe_rows(result: list[Row]) -> list[Row]:
    rows = [row for row in result if row["selector"] in ("learned", "default")]
    groups = _grouped(rows, lambda r: "default" if r["selector"] == "default" else f"{r['tokens']:.0f}")
    return _means(groups, ("tokens", *QUALITY[:4]), "keyframes")


def _reconstruction_rows(result: list[Row]) -> list[Row]:
    """Rows of clips that have a next one, named by method and number of quantizers; sharpness also by the source's."""
    rows = [row for row in result if not row["last"]]
    found = _means(_grouped(rows, lambda row: f"{row['method']}, {row['motion_quantizers']}"), QUALITY)
    sources = {row["name"].removeprefix("source, "): row for row in found if row["name"].startswith("source, ")}
    for row in found:
        source = sources.get(row["name"].split(", ")[-1])
        if source and row.get("sharpness"):
            row["sharpness_share"] = row["sharpness"] / source["sharpness"]
    return found


def _layout_rows(result: list[Row]) -> list[Row]:
    keys = (RATE[0], "psnr", "ssim", "lpips", "moving_psnr", "encode_cpu_seconds")
    return _means(_grouped(result, lambda row: row["layout"]), keys)


def _startup_rows(result: list[Row]) -> list[Row]:
    return [{"name": row["command"], **row} for row in result]


ALL_WEIGHTS = ("keyframes", "motion", "detokenizer")
RATE_VIDEOS = (
    "DAMO-NLP-SG__Video-LLaMA__boat.mp4",
    "OlafenwaMoses__ImageAI__traffic-mini.mp4",
    "facebookresearch__sam2__01_dog.mp4",
    "jy0205__LaVIT__video7013.mp4",
    "showlab__Tune-A-Video__car-turn.mp4",
    "showlab__Tune-A-Video__man-skiing.mp4",
    "udacity__CarND-LaneLines-P1__solidWhiteRight.mp4",
    "v-iashin__video_features__v_GGSY1Qvo990.mp4",
)

MEASUREMENTS = {
    "rates": Measurement(
        "rate_distortion",
        RATE_VIDEOS,
        ("--max-clips", "2", "--lpips", LPIPS, "--codecs"),
        ("--max-clips", "1"),
        ALL_WEIGHTS,
        "8 real videos that nothing was trained on, first two clips of each, 256 x 144 at 12 fps, means over videos",
        _rate_rows,
    ),
    "codecs": Measurement(
        "rate_distortion",
        RATE_VIDEOS,
        ("--max-clips", "2", "--lpips", LPIPS, "--rates"),
        ("--max-clips", "1"),
        (),
        "codecs on the same frames",
        _rate_rows,
    ),
    "keyframes": Measurement(
        "keyframes",
        (),
        ("--selectors", "learned", "--tokens", "64", "128", "256", "--lpips", LPIPS),
        ("--keyframes", "1"),
        ("keyframes",),
        "up to 4 keyframes of each of the 20 videos of `natural`, squashed to 256 x 256, means over keyframes",
        _keyframe_rows,
    ),
    "from-tokens": Measurement(
        "reconstruction",
        (),
        ("--max-clips", "2", "--motion-quantizers", "2", "--keyframes", "tokens", "--lpips", LPIPS),
        ("--max-clips", "2"),
        ALL_WEIGHTS,
        "first clip of each of the videos of `natural` that have a second one, from tokens at default options, "
        "256 x 144 at 12 fps, frames 1 to 22",
        _reconstruction_rows,
    ),
    "exact-keyframes": Measurement(
        "reconstruction",
        (),
        ("--max-clips", "3", "--motion-quantizers", "1", "2", "4", "--keyframes", "exact"),
        ("--max-clips", "2"),
        ("motion", "detokenizer"),
        "clips with a next one among the first three of each of the 20 videos of `natural`, motion from tokens, exact "
        "keyframes, 256 x 144 at 12 fps, frames 1 to 22",
        _reconstruction_rows,
        slow=True,
    ),
    "rate-control": Measurement(
        "rate_allocation",
        (),
        ("--rates", "200", "--max-clips", "2", "--lpips", LPIPS),
        ("--max-clips", "1"),
        ALL_WEIGHTS,
        "first two clips of each of the 20 videos of `natural`, 256 x 144 at 12 fps, means over clips, every third "
        "frame; moving: regions that move by themselves; time of encoding in CPU seconds a clip",
        _layout_rows,
    ),
    "startup": Measurement(
        "startup",
        ("udacity__CarND-LaneLines-P1__solidWhiteRight.mp4",),
        (),
        ("--runs", "1"),
        ALL_WEIGHTS,
        "CPU seconds of commands on one second of 960 x 540 video, one thread, least of three runs",
        _startup_rows,
    ),
}
"""Name -> what is measured by `python -m benchmarks.figures`. Other entries of docs/figures.json stay as they are."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    key: str
    digits: int | None = None
    """After the point; None for text."""

    def cell(self, row: Row) -> str:
        """Return the cell of a row; empty where it has no such value."""
        value = row.get(self.key)
        return "" if value is None else str(value) if self.digits is None else f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class TableView:
    """A table as a document shows it."""

    measurements: tuple[str, ...]
    """Whose rows it has, one after another."""
    columns: tuple[Column, ...]
    labels: Mapping[str, str] | None = None
    """Name of a row -> its first cell, in the order of the table; rows that were not measured are left out. None: all
    rows by their names."""
    title: str = ""
    """Of the first column."""

    def render(self, rows: list[Row]) -> str:
        """Return the table in Markdown.

        Raises:
            ValueError: none of its rows was measured.
        """
        named = {row["name"]: row for row in rows}
        labels = self.labels if self.labels is not None else {name: name for name in named}
        labels = {name: label for name, label in labels.items() if name in named}
        if not labels:
            raise ValueError(
                f"`labels` of a table of {', '.join(self.measurements)} name no row that was measured: {list(named)}"
            )
        lines = [f"| {' | '.join((self.title, *(column.title for column in self.columns)))} |"]
        lines.append("|---" * (1 + len(self.columns)) + "|")
        for name, label in labels.items():
            lines.append(f"| {' | '.join((label, *(column.cell(named[name]) for column in self.columns)))} |")
        return "\n".join(lines) + "\n"


RATE_COLUMNS = (Column("tokens/s", RATE[0], 0), Column("kbit/s", RATE[1], 2), Column("coded kbit/s", RATE[2], 2))
PSNR, SSIM, MS_SSIM = Column("PSNR dB", "psnr", 2), Column("SSIM", "ssim", 3), Column("MS-SSIM", "ms_ssim", 3)
LPIPS_COLUMN = Column("LPIPS", "lpips", 3)
SHARPNESS, FLICKER = Column("sharpness", "sharpness", 1), Column("flicker", "flicker", 1)
FRAME_COLUMNS = (
    PSNR,
    SSIM,
    LPIPS_COLUMN,
    Column("sharpness of the source's", "sharpness_share", 2),
    Column("flicker", "flicker", 2),
)
KEYFRAME_LABELS = {"64": "64", "128": "128", "256": "256", "default": "default"}
EXACT_METHODS = {"bidirectional": "bidirectional warp", "detokenized": "detokenized"}

VIEWS = {
    "readme-rates": TableView(
        ("rates", "codecs"),
        (RATE_COLUMNS[0], RATE_COLUMNS[2], PSNR, SSIM, LPIPS_COLUMN),
        {
            "videotok, 32 tokens, global motion": "32 tokens a keyframe, global motion only",
            "videotok, 64 tokens, 1 quantizer": "64 tokens, 1 quantizer",
            "videotok, 120 tokens/s, rate control": "`--tokens-per-second 120`",
            "videotok, default": "**default**",
            "videotok, 200 tokens/s, rate control": "`--tokens-per-second 200`",
            "videotok, 256 tokens, 4 quantizers": "256 tokens, 4 quantizers",
            "x265, half, crf 45": "x265, half size and rate, crf 45",
            "libaom, half, crf 63": "AV1 (libaom), half size and rate, crf 63",
            "x265, crf 51": "x265, crf 51",
        },
        "from tokens alone, 256 x 144, 12 fps",
    ),
    "quality-rates": TableView(
        ("rates", "codecs"), (*RATE_COLUMNS, PSNR, SSIM, MS_SSIM, LPIPS_COLUMN, SHARPNESS, FLICKER), None, "setting"
    ),
    "card-keyframes": TableView(
        ("keyframes",),
        (Column("tokens kept", "tokens", 0), PSNR, SSIM, MS_SSIM, LPIPS_COLUMN),
        KEYFRAME_LABELS,
        "tokens",
    ),
    "card-keyframes-before": TableView(
        ("keyframes-before",),
        (Column("tokens kept", "tokens", 0), PSNR, SSIM, MS_SSIM, LPIPS_COLUMN),
        KEYFRAME_LABELS,
        "tokens",
    ),
    "card-detokenizer-tokens": TableView(
        ("from-tokens",),
        FRAME_COLUMNS,
        {"warp, 2": "warp", "bidirectional, 2": "bidirectional warp", "detokenized, 2": "detokenized"},
        "method",
    ),
    "card-detokenizer-before": TableView(("from-tokens-before",), FRAME_COLUMNS, None, "keyframes, detokenizer"),
    "card-detokenizer-exact": TableView(
        ("exact-keyframes",),
        (PSNR, SSIM, SHARPNESS),
        {f"{key}, {n}": f"{label}, {n} quantizers" for n in (1, 2, 4) for key, label in EXACT_METHODS.items()},
        "method",
    ),
    "card-motion": TableView(
        ("motion-codes",),
        (Column("ids a clip", "ids", 0), Column("warp", "warp", 2), Column("bidirectional warp", "bidirectional", 2)),
        None,
        "motion",
    ),
    "card-motion-fields": TableView(
        ("motion-fields",),
        (
            Column("end-point error per step", "step", 2),
            Column("of the displacement to the keyframe", "displacement", 2),
            Column("still cells %", "still_percent", 0),
            Column("codes of the quantizer in use %", "codes_percent", 0),
        ),
        None,
        "quantizers",
    ),
    "quality-rate-control": TableView(
        ("rate-control",),
        (
            RATE_COLUMNS[0],
            PSNR,
            SSIM,
            LPIPS_COLUMN,
            Column("PSNR dB, moving", "moving_psnr", 2),
            Column("encoding, s", "encode_cpu_seconds", 2),
        ),
        {"fixed": "fixed layout (default)", "200/s": "`--tokens-per-second 200`"},
        "tokens chosen by",
    ),
    "card-lm-questions": TableView(
        ("lm-questions",),
        (
            Column("asked", "questions", 0),
            Column("as in this table", "as trained", 1),
            Column("other trained wordings", "others", 1),
            Column("never trained on", "held out", 1),
            Column("further from those", "further", 1),
        ),
        None,
        "question",
    ),
    "card-lm-real": TableView(
        ("lm-real",),
        (
            Column("asked", "questions", 0),
            Column("videos", "videos", 0),
            Column("right %", "right", 1),
            Column("from", "low", 0),
            Column("to", "high", 0),
        ),
        None,
        "what the camera does",
    ),
    "card-lm-direction": TableView(
        ("lm-direction",),
        (
            Column("videos", "videos", 0),
            Column("direction right %", "right", 1),
            Column("pixels a step", "pixels a step", 2),
        ),
        None,
        "the camera moves",
    ),
    "card-lm-prediction": TableView(
        ("lm-prediction",),
        (
            Column("ids", "tokens", 0),
            Column("this model", "language model", 2),
            *(Column(name, name, 2) for name in ("order 0", "order 2", "order 0, place", "order 2, place")),
        ),
        None,
        "stream",
    ),
    "card-lm-continuation": TableView(
        ("lm-continuation",), (Column("PSNR dB", "psnr", 2), Column("LPIPS", "lpips", 3)), None, "second clip"
    ),
    "readme-weights": TableView(
        ("weights",),
        (Column("parameters, M", "parameters", 1), Column("file, MB", "megabytes", 1)),
        {
            "keyframes": "[keyframes](videotok/weights/keyframes/README.md)",
            "motion": "[motion](videotok/weights/motion/README.md)",
            "detokenizer": "[detokenizer](videotok/weights/detokenizer/README.md)",
            "lm": "[language model](videotok/weights/lm/README.md)",
        },
        "model",
    ),
    "readme-startup": TableView(
        ("startup",),
        (Column("CPU s", "cpu_seconds", 1),),
        {"help": "`videotok --help`", "encode": "encode one second of video", "decode": "decode it"},
        "start-up included",
    ),
}
"""Name in `<!-- figures: NAME -->` of a document -> the table that stands there."""
