"""What earlier starts taught about the account, to be taken into the next plan."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """How far real starts were from the account.

    Attributes:
        size_bytes: what a device held beyond the account; negative if it held less.
        utilization_points: by how many hundredths of the device vLLM must take less.
    """

    size_bytes: int = 0
    utilization_points: int = 0


UNCORRECTED = Correction()
