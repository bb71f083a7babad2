"""Compile functions by numba: one signature each, without Python's lock, kept in numba's cache from process to process.

numba's cache looks at the file that a kernel is in, and at no other: it would not see that a function which the kernel
calls, or a constant, in another file has changed. So kernels call functions of their own file only. Where a constant
changes, delete `codec/__pycache__`: results of kernels that were compiled with the old one differ from numpy's, so that
`codec.acceleration` does not use them. Importing this module imports numba, which takes 0.2 s.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types

F = np.float32
ONE = F(1)

KERNELS: list[tuple[Any, Any]] = []
"""All kernels that have been imported, each with its signature."""


def kernel(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that makes a function a kernel with one signature, compiled by `compile_kernels`."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            dispatcher = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
        except RuntimeError:  # there is no folder for the cache that can be written
            dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
        KERNELS.append((dispatcher, signature))
        return dispatcher

    return decorate


def inner(function: Callable[..., Any]) -> Any:
    """Make a function callable from kernels of the same file."""
    return numba.njit(nogil=True, error_model="numpy")(function)


def is_compiled() -> bool:
    """Return whether all kernels lie in numba's cache."""
    return all(_cache_files(dispatcher, "nbi") for dispatcher, _ in KERNELS)


def _cache_files(dispatcher: Any, suffix: str) -> list[Path]:
    """Return the files of a kernel in numba's cache; none where it has no cache."""
    if dispatcher.stats.cache_path is None:
        return []
    function = dispatcher.py_func
    stem = Path(function.__code__.co_filename).stem
    return list(Path(dispatcher.stats.cache_path).glob(f"{stem}.{function.__qualname__}-*.{suffix}"))


def compile_kernels() -> None:
    """Compile all kernels, or load them from numba's cache. Compiling takes some ten seconds.

    Raises:
        Exception: numba cannot compile or store them.
    """
    for dispatcher, signature in KERNELS:
        if dispatcher.signatures:
            continue
        try:
            dispatcher.compile(signature)
        except Exception:  # of any type: the cache is pickled, and a full disk or a power failure cuts its files short
            for file in _cache_files(dispatcher, "nb[ic]"):
                file.unlink(missing_ok=True)
            dispatcher.compile(signature)
        dispatcher.disable_compile()


def array_type(dtype: Any, dimensions: int, readonly: bool = False) -> types.Array:
    """Return numba's type of an array in C order."""
    return types.Array(dtype, dimensions, "C", readonly=readonly)


F1, F2, F3, F4 = (array_type(types.float32, dimensions) for dimensions in (1, 2, 3, 4))
D1, I1 = array_type(types.float64, 1), array_type(types.int64, 1)
B2 = array_type(types.boolean, 2)

c_order = np.ascontiguousarray
"""Kernels take arrays in C order; those of numpy's operations, before the change to compiled ones, may have another."""
