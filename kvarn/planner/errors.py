"""What the planner refuses, and how it says so.

    PlannerError            a named reason and one sentence with the numbers and the remedy
    ├── ShapeError          the model's config cannot be read, or describes a model not planned for
    ├── AcceleratorError    the GPU is unknown or its description contradicts itself
    ├── RequestError        the workload, a limit, the format or the version cannot be
    └── PlanError           all of them are understood and do not fit together

`reason` is CamelCase, as in a Kubernetes condition.
"""

from typing import Self


class PlannerError(ValueError):
    """One reason why there is no plan.

    Attributes:
        reason: a CamelCase word, stable across versions.
        message: one sentence that holds the numbers and names the remedy.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.reason, self.message)

    def to_dict(self) -> dict[str, str]:
        """The error as the launcher and the inspection Job write it."""
        return {"reason": self.reason, "message": self.message}


class ShapeError(PlannerError):
    """The model's config cannot be read, or describes a model that is not planned for."""


class AcceleratorError(PlannerError):
    """The accelerator is unknown or its description contradicts itself."""


class RequestError(PlannerError):
    """The workload, a limit, the cache format or the engine's version cannot be."""


class PlanError(PlannerError):
    """Model, accelerator and limits do not fit together."""
