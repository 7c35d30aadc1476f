"""How far a Deployment has come."""

from dataclasses import dataclass
from typing import Self

from kvarn_operator.observe import Child


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The state of a roll-out.

    Attributes:
        wanted: pods that there should be.
        complete: whether the present template was rolled out, and no pod of another is left.
        failed: the Deployment's words if it gave up; empty otherwise.
        blocked: the API server's words if it refuses the pods; empty otherwise.
    """

    wanted: int = 0
    replicas: int = 0
    ready: int = 0
    complete: bool = False
    failed: str = ""
    blocked: str = ""

    @classmethod
    def read(cls, deployment: Child | None) -> Self:
        """The roll-out of a Deployment; without one it has not begun."""
        if deployment is None:
            return cls()
        status = deployment.status
        progress = deployment.condition("Progressing")
        refused = deployment.condition("ReplicaFailure")
        replicas = status.get("replicas", 0)
        return cls(
            wanted=deployment.replicas,
            replicas=replicas,
            ready=status.get("readyReplicas", 0),
            complete=status.get("observedGeneration", 0) >= deployment.generation
            and progress.get("reason") == "NewReplicaSetAvailable"
            and status.get("updatedReplicas", 0) == replicas,
            failed=progress.get("message", "the roll-out took too long")
            if progress.get("reason") == "ProgressDeadlineExceeded"
            else "",
            blocked=refused.get("message", "") if refused.get("status") == "True" else "",
        )
