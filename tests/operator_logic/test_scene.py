"""What a pass makes of the servers that it sees."""

import pytest

from kvarn_operator.observe import Child, Failure, Observed, Pod
from kvarn_operator.scene import Scene
from tests.operator_logic.builders import planned, target

FAILURE = Failure(reason="OutOfMemory", message="No.")
FAILED = Pod(name="demo-1", template_hash="old", failure=FAILURE, waiting="CrashLoopBackOff")
RESTARTED = Pod(name="demo-1", template_hash="old", failure=FAILURE)
UNPULLED_NEW = Pod(name="demo-5", template_hash="new", waiting="ImagePullBackOff")
UNPULLED = Pod(name="demo-2", template_hash="old", waiting="ImagePullBackOff")
WITHOUT_NODE = Pod(name="demo-3", template_hash="new", unschedulable="0/1 nodes: no GPU.")


def is_stuck(*pods: Pod) -> bool:
    deployment = Child(kind="Deployment", name="demo", template_hash="new")
    observed = Observed.of([deployment], pods)
    return Scene(target=target(), outcome=planned(target()), observed=observed).is_stuck


def test_a_roll_out_is_stuck_while_all_that_is_left_of_the_last_template_failed() -> None:
    assert is_stuck(FAILED, UNPULLED, WITHOUT_NODE)


@pytest.mark.parametrize(
    "pods",
    [
        (),
        (WITHOUT_NODE,),
        (Pod(name="demo-1", template_hash="new", failure=FAILURE),),
        (FAILED, Pod(name="demo-4", template_hash="new", ready=True)),
        (FAILED, Pod(name="demo-4", template_hash="old", ready=True)),
        (FAILED, Pod(name="demo-4", template_hash="old")),
        (RESTARTED, WITHOUT_NODE),
        (FAILED, UNPULLED_NEW),
        (Pod(name="demo-1", template_hash="old", failure=FAILURE, deleting=True),),
    ],
    ids=[
        *("none", "no_node", "present", "new_ready", "old_ready", "old_busy_or_loading"),
        *("old_runs_again", "new_needs_no_room", "leaving"),
    ],
)
def test_what_serves_or_may_yet_is_left_alone(pods: tuple[Pod, ...]) -> None:
    """A busy server that misses a probe looks like one that loads, and has answers to finish."""
    assert not is_stuck(*pods)
