"""Reading and writing in a thread of their own, while the models work in the caller's."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from typing import TypeVar

Item = TypeVar("Item")

_POLL_SECONDS = 0.1
"""How often a thread that waits looks whether it is still wanted."""
_LEAVE_SECONDS = 10.0
"""How long the caller waits for a thread that is no longer wanted; reading or writing may hang for ever."""


class _End:
    """Comes after the last item, with the error that ended the iterator, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


@contextmanager
def read_ahead(items: Iterable[Item], size: int) -> Iterator[Iterator[Item]]:
    """Give an iterator of items in order, which a thread of its own makes from now on, up to `size` ahead.

    It pays where making an item and working on it keep different cores busy, such as decoding of a video and models.
    Memory is bounded by `size`. An error of the iterable is raised after the items before it. At the end of the `with`
    block, by an error such as KeyboardInterrupt too, the iterable is closed in its own thread: files are closed and
    removed then, after the item that is just being made.

    Args:
        items: an iterable; it is used by the thread alone.
        size: items ahead at most, 1 or more.
    """
    queue: Queue[Item | _End] = Queue(maxsize=size)
    is_wanted = threading.Event()
    is_wanted.set()
    thread = threading.Thread(target=_fill, args=(items, queue, is_wanted), name="read-ahead", daemon=True)
    thread.start()
    try:
        yield _taken(queue)
    finally:
        is_wanted.clear()
        deadline = time.monotonic() + _LEAVE_SECONDS
        while thread.is_alive() and time.monotonic() < deadline:
            # an item that is ready would keep the thread from ending
            try:
                queue.get_nowait()
            except Empty:
                thread.join(_POLL_SECONDS)


def _taken(queue: "Queue[Item | _End]") -> Iterator[Item]:
    """Yield the items of a queue until they end; raise the error that ended them."""
    while not isinstance(item := queue.get(), _End):
        yield item
    if item.error is not None:
        raise item.error


def _fill(items: Iterable[Item], queue: "Queue[Item | _End]", is_wanted: threading.Event) -> None:
    """Put items into a queue until they end or are no longer wanted; then close their iterator."""
    end = _End()
    try:
        iterator = iter(items)
        try:
            while is_wanted.is_set() and (item := next(iterator, end)) is not end:
                _put(item, queue, is_wanted)
        finally:
            if isinstance(iterator, Generator):
                iterator.close()
    except BaseException as error:  # the caller raises it
        end.error = error
    _put(end, queue, is_wanted)


def _put(item: "Item | _End", queue: "Queue[Item | _End]", is_wanted: threading.Event) -> None:
    """Wait for room in a queue as long as its items are wanted."""
    while is_wanted.is_set():
        try:
            return queue.put(item, timeout=_POLL_SECONDS)
        except Full:
            continue


@contextmanager
def write_behind(write: Callable[[Item], object], size: int) -> Iterator[Callable[[Item], None]]:
    """Give a function that hands items over to a thread, which writes them in order, up to `size` behind.

    Where `write` fails, the next call raises its error, or the end of the `with` block. All items are written at its
    end; where an error ends the block, such as KeyboardInterrupt, those that wait are not.

    Args:
        write: takes an item; it is called in the thread alone.
        size: items that wait at most, 1 or more.
    """
    queue: Queue[Item | _End] = Queue(maxsize=size)
    is_working = threading.Event()
    is_working.set()
    errors: list[BaseException] = []
    thread = threading.Thread(target=_empty, args=(write, queue, is_working, errors), name="write-behind", daemon=True)
    thread.start()

    def hand_over(item: Item) -> None:
        _put(item, queue, is_working)
        if errors:
            raise errors[0]

    try:
        yield hand_over
        _put(_End(), queue, is_working)
        thread.join()
        if errors:
            raise errors[0]
    finally:
        is_working.clear()
        thread.join(_LEAVE_SECONDS)


def _empty(
    write: Callable[[Item], object],
    queue: "Queue[Item | _End]",
    is_working: threading.Event,
    errors: list[BaseException],
) -> None:
    """Write the items of a queue until they end, or until one cannot be written."""
    while is_working.is_set():
        try:
            item = queue.get(timeout=_POLL_SECONDS)
        except Empty:
            continue
        if isinstance(item, _End):
            return
        try:
            write(item)
        except BaseException as error:  # the caller raises it
            errors.append(error)
            is_working.clear()
