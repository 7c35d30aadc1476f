"""How servers leave: which one goes, and what may not take them away meanwhile."""

from collections.abc import Iterable, Mapping

from kvarn_operator.api import KVarNDeployment
from kvarn_operator.observe import PROTECTION, SERVER, Pod
from kvarn_operator.readings import Reading

Notes = dict[str, str | None]
"""Annotations to set, or to remove where None."""


def deletion_costs(readings: Mapping[str, Reading], *, planned_tokens: int) -> dict[str, int]:
    """``pod-deletion-cost`` by pod: tokens that would be lost with it, to two digits.

    They are those of its running requests, and those that the prompts of the last minute found in
    its prefix cache. So the pod with the least to lose goes first, and a cost at rest rests.
    """
    return {
        pod: int(float(f"{_tokens(reading, planned_tokens):.2g}"))
        for pod, reading in readings.items()
    }


def _tokens(reading: Reading, planned_tokens: int) -> float:
    now, before = reading.sample, reading.oldest
    prompts = now.prompt_tokens - before.prompt_tokens
    found = prompts - (now.computed_tokens - before.computed_tokens)
    return now.usage * (now.cache_tokens or planned_tokens) + max(found, 0)


def protections(target: KVarNDeployment, pods: Iterable[Pod]) -> dict[str, Notes]:
    """What to write on which pods, so that node autoscalers leave those alone that load or drain.

    What the resource's own pod template says on this is left as it is.
    """
    stated = ((target.spec.pod_template or {}).get("metadata") or {}).get("annotations") or {}
    ours = {name: value for name, value in PROTECTION.items() if name not in stated}
    notes: dict[str, Notes] = {}
    for pod in pods:
        if pod.component != SERVER:
            continue
        wanted = ours if pod.deleting or pod.is_loading else {}
        if {name for name in pod.protection if name in ours} != set(wanted):
            notes[pod.name] = {name: wanted.get(name) for name in ours}
    return notes
