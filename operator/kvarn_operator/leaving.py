"""How servers leave: which one goes, and what may not take them away meanwhile."""

from collections.abc import Iterable, Mapping

from kvarn_operator.api import KVarNDeployment
from kvarn_operator.observe import EVICTION, LOCAL_VOLUMES, PROTECTION, Pod
from kvarn_operator.readings import Reading
from kvarn_operator.source import Source

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


def evictions(target: KVarNDeployment, servers: Iterable[Pod]) -> dict[str, Notes]:
    """What to tell node autoscalers, by pod: to leave it alone, or that it may be moved.

    What the resource's own pod template says on this is left as it is.
    """
    stated = ((target.spec.pod_template or {}).get("metadata") or {}).get("annotations") or {}
    ours = [name for name in EVICTION if name not in stated]
    notes: dict[str, Notes] = {}
    for pod in servers:
        says = _eviction(target, pod)
        wanted = {name: says.get(name) for name in ours}
        if {name for name in ours if wanted[name]} != pod.eviction.intersection(ours):
            notes[pod.name] = wanted
    return notes


def _eviction(target: KVarNDeployment, pod: Pod) -> Mapping[str, str]:
    if pod.deleting or pod.is_loading:
        return PROTECTION
    if not pod.ready:
        return {}
    # The cluster autoscaler moves no pod away from its files unless it is told so. Those on a host
    # path may be on this node alone.
    on_host = Source.parse(target.spec.model.source).kind == "host"
    return {LOCAL_VOLUMES: "tmp" if on_host else "tmp,model"}
