"""A stage in a thread of its own: same items, same errors, not too far ahead, no thread left."""

import threading
import time

import pytest

from utils.cli import UserError
from utils.prefetch import prefetch


@pytest.fixture(autouse=True)
def no_thread_stays():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("depth", [1, 2, 100])
def test_the_items_come_in_order(depth):
    assert list(prefetch(range(50), depth)) == list(range(50))
    falsy = [None, False, 0]
    assert list(prefetch(prefetch(falsy, depth), depth)) == falsy
    assert list(prefetch((), depth)) == []


@pytest.mark.parametrize("error", [UserError, OSError, KeyboardInterrupt, StopIteration])
def test_what_a_stage_raises_comes_out_after_the_items_before_it(error):
    class Stage:
        left = 3

        def __iter__(self):
            return self

        def __next__(self):
            self.left -= 1
            if self.left < 0:
                raise error("broken")
            return self.left

    seen = []
    try:
        for item in prefetch(prefetch(Stage())):
            seen.append(item)
    except error as raised:
        assert str(raised) == "broken"
    else:
        assert error is StopIteration  # which is the end
    assert seen == [2, 1, 0]


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_made_ahead_than_asked(depth):
    made = []

    def stage():
        for k in range(20):
            made.append(k)
            yield k

    items = prefetch(stage(), depth)
    for k in range(10):
        assert next(items) == k
        time.sleep(0.01)
        assert len(made) <= k + 1 + depth
    items.close()
    assert len(made) <= 10 + depth


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_error_behind_it_ends_the_stages_and_closes_them(error):
    ended = []

    def stage(items, name):
        try:
            yield from items
        finally:
            ended.append(name)

    def both():  # no name here may keep a stage alive
        return prefetch(stage(prefetch(stage(range(10**6), "first")), "second"))

    with pytest.raises(error):
        for k in both():
            if k == 5:
                raise error
    assert sorted(ended) == ["first", "second"]


def test_stages_run_side_by_side():
    """Three stages of 10 ms each take hardly more than one of them."""

    def slow(items):
        for item in items:
            time.sleep(0.01)
            yield item

    begun = time.perf_counter()
    first = prefetch(slow(range(40)))
    second = prefetch(slow(first))
    assert list(slow(second)) == list(range(40))
    assert time.perf_counter() - begun < 0.9
