"""Check what is in the wheel and in the source distribution: `python .ci/check_wheel.py WHEEL SDIST`."""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("codec", "motion_vq", "unet3d", "videotok")
DATA = (".safetensors", ".json", ".md", ".html", ".css", ".js", ".svg", ".typed")
MAX_WHEEL_BYTES = 90e6


def expected() -> set[str]:
    """Return the files of the packages that the wheel must have: all sources, weights, cards and templates."""
    files = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    return {path.relative_to(ROOT).as_posix() for path in files if path.suffix == ".py" or path.name.endswith(DATA)}


def main() -> None:
    wheel, source = sys.argv[1:3]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packed = {name for name in names if not re.match(r"videotok-[^/]+\.dist-info/", name)}
    missing, more = sorted(expected() - packed), sorted(packed - expected())
    assert not missing, f"not in the wheel: {missing}"
    assert not more, f"in the wheel and not in the packages: {more}"
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed
    size = Path(wheel).stat().st_size
    assert size <= MAX_WHEEL_BYTES, f"the wheel has {size / 1e6:.0f} MB"
    with tarfile.open(source) as archive:
        in_source = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert packed <= in_source, f"not in the source distribution: {sorted(packed - in_source)}"
    print(f"wheel: {len(packed)} files, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
