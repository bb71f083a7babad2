"""A device that is not there: computes on the CPU, reports that it is a GPU, and refuses and counts what a GPU would.

    tokenizer = VideoTokenizer.from_pretrained(model)
    tokenizer.keyframes, tokenizer.motion, tokenizer.detokenizer     # loaded on the CPU
    with fake_device("cuda") as device:
        tokenizer.to("cuda").encode(video)
    device.launches, device.waits

Operations that mix tensors of the GPU and of the CPU raise RuntimeError, and on Apple's GPUs ("mps") those in float64
raise TypeError, as they would there. Results are those of other operations than on a CPU (attention goes through plain
products, for example), so that they are rounded otherwise.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
    aten.equal.default,
    aten._linalg_check_errors.default,
}
"""Operations whose result the CPU has to know before it goes on."""
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
FREE = {aten.empty.memory_format, aten.empty_strided.default, aten.detach.default, aten._unsafe_view.default}
"""Operations that start nothing on a GPU, besides views."""


class _Tensor(torch.Tensor):
    """A tensor of the device; its numbers are in `inner`, on the CPU. C++ sees it on `meta`, as no GPU is there."""

    inner: torch.Tensor
    owner: "FakeDevice"

    @staticmethod
    def __new__(cls, inner: torch.Tensor, owner: "FakeDevice") -> "_Tensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device("meta"),
        )
        made.inner, made.owner = inner, owner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.owner.place

    # of this class alone: a method of torch.Tensor that is replaced and put back makes Python take all tensors for
    # sequences from then on, and `torch.Tensor([number, …])` fail
    def __getitem__(self, index: Any) -> torch.Tensor:
        return torch._C.TensorBase.__getitem__(self, _without_lists(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        torch._C.TensorBase.__setitem__(self, _without_lists(index), value)

    # what an operation returns is of this class already, or belongs on the CPU
    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation of another thread than that of `fake_device`, whose mode other threads do not see."""
        first = next(value for value in tree_iter((args, kwargs or {})) if isinstance(value, _Tensor))
        return first.owner.run(func, args, kwargs or {})


