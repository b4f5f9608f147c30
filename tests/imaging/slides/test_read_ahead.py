"""Reading ahead keeps the order and the bound, and says who waited."""

from __future__ import annotations

import threading
import time

import pytest

from overread.domain import BadInputError
from overread.imaging.slides.reading import ReadAhead


def test_what_was_read_comes_in_the_order_of_the_items():
    def read(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * 10

    with ReadAhead(range(20), read, workers=4, ahead=6) as reading:
        assert list(reading) == [(item, item * 10) for item in range(20)]
    assert reading.read_s > 0
    assert reading.waited_s > 0


def test_no_more_than_asked_is_read_ahead():
    taken: list[int] = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    with ReadAhead(items(), lambda item: item, workers=3, ahead=4) as reading:
        for item, _ in reading:
            assert len(taken) <= item + 1 + 4
            if item == 20:
                break
    assert len(taken) <= 25


def test_reading_goes_on_while_the_consumer_is_busy():
    has_read_next = threading.Event()

    def read(item: int) -> int:
        if item == 1:
            has_read_next.set()
        return item

    with ReadAhead([0, 1], read, workers=1, ahead=1) as reading:
        next(reading)
        assert has_read_next.wait(10)


def test_an_error_comes_at_its_place_and_ends_it():
    def read(item: int) -> int:
        if item == 3:
            raise BadInputError("tile 3 is damaged")
        return item

    reading = ReadAhead(range(10), read, workers=2, ahead=5)
    assert [next(reading)[0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(BadInputError, match="tile 3 is damaged"):
        next(reading)
    assert list(reading) == []


def test_closing_leaves_no_thread_behind():
    before = threading.active_count()
    reading = ReadAhead(range(1000), lambda item: item, workers=3, ahead=10)
    next(reading)
    reading.close()
    reading.close()
    assert threading.active_count() == before
    assert list(reading) == []


def test_nothing_to_read_is_no_error():
    with ReadAhead([], lambda item: item) as reading:
        assert list(reading) == []
    assert reading.waited_s == 0


@pytest.mark.parametrize(("workers", "ahead"), [(0, 1), (1, 0)])
def test_who_reads_nothing_is_told(workers: int, ahead: int):
    with pytest.raises(BadInputError, match=f"{workers} workers that read {ahead} ahead read nothing"):
        ReadAhead([1], lambda item: item, workers=workers, ahead=ahead)
