"""What threads make ahead comes in order, and no more of it than is needed."""

import threading
import time
from itertools import islice

import pytest

from overread.ensemble.ahead import FEWEST, made_ahead


def test_it_comes_in_order_whoever_is_done_first() -> None:
    def make(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number

    assert list(islice(made_ahead(make, 5, 4), 12)) == list(range(5, 17))


def most_at_once(make_s: float, use_s: float, threads: int, things: int) -> int:
    """Most calls at the same time."""
    lock, now, most = threading.Lock(), 0, 0

    def make(_number: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(make_s)
        with lock:
            now -= 1

    for _ in islice(made_ahead(make, 0, threads), things):
        time.sleep(use_s)
    return most


def test_whoever_waits_gets_more_threads() -> None:
    assert most_at_once(0.02, 0, threads=6, things=40) == 6


def test_whoever_does_not_wait_keeps_few() -> None:
    assert most_at_once(0, 0.005, threads=6, things=40) <= FEWEST + 1


def test_an_error_comes_where_its_turn_is() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise ValueError("broken")
        return number

    things = made_ahead(make, 0, 2)
    assert [next(things) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(things)


def test_nothing_is_begun_after_the_end() -> None:
    begun = []

    def make(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    things = made_ahead(make, 0, 1)
    next(things)
    things.close()
    at_the_end = len(begun)
    time.sleep(0.05)
    assert len(begun) == at_the_end
