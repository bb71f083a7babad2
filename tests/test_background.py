"""Reading and writing in a thread: order, errors, memory, and what is closed when nobody wants more."""

import threading
import time

import pytest

from videotok.background import read_ahead, write_behind


class Source:
    """Counts how far it was read, and says by which thread it was closed."""

    def __init__(self, count, error=None):
        self.count, self.error, self.made, self.closed_by = count, error, 0, None

    def __iter__(self):
        try:
            for number in range(self.count):
                self.made += 1
                yield number
            if self.error:
                raise self.error
        finally:
            self.closed_by = threading.current_thread()


@pytest.mark.parametrize("size", [1, 3, 100])
def test_items_come_in_order(size):
    with read_ahead(Source(50), size) as items:
        assert list(items) == list(range(50))
    with read_ahead([], size) as items:
        assert list(items) == []


def test_items_are_made_meanwhile_and_no_more_than_asked_for():
    source = Source(50)
    with read_ahead(source, 3) as items:
        # three in the queue, one that waits for room
        assert made_at_rest(source, 4) == 4
        assert next(items) == 0
        assert made_at_rest(source, 5) == 5


def made_at_rest(source, count):
    """Wait until a source has made `count` items, and a little longer; return how many it has made then."""
    until = time.monotonic() + 10
    while source.made < count and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.3)
    return source.made


def test_an_error_comes_after_the_items_before_it():
    with read_ahead(Source(3, ValueError("broken")), 2) as items:
        assert [next(items) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="broken"):
            next(items)


def raise_after_one_item(source, error):
    with read_ahead(source, 2) as items:
        next(items)
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, RuntimeError])
def test_the_source_is_closed_by_its_thread_before_an_error_passes_on(error):
    source, before = Source(1000), threading.active_count()
    with pytest.raises(error):
        raise_after_one_item(source, error)
    assert source.made < 10
    assert source.closed_by not in (None, threading.current_thread())
    assert threading.active_count() == before


def test_an_error_of_an_iterator_that_cannot_begin():
    def broken():
        raise OSError("no such file")
        yield

    with read_ahead(broken(), 1) as items, pytest.raises(OSError, match="no such file"):
        next(items)
    with read_ahead(5, 1) as items, pytest.raises(TypeError):
        next(items)


def write_all(write, size, items):
    with write_behind(write, size) as hand_over:
        for item in items:
            hand_over(item)


def test_items_are_written_in_order_and_all_of_them():
    written = []
    with write_behind(written.append, 2) as write:
        for number in range(50):
            write(number)
    assert written == list(range(50))


def test_writing_waits_for_no_more_than_asked_for():
    written, allowed = [], threading.Semaphore(0)

    def slowly(item):
        allowed.acquire()
        written.append(item)

    with write_behind(slowly, 2) as write:
        for number in range(3):
            write(number)
        assert written == []
        late = threading.Timer(0.3, allowed.release)
        late.start()
        began = time.monotonic()
        write(3)  # one is being written and two wait
        assert time.monotonic() - began > 0.1
        for _ in range(3):
            allowed.release()
    assert written == [0, 1, 2, 3]


def test_an_error_of_writing_reaches_the_caller():
    def full(item):
        raise OSError("no space left")

    for count, size in ((10, 1), (1, 5)):
        with pytest.raises(OSError, match="no space left"):
            write_all(full, size, range(count))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_waits_is_not_written_after_an_error(error):
    written, before = [], threading.active_count()

    def slowly(item):
        time.sleep(0.05)
        written.append(item)

    def numbers():
        yield from range(40)
        raise error

    with pytest.raises(error):
        write_all(slowly, 40, numbers())
    assert len(written) < 40
    assert threading.active_count() == before
