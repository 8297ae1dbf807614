"""Stages of a script that overlap: what one makes, a thread of its own makes ahead of the next."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor


def ahead(items, depth=2):
    """Yield what `items` yields, made by a thread that is at most `depth` items ahead.

    Decoding, encoding, numpy, OpenCV and the network let other threads run meanwhile. What `items` raises is raised
    here. However this ends, the item under way is waited for, and the thread is gone.
    """
    items, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items, end) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item
        finally:
            for later in waiting:
                later.cancel()
