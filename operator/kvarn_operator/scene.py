"""What one pass has found and done: what conditions, status and the writing of the size go by."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kvarn_operator import learning
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.api.status import InspectedModel, LastScale
from kvarn_operator.autoscale import Decision
from kvarn_operator.autoscalers import KINDS
from kvarn_operator.observe import Child, Failure, Observed, Pod
from kvarn_operator.planning import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a pass has found and done.

    Attributes:
        outcome: the plan or why there is none.
        observed: the children.
        decision: the autoscaler's, if it owns the size.
        desired: the size that is wanted; None while there is no Deployment.
        told: the size that an outside autoscaler is told; None if it is refused a number.
        unowned: what keeps the autoscaler that the mode asks for from deciding.
        refused: the API server's words, if it refused a child.
        unannotated: its words, if it refused to have a pod annotated.
        model: what is known of the model.
        last_scale: the latest change of size.
        capacities: tokens that the cache of each server of the present template holds.
    """

    target: KVarNDeployment
    outcome: Outcome
    observed: Observed
    decision: Decision | None = None
    desired: int | None = None
    told: int | None = None
    unowned: str = ""
    refused: str = ""
    unannotated: str = ""
    model: InspectedModel | None = None
    last_scale: LastScale | None = None
    capacities: Mapping[str, int] = field(default_factory=dict)

    @property
    def deployment(self) -> Child | None:
        """The Deployment; None while there is none."""
        return self.observed.children.get(("Deployment", self.target.metadata.name))

    @property
    def is_outside(self) -> bool:
        """Whether another controller owns the size, one that the operator has made."""
        rules = self.target.spec.autoscaling
        return rules is not None and rules.mode in KINDS

    @property
    def present_servers(self) -> tuple[Pod, ...]:
        """Servers that run the present template."""
        present = self.deployment.template_hash if self.deployment else ""
        return tuple(pod for pod in self.observed.servers if pod.template_hash == present)

    @property
    def is_stuck(self) -> bool:
        """Whether a roll-out waits for what only failed servers of older templates hold.

        Nothing serves, and for now no older server runs: where no accelerator is to spare, the new
        ones find a node only once the failed ones are gone.
        """
        servers, present = self.observed.servers, self.present_servers
        older = [pod for pod in servers if pod not in present]
        held_up = all(pod.is_held_up and not pod.ready for pod in older)
        return bool(older) and held_up and all(pod.unschedulable for pod in present)

    @property
    def has_served(self) -> bool:
        """Whether a server of the present plan has ever been ready."""
        if self.target.status.measured is not None:
            return True
        return any(pod.ready for pod in self.present_servers)

    def failures(self) -> Iterator[tuple[Pod, Failure]]:
        """Servers of the present template that ended badly and have not come back."""
        on_cpu = self.target.spec.accelerator.resource == "cpu"
        for pod in self.present_servers:
            if pod.failure is not None:
                yield pod, learning.explained(pod.failure, on_cpu=on_cpu)
