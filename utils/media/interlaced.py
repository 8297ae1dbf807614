"""Interlaced pictures, as camcorders record them: the rows of two moments in turn."""

import contextlib
from collections import deque
from collections.abc import Iterator

import av
from av.filter import Graph

from utils.media.streams import Timed


def deinterlaced(pictures: Iterator[Timed]) -> Iterator[Timed]:
    """Yield the pictures; from the first one on that says so, those that are interlaced get the
    rows of one moment only (FFmpeg's bwdif). Holds three pictures.
    """
    graph = None
    waiting: deque[Timed] = deque()  # for the pictures after them, which the filter looks at
    for timed in pictures:
        if graph is None and timed.frame.interlaced_frame:
            graph = _filter_for(timed.frame)
        if graph is None:
            yield timed
            continue
        waiting.append(timed)
        graph.push(timed.frame)
        yield from _ready(graph, waiting)
    if graph is not None:
        graph.push(None)
        yield from _ready(graph, waiting)


def _filter_for(picture):
    graph = Graph()
    source = graph.add_buffer(
        width=picture.width,
        height=picture.height,
        format=picture.format,
        time_base=picture.time_base
    )
    graph.link_nodes(
        source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    ).configure()
    return graph


def _ready(graph, waiting):
    """Yield what the filter has finished, one picture for each that went in, with its times."""
    with contextlib.suppress(BlockingIOError, av.error.EOFError):
        while waiting:
            picture = graph.vpull()
            yield waiting.popleft()._replace(frame=picture)
