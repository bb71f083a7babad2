"""A finished run -> half-precision weights that can ship."""

import json
from pathlib import Path

from diffusers import ModelMixin

from codec import replacing


def export(model_class: type[ModelMixin], run: Path, folder: Path) -> int:
    """Writes the best weights of `run` to `folder` in float16, with the run's record beside them; returns their bytes.

    Raises:
        FileNotFoundError: `run` has validated nothing yet.
    """
    if not (run / "best" / "config.json").is_file():
        raise FileNotFoundError(f"{run} has no weights yet; they appear at the first validation of a training run")
    model = model_class.from_pretrained(run / "best").half()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _forget_origin(folder / "config.json")
    record = json.loads((run / "run.json").read_text())
    with replacing(folder / "run.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _forget_origin(config: Path) -> None:
    """Takes out the folder that diffusers says weights were loaded from: it means nothing to whoever gets them."""
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    with replacing(config) as temporary:
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
