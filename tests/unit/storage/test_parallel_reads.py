"""Reads at the same time: results in order, a pool that cannot stand still, honest counts."""

import threading
from functools import partial

import pytest

from homeserver.observability import count_call, metered
from homeserver.storage.connection import in_parallel


def read(units: float) -> float:
    count_call(rru=units)
    return units


def one_after_the_other(count: int) -> list[float]:
    return [read(1.0) for _ in range(count)]


def test_results_come_in_the_order_of_the_calls() -> None:
    assert in_parallel(*[partial(read, float(n)) for n in range(20)]) == [float(n) for n in range(20)]
    assert in_parallel() == []


def test_calls_that_call_in_parallel_themselves_do_not_wait_for_each_others_threads() -> None:
    many = [partial(in_parallel, *[partial(read, 1.0) for _ in range(3)]) for _ in range(30)]
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(in_parallel(*many)), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert results == [[[1.0, 1.0, 1.0]] * 30]


@pytest.mark.parametrize("lengths", [(3,), (1, 3, 2), (0, 0)])
def test_the_longest_of_the_calls_says_how_many_rounds_it_were(lengths: tuple[int, ...]) -> None:
    with metered() as meter:
        in_parallel(*[partial(one_after_the_other, length) for length in lengths])
    assert (meter.rounds, meter.calls, meter.rru) == (max(lengths), sum(lengths), sum(lengths))


def test_what_a_call_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        in_parallel(partial(read, 1.0), lambda: 1 / 0)
