"""Why a start of vLLM failed, read from what it printed."""

import json
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Reason = Literal[
    "InsufficientMemory", "ContextTooLong", "OutOfMemory", "Unsupported", "StartFailed"
]

_UNITS = {"MiB": 2**20, "GiB": 2**30}
_LONGEST_MESSAGE = 2000
"""Characters; the kubelet cuts a termination message at 4096 bytes."""


@dataclass(frozen=True)
class Failure:
    """What a termination message says.

    Attributes:
        reason: for programs.
        message: one sentence for people.
        numbers: what the sentence counts; names end in ``_bytes`` or ``_tokens``.
    """

    reason: Reason
    message: str
    numbers: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """One JSON object, short enough for a termination message."""
        return json.dumps(
            {
                "reason": self.reason,
                "message": self.message[:_LONGEST_MESSAGE],
                "numbers": dict(self.numbers),
            },
            ensure_ascii=False,
        )


@dataclass(frozen=True)
class _Symptom:
    """A line that vLLM or torch prints, and what it means."""

    pattern: re.Pattern[str]
    explain: Callable[[re.Match[str]], Failure]


def diagnose(output: str, code: int) -> Failure:
    """Name the cause of a failed start.

    Args:
        output: the end of what the server printed.
        code: its exit status; minus the signal when one ended it.
    """
    for symptom in _SYMPTOMS:
        if match := symptom.pattern.search(output):
            return symptom.explain(match)
    if code == -signal.SIGKILL:
        return Failure("OutOfMemory", "The server was killed, most likely for lack of memory.")
    return Failure("StartFailed", _last_error(output) or f"vLLM ended with status {code}.")


def _bytes(amount: str, unit: str = "GiB") -> int:
    return round(float(amount) * _UNITS[unit])


def _no_memory_left(match: re.Match[str]) -> Failure:
    return Failure(
        "InsufficientMemory",
        "The model leaves no memory for the cache; give the pod a larger accelerator, more of "
        "them, or a smaller model.",
        {"available_bytes": _bytes(match["left"])} if match["left"] else {},
    )


def _context_too_long(match: re.Match[str]) -> Failure:
    feasible = {"feasible_tokens": int(match["fits"])} if match["fits"] else {}
    advice = f"at most {match['fits']} tokens fit" if feasible else "no context fits"
    return Failure(
        "ContextTooLong",
        f"A sequence of {match['asked']} tokens needs {match['needed']} GiB of cache and there "
        f"are {match['there']} GiB; {advice}.",
        {
            "asked_tokens": int(match["asked"]),
            "needed_bytes": _bytes(match["needed"]),
            "available_bytes": _bytes(match["there"]),
            **feasible,
        },
    )


def _less_than_asked(match: re.Match[str]) -> Failure:
    return Failure(
        "InsufficientMemory",
        f"Of {match['total']} GiB of memory {match['free']} GiB are free, and the server was told "
        f"to take {match['wanted']} GiB; end what else uses the device or lower the share.",
        {
            "free_bytes": _bytes(match["free"]),
            "total_bytes": _bytes(match["total"]),
            "wanted_bytes": _bytes(match["wanted"]),
        },
    )


def _device_full(match: re.Match[str]) -> Failure:
    requested, total, free = (
        _bytes(match[name], match[f"{name}_unit"]) for name in ("requested", "total", "free")
    )
    return Failure(
        "OutOfMemory",
        f"The device ran out of memory: {match['requested']} {match['requested_unit']} were "
        f"asked for, {match['free']} {match['free_unit']} of {match['total']} "
        f"{match['total_unit']} were free.",
        {"requested_bytes": requested, "total_bytes": total, "free_bytes": free},
    )


def _host_full(match: re.Match[str]) -> Failure:
    return Failure(
        "OutOfMemory",
        f"The container ran out of memory when {match['requested']} bytes were asked for.",
        {"requested_bytes": int(match["requested"])},
    )


def _refused(match: re.Match[str]) -> Failure:
    return Failure("Unsupported", match["said"].strip())


def _kernel_too_large(match: re.Match[str]) -> Failure:
    return Failure(
        "Unsupported",
        f"A kernel in Triton needs {match['needed']} of {match['what']}, and this GPU gives a "
        f"kernel {match['there']}.",
    )


def _amount(name: str) -> str:
    return rf"(?P<{name}>[\d.]+) (?P<{name}_unit>MiB|GiB)"


_SYMPTOMS = (
    _Symptom(re.compile(r"UnsupportedError: (?P<said>.+)"), _refused),
    _Symptom(re.compile(r"error: (?P<said>(?:argument|unrecognized arguments).+)"), _refused),
    _Symptom(
        re.compile(
            r"max seq len \((?P<asked>\d+)\), \((?P<needed>[\d.]+) GiB.*?"
            r"memory \((?P<there>[\d.]+) GiB\)"
            r"(?:.*?maximum model length is (?P<fits>\d+))?"
        ),
        _context_too_long,
    ),
    _Symptom(
        re.compile(
            r"(?:Available KV cache memory: (?P<left>-?[\d.]+) GiB.*)?"
            r"No available memory for the cache blocks",
            re.DOTALL,
        ),
        _no_memory_left,
    ),
    _Symptom(
        re.compile(
            r"(?:Free|Available) memory on \S+ \S+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\).*?"
            r"less than (?:desired|requested).*?(?P<wanted>[\d.]+) GiB\)"
        ),
        _less_than_asked,
    ),
    _Symptom(
        re.compile(
            rf"out of memory\. Tried to allocate {_amount('requested')}\..*?"
            rf"total capacity of {_amount('total')} of which {_amount('free')} is free"
        ),
        _device_full,
    ),
    _Symptom(
        re.compile(
            r"OutOfResources: out of resource: (?P<what>[\w ]+), Required: (?P<needed>\d+), "
            r"Hardware limit: (?P<there>\d+)"
        ),
        _kernel_too_large,
    ),
    _Symptom(re.compile(r"you tried to allocate (?P<requested>\d+) bytes"), _host_full),
)

_ERROR = re.compile(r"(?P<error>\b[A-Za-z_.]*(?:Error|Exception)): (?P<said>.+)")
_AFTERMATH = "Engine core initialization failed"


def _last_error(output: str) -> str | None:
    """The last exception that is no mere consequence of another process's."""
    found = [match for match in _ERROR.finditer(output) if _AFTERMATH not in match["said"]]
    return f"{found[-1]['error']}: {found[-1]['said'].strip()}" if found else None
