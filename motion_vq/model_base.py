"""VideotokModel: a diffusers model that loads older configs and weights; and its precision while it decides ids."""

import json
import re
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from motion_vq.diffusers_import import light_diffusers

with light_diffusers("diffusers.models.modeling_utils"):
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.modeling_utils import ModelMixin

__all__ = ["VideotokModel", "register_to_config"]

_INDEX_NAME = "diffusion_pytorch_model.safetensors.index.json"


class VideotokModel(ModelMixin, ConfigMixin):
    """Base of videotok's models: `from_pretrained` and `save_pretrained` as in diffusers (config.json, safetensors).

    A subclass that renames an option or a parameter says so in the two tables below, and one that stores a parameter in
    another shape converts it in `upgrade_weights`, so that folders saved by earlier versions load unchanged. Weight
    files are never rewritten for this: their sha256 identifies the ids in .vtok files.
    """

    renamed_options: ClassVar[dict[str, str | None]] = {}
    """Old name in config.json -> name of the constructor's argument today, or None where there is none any more."""
    renamed_parameters: ClassVar[dict[str, str | None]] = {}
    """Old part of a name in the state dict, one or more words between dots -> part today, or None where the parameter
    is no longer used. `{"codebook.words": "codebook.codes"}` turns `keyframes.codebook.words` into
    `keyframes.codebook.codes`."""

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build a model from a config; see `diffusers.ConfigMixin.from_config`."""
        if isinstance(config, dict) and cls.renamed_options:
            names = {name: cls.renamed_options.get(name, name) for name in config}
            config = {names[name]: value for name, value in config.items() if names[name] is not None}
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Self:
        """Load a model from a folder or a hub id; see `diffusers.ModelMixin.from_pretrained`.

        Raises:
            ValueError: the weights are not those that config.json describes. Diffusers alone would make up those that
                are missing, leave out others, and log it.
        """
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        # diffusers does not convert the names of weights in several files
        if (folder / _INDEX_NAME).is_file():
            weight_map = json.loads((folder / _INDEX_NAME).read_text(encoding="utf-8"))["weight_map"]
            if cls._needs_upgrade(weight_map):
                return cls._from_old_shards(folder, sorted(set(weight_map.values())), kwargs.get("torch_dtype"))
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["output_loading_info"] = True
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        model, info = cast(tuple[Self, dict[str, Any]], loaded)
        for names, fault in ((info["missing_keys"], "lack"), (info["unexpected_keys"], "have")):
            if names:
                raise ValueError(
                    f"its weights {fault} {min(names)} and {len(names) - 1} more, other than its config.json says; get "
                    "both from one place"
                )
        return cast(Self, loaded) if wants_info else model

    @property
    def device(self) -> torch.device:
        """Where the weights are. The property of diffusers imports torch._dynamo, which takes a second."""
        return super().device if self._has_hooks() else next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return super().dtype if self._has_hooks() else next(self.parameters()).dtype

    def _has_hooks(self) -> bool:
        """Whether diffusers offloads or casts layers of this model: then its weights do not say where it runs."""
        if "diffusers.hooks.hooks" not in sys.modules:  # to search some hundred modules takes a millisecond each time
            return False
        return any(hasattr(module, "_diffusers_hook") for module in self.modules())

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Cast or move the weights in place; see `torch.nn.Module.to`. The one of diffusers warns at every cast."""
        nn.Module.to(self, *args, **kwargs)
        return self

    def upgrade_weights(self, state_dict: dict[str, Any]) -> None:
        """Convert in place, after renaming, weights that an earlier version stored in another shape."""

    @classmethod
    def _needs_upgrade(cls, names: Any) -> bool:
        """Whether these names of weights come from an earlier version."""
        return any(cls._renamed(name) != name for name in names)

    @classmethod
    def _from_old_shards(cls, folder: Path, files: list[str], dtype: torch.dtype | None) -> Self:
        from accelerate import init_empty_weights  # slow to import, and hardly ever needed

        with init_empty_weights(include_buffers=False):
            model = cls.from_config(cls.load_config(folder))
        state_dict: OrderedDict[str, Any] = OrderedDict()
        for name in files:
            state_dict.update(load_file(folder / name))
        model._fix_state_dict_keys_on_load(state_dict)
        model.load_state_dict(state_dict, assign=True)
        if dtype is not None:
            model.to(dtype)
        model.eval()
        return model

    @classmethod
    def _renamed(cls, name: str) -> str | None:
        """Return today's name of a parameter; None where it is no longer used."""
        for old, new in cls.renamed_parameters.items():
            found = re.search(rf"(?<![^.]){re.escape(old)}(?![^.])", name)
            if found and new is None:
                return None
            if found:
                name = name[: found.start()] + str(new) + name[found.end() :]
        return name

    def _fix_state_dict_keys_on_load(self, state_dict: "OrderedDict[str, Any]") -> None:
        super()._fix_state_dict_keys_on_load(state_dict)
        for name in list(state_dict):
            renamed = self._renamed(name)
            if renamed != name:
                value = state_dict.pop(name)
                if renamed is not None:
                    state_dict[renamed] = value
        self.upgrade_weights(state_dict)


