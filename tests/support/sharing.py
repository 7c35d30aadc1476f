"""How tests are shared out among worker processes (`pytest -n 2`).

The tests of a file run one after another in one worker, and so do those that share an API server or
a vLLM. Those of the cluster come last, when no other worker is left: they need the whole machine.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.engine.lanes import RELEASES

ALONE = "alone"
CLUSTER = (
    "tests/e2e/",
    "tests/cluster_tools/test_cluster.py",
    "tests/cluster_tools/test_images.py",
)


def group_of(nodeid: str) -> str:
    """What a test belongs to."""
    path, _, name = nodeid.partition("::")
    if path.startswith(CLUSTER):
        return ALONE
    if path.startswith("tests/apiserver/"):
        return "apiserver"
    if path.startswith("tests/engine/"):
        return next((f"vLLM {release}" for release in RELEASES if release in name), path)
    return path


class Sharing(LoadScopeScheduling):
    """Groups go to workers in their order; what must be alone waits until one worker is left."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if ALONE in self.workqueue:
            self.workqueue.move_to_end(ALONE)
        others = [each for each in self.nodes if each is not node]
        if next(iter(self.workqueue)) != ALONE or not others:
            super()._assign_work_unit(node)
        elif not all(each.shutting_down for each in others):
            node.shutdown()

    def remove_node(self, node: WorkerController) -> str | None:
        crashed = super().remove_node(node)
        for each in self.nodes:
            self._reschedule(each)
        return crashed
