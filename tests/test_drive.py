"""Generators that ask, driven in lock step by an evaluation that is a plain function here."""

import numpy as np
import pytest

from suture._drive import drive
from suture._methods import Points


def points(*numbers):
    return Points(np.array(numbers, dtype=float).reshape(-1, 1, 1), None)


def asks(*rounds, returns="sums"):
    """Yield points round by round; return the sum of the values of each round."""
    sums = []
    for numbers in rounds:
        sums.append(float(np.sum((yield points(*numbers)))))
    return sums if returns == "sums" else returns


class Square:
    """Squares every point, and keeps a diary of who asked what in which round."""

    def __init__(self):
        self.diary = []

    def __call__(self, asked, requests):
        numbers = [request.rows.ravel().tolist() for request in requests]
        self.diary.append(dict(zip(asked, numbers, strict=True)))
        return [request.rows**2 for request in requests]


def test_one_generator():
    square = Square()
    assert drive([asks([1, 2], [3])], square) == [[5.0, 9.0]]
    assert square.diary == [{0: [1, 2]}, {0: [3]}]


def test_generators_advance_in_lock_step():
    square = Square()
    results = drive([asks([1], [2]), asks([3], [4]), asks([5], [6])], square)
    assert results == [[1.0, 4.0], [9.0, 16.0], [25.0, 36.0]]
    assert square.diary == [{0: [1], 1: [3], 2: [5]}, {0: [2], 1: [4], 2: [6]}]


def test_generators_of_different_length():
    square = Square()
    results = drive([asks([1]), asks([2], [3], [4]), asks([5], [6])], square)
    assert results == [[1.0], [4.0, 9.0, 16.0], [25.0, 36.0]]
    assert square.diary == [{0: [1], 1: [2], 2: [5]}, {1: [3], 2: [6]}, {1: [4]}]


def test_a_generator_that_asks_nothing():
    square = Square()
    results = drive([asks(returns="at once"), asks([2]), asks()], square)
    assert results == ["at once", [4.0], []]
    assert square.diary == [{1: [2]}]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_where_nobody_asks_nothing_is_evaluated(count):
    def evaluate(asked, requests):
        raise AssertionError("nobody asked")

    assert drive([asks(returns=i) for i in range(count)], evaluate) == list(range(count))


def test_what_is_asked_next_may_depend_on_what_was_sent():
    """A bisection beside one that is done at once."""

    def bisect(low, high):
        while high - low > 1:
            middle = (low + high) // 2
            value = yield points(middle)
            low, high = (middle, high) if value.item() <= 200 else (low, middle)
        return low

    square = Square()
    assert drive([bisect(0, 64), bisect(14, 15)], square) == [14, 14]
    assert len(square.diary) == 6


def test_evaluation_is_given_the_very_points():
    request = points(1)

    def ask():
        return (yield request)

    seen = []

    def evaluate(asked, requests):
        seen.extend(requests)
        return ["value"]

    assert drive([ask()], evaluate) == ["value"]
    assert seen[0] is request


def test_none_is_a_result():
    def ask():
        yield points(1)

    assert drive([ask(), ask()], Square()) == [None, None]


def test_an_exception_of_a_generator_propagates():
    def fails():
        yield points(1)
        raise ArithmeticError("cannot go on")

    square = Square()
    with pytest.raises(ArithmeticError, match="cannot go on"):
        drive([asks([2], [3]), fails()], square)
    assert len(square.diary) == 1


def test_an_exception_of_the_evaluation_propagates():
    reached = []

    def ask(name):
        try:
            yield points(1)
        except GeneratorExit:  # not the evaluation's exception: methods cannot mend it
            reached.append(name)
            raise

    def evaluate(asked, requests):
        raise ArithmeticError("no value")

    estimates = [ask("first"), ask("second")]
    with pytest.raises(ArithmeticError, match="no value"):
        drive(estimates, evaluate)
    for estimate in estimates:
        estimate.close()
    assert reached == ["first", "second"]


@pytest.mark.parametrize("replies", [0, 1, 3])
def test_every_request_needs_its_reply(replies):
    with pytest.raises(ValueError, match="zip"):
        drive([asks([1]), asks([2])], lambda asked, requests: [np.zeros(1)] * replies)


def test_number_of_points():
    assert len(points(1, 2, 3)) == 3
    assert len(Points(None, np.zeros((2, 4)))) == 2
    assert len(Points(np.zeros((2, 1, 3)), np.zeros((2, 4)))) == 2
    assert len(Points(None, None)) == 0