@dataclass
class FakeDevice:
    """What ran on the device so far."""

    place: torch.device
    launches: Counter[str] = field(default_factory=Counter)
    """Operations by name: each is one kernel or more."""
    waits: Counter[str] = field(default_factory=Counter)
    """Operations for which the CPU waits until the device has done everything before."""
    uploads: int = 0
    """Tensors that the CPU sent to the device."""
    on_cpu: int = 0
    """Operations of the CPU meanwhile."""

    def clear(self) -> None:
        """Count from 0."""
        self.launches.clear()
        self.waits.clear()
        self.uploads = self.on_cpu = 0

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Do one operation."""
        tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
        mine = [value for value in tensors if isinstance(value, _Tensor)]
        asked = kwargs.get("device")
        is_mine = bool(mine) if asked is None else self._is_here(asked)
        name = str(func).removeprefix("aten.")
        copies = func in (aten._to_copy.default, aten.copy_.default)
        if not mine and not is_mine:
            self.on_cpu += 1
            return func(*args, **kwargs)
        if not copies and len(mine) not in (0, len(tensors)):
            self._check_mixture(func, args, tensors)
        if (copies and not is_mine) or self._waits(func, args):
            self.waits[name] += 1
        elif not func.is_view and func not in FREE:
            self.launches[name] += 1
        originals = {id(value.inner): value for value in mine}
        if asked is not None:
            kwargs = kwargs | {"device": torch.device("cpu")}
        found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        return tree_map(
            lambda value: originals[id(value)] if id(value) in originals else self._wrap(value, is_mine), found
        )

    def _wrap(self, value: Any, is_mine: bool) -> Any:
        if not isinstance(value, torch.Tensor) or not is_mine:
            return value
        if value.dtype == torch.float64 and self.place.type == "mps":
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return _Tensor(value, self)

    def to(self, tensor: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
        """Do what `Tensor.to` does, where a device of its arguments is this one."""
        on_cpu = tree_map(lambda value: torch.device("cpu") if self._is_here(value) else value, (args, kwargs))
        found = tensor.to(*on_cpu[0], **on_cpu[1]) if not isinstance(tensor, _Tensor) else tensor
        if isinstance(tensor, _Tensor):
            dtype = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.dtype)), tensor.dtype)
            return tensor if dtype == tensor.dtype else tensor.to(dtype)
        self.uploads += 1
        return self._wrap(found.detach().clone() if found is tensor else found.detach(), True)

    def names_it(self, args: Any, kwargs: dict[str, Any]) -> bool:
        """Whether a device or tensor among the arguments is of this device."""
        return any(self._is_here(value) or isinstance(value, _Tensor) for value in (*args, *kwargs.values()))

    def _is_here(self, value: Any) -> bool:
        if not isinstance(value, torch.device) and not (isinstance(value, str) and value[:4] in ("cuda", "mps")):
            return False
        # C++ asks for a tensor beside one of the device where a number is to become one
        return torch.device(value).type in (self.place.type, "meta")

    @staticmethod
    def _waits(func: Any, args: Any) -> bool:
        if func in INDEXING:
            return any(isinstance(one, torch.Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1])
        return func in WAITING

    @staticmethod
    def _check_mixture(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
        strangers = [value for value in tensors if not isinstance(value, _Tensor) and value.ndim > 0]
        if func in INDEXING:  # indices may be on the CPU; each costs a copy
            strangers = [value for value in strangers if not any(value is one for one in args[1])]
        if strangers:
            raise RuntimeError(
                f"{func}: expected all tensors on the same device, found one of {strangers[0].shape} on cpu"
            )


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, _Tensor) else value


class _Dispatch(TorchDispatchMode):
    def __init__(self, device: FakeDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._device.run(func, args, kwargs or {})


def _methods(device: FakeDevice) -> dict[str, Any]:
    """Return methods of tensors that do in C++, before they dispatch, what needs the device."""
    base = torch._C.TensorBase

    def to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not device.names_it(args, kwargs):
            return base.to(tensor, *args, **kwargs)
        other = next((value for value in args if isinstance(value, _Tensor)), None)
        return device.to(tensor, args if other is None else (other.device, other.dtype), kwargs)

    def tolist(tensor: torch.Tensor) -> Any:
        if not isinstance(tensor, _Tensor):
            return base.tolist(tensor)
        device.waits["tolist"] += 1
        return tensor.inner.tolist()

    def new_tensor(tensor: torch.Tensor, data: Any, **kwargs: Any) -> torch.Tensor:
        if not isinstance(tensor, _Tensor):
            return base.new_tensor(tensor, data, **kwargs)
        return device.to(torch.tensor(data, dtype=kwargs.get("dtype", tensor.dtype)), (tensor.device,), {})

    return {"to": to, "tolist": tolist, "new_tensor": new_tensor}


def _without_lists(index: Any) -> Any:
    """Replace lists of numbers in an index by tensors of the CPU. C++ would make empty ones, on its `meta` device."""
    if isinstance(index, tuple):
        return tuple(_without_lists(one) for one in index)
    return torch.tensor(index) if isinstance(index, list) else index


def _functions(device: FakeDevice) -> dict[str, Any]:
    """Return functions of torch that make tensors of Python's numbers, on the device that is asked for."""

    def on_device(make: Any) -> Any:
        def made(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
            found = make(data, **kwargs)
            return found if device is None else found.to(device)

        return made

    return {"tensor": on_device(torch.tensor), "as_tensor": on_device(torch.as_tensor)}


@contextmanager
def fake_device(kind: str) -> Iterator[FakeDevice]:
    """Inside, this machine has one GPU of `kind`, cuda or mps, which ends with the block and what is on it."""
    device = FakeDevice(torch.device(kind, 0))
    autocast = torch.autocast
    with (
        # otherwise a cast of a module replaces what C++ knows of a parameter, and not `inner`
        mock.patch.object(torch.__future__, "get_overwrite_module_params_on_conversion", return_value=True),
        mock.patch.object(torch.cuda, "is_available", return_value=kind == "cuda"),
        mock.patch.object(torch.cuda, "device_count", return_value=1),
        mock.patch.object(torch.cuda, "_lazy_init"),
        mock.patch.object(torch.backends.mps, "is_available", return_value=kind == "mps"),
        mock.patch.object(torch, "autocast", lambda device_type, **options: autocast("cpu", **options)),
        mock.patch.multiple(torch, **_functions(device)),
        mock.patch.multiple(torch.Tensor, **_methods(device)),
        _Dispatch(device),
    ):
        yield device
