"""Stages of a script that overlap: a thread makes the next items while this one is worked on."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Yield what `items` yields, made by a thread that is at most `depth` items ahead.

    Decoding, encoding, numpy, OpenCV and the network let other threads run meanwhile. What `items`
    raises is raised here. However this ends, the thread finishes the item it works on and is gone.
    """
    iterator = iter(items)
    end: Any = object()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, iterator, end) for _ in range(depth))
        try:
            while True:
                item = waiting.popleft().result()
                if item is end:
                    return
                waiting.append(thread.submit(next, iterator, end))
                yield item
        finally:
            for future in waiting:
                future.cancel()
