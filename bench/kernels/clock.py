"""Time on the GPU, and the bandwidth that it is held against."""

from collections.abc import Callable, Sequence
from statistics import median

import torch

REPLAYS = 9


def microseconds(calls: Sequence[Callable[[], object]]) -> float:
    """Time of one call in a captured graph of all of them: the median of its replays."""
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    return median(_milliseconds(graph) for _ in range(REPLAYS)) * 1e3 / len(calls)


def _milliseconds(graph: torch.cuda.CUDAGraph) -> float:
    begin, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of an elementwise copy: what a kernel can reach at most.

    A plain copy in a graph becomes a memcpy node, which is slower.
    """
    source = torch.ones(2**28, device="cuda")
    target = torch.empty_like(source)
    time = microseconds([lambda: torch.add(source, 1.0, out=target)] * 4)
    return 2 * source.nbytes / time * 1e6