@contextmanager
def double_precision(*modules: nn.Module) -> Iterator[None]:
    """Inside, modules with float32 weights compute in float64; others are left as they are.

    The weights are replaced by copies meanwhile, on the CPU where their device has no float64 (Apple's GPUs). A cast in
    place and back would loosen DistributedDataParallel's hold on them: from then on it takes them for unused. No other
    thread may use the modules meanwhile.
    """
    weight = next(modules[0].parameters())
    if weight.dtype != torch.float32:
        yield
        return
    device = torch.device("cpu") if weight.device.type == "mps" else weight.device

    def copied(value: Tensor | None) -> Tensor | None:
        if value is None:
            return None
        copy = value.detach().to(device=device, dtype=torch.float64 if value.is_floating_point() else None)
        return nn.Parameter(copy, requires_grad=False) if isinstance(value, nn.Parameter) else copy

    tables = {
        id(table): table
        for module in modules
        for part in module.modules()
        for table in (part._parameters, part._buffers)
    }
    before = [(table, dict(table)) for table in tables.values()]
    try:
        for table, values in before:
            table.update({name: copied(value) for name, value in values.items()})  # type: ignore[misc]
        yield
    finally:
        for table, values in before:
            table.update(values)  # type: ignore[arg-type]


@contextmanager
def no_tf32() -> Iterator[None]:
    """Inside, float32 is multiplied in float32, whatever the caller has set.

    By default NVIDIA's GPUs round to TF32's 10 bits in convolutions; torch can be told to do so, or to take bfloat16,
    in matrix products too, on CPUs as well; and autocast computes in 16 bits.
    """
    with ExitStack() as stack:
        stack.enter_context(_full_precision)
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


class _FullPrecision:
    """Settings of torch under which float32 is multiplied in float32, as a context.

    They hold for all threads: the first thread that comes sets them, and the last one that goes restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._restore: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._restore = _set_full_precision()
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore()


_full_precision = _FullPrecision()


def _set_full_precision() -> Callable[[], None]:
    """Tell torch to multiply float32 in float32; return what restores the settings before."""
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
        convolutions, products = backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
        backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")

        def restore_old() -> None:
            backends.cudnn.allow_tf32 = convolutions
            torch.set_float32_matmul_precision(products)

        return restore_old
    # these and not the older settings, which raise RuntimeError once a caller has used these
    cuda, cudnn, mkldnn = backends.cuda.matmul, backends.cudnn, backends.mkldnn
    parts: list[Any] = [cuda, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv]  # pyright: ignore
    before = [part.fp32_precision for part in parts]
    for part in parts:
        part.fp32_precision = "ieee"

    def restore() -> None:
        for part, value in zip(parts, before, strict=True):
            part.fp32_precision = "none"  # takes the setting above it, which is where most values come from
            if part.fp32_precision != value:
                part.fp32_precision = value

    return restore


def as_double(values: Tensor) -> Tensor:
    """Return values in float64; on the CPU where their device has none (Apple's GPUs)."""
    return (values.cpu() if values.device.type == "mps" else values).double()
