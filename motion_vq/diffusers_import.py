"""Import classes of diffusers without its other models, its loaders of LoRA and single files, and transformers."""

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

HIDDEN = ("torch._dynamo", "transformers.utils.quantization_config")
"""Modules that diffusers asks for and does without where they are missing: a decorator for torch.compile, and a base
class for type checks of quantized pipelines. Together they take longer to import than all else that encoding needs."""
EMPTY_PACKAGES = ("diffusers.hooks", "diffusers.models.transformers", "diffusers.models.unets")
"""Packages whose `__init__` imports every model or hook there is."""
DEFERRED: Mapping[str, Mapping[str, Any]] = {
    "diffusers.hooks.group_offloading": {},
    "diffusers.loaders.lora_base": {},
    "diffusers.loaders.lora_pipeline": {
        "LORA_WEIGHT_NAME": "pytorch_lora_weights.bin",
        "LORA_WEIGHT_NAME_SAFE": "pytorch_lora_weights.safetensors",
        "TEXT_ENCODER_NAME": "text_encoder",
        "UNET_NAME": "unet",
    },
    "diffusers.loaders.single_file_utils": {},
}
"""Modules of which base classes of models need functions only when a LoRA or a single file is loaded, and the constants
that they need at once. These modules import transformers."""


@contextmanager
def light_diffusers(*modules: str) -> Iterator[None]:
    """Inside, `from diffusers… import` of these modules takes a second instead of five.

    What is left out has stand-ins meanwhile: empty packages, and modules whose functions import the real ones when they
    are called. Afterwards the stand-ins are gone, so that who asks for these modules gets the real ones. Classes are
    the same either way, and what is imported already stays as it is. Where another version of diffusers needs more,
    the imports inside are plain ones.

    Args:
        modules: the modules of diffusers that are imported inside.
    """
    stand_ins = _stand_ins()
    inserted = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(inserted)  # type: ignore[arg-type]  # None: the import system's own mark for a missing module
    deferred = _DeferredDistributions(importlib.metadata.packages_distributions)
    importlib.metadata.packages_distributions = lambda: deferred
    try:
        try:
            for name in modules:
                importlib.import_module(name)
        except (ImportError, RuntimeError):  # diffusers makes the one of the other
            _remove(inserted)
        yield
    finally:
        importlib.metadata.packages_distributions = deferred.read
        _remove(inserted)


def _stand_ins() -> dict[str, ModuleType | None]:
    stand_ins: dict[str, ModuleType | None] = dict.fromkeys(HIDDEN)
    for name in EMPTY_PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(_folder("diffusers").joinpath(*name.split(".")[1:]))]
        stand_ins[name] = package
    return stand_ins | {name: _DeferredModule(name, constants) for name, constants in DEFERRED.items()}


def _remove(inserted: Mapping[str, ModuleType | None]) -> None:
    for name, module in inserted.items():
        if name in sys.modules and sys.modules[name] is module:
            del sys.modules[name]


class _DeferredDistributions(UserDict[str, list[str]]):
    """`importlib.metadata.packages_distributions()` when it is first looked at.

    It reads the list of files of every package installed, and diffusers hardly ever needs it.
    """

    def __init__(self, read: Callable[[], Mapping[str, list[str]]]) -> None:
        self.read = read

    @functools.cached_property
    def data(self) -> dict[str, list[str]]:  # type: ignore[override]
        return dict(self.read())


class _DeferredModule(ModuleType):
    """Stands in for a module: its functions import the real one when they are called."""

    def __init__(self, name: str, constants: Mapping[str, Any]) -> None:
        super().__init__(name)
        vars(self).update(constants)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return functools.partial(_call, self.__name__, name)


def _call(module: str, function: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(importlib.import_module(module), function)(*args, **kwargs)


def _folder(package: str) -> Path:
    """Return the folder of a package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed", name=package)
    return Path(spec.origin).parent
