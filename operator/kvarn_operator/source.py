"""Where a model's weights are, taken apart."""

from dataclasses import dataclass
from typing import Literal, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A ``model.source``.

    Attributes:
        kind: ``hf``, ``pvc`` or ``host``.
        place: repository ``org/name``, name of the claim, or path on the node.
        path: path within the claim, without slashes around it; empty otherwise.
    """

    kind: Literal["hf", "pvc", "host"]
    place: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The source that `text` names.

        Raises:
            ValueError: it is none.
        """
        scheme, found, rest = text.partition("://")
        if found and rest and scheme == "hf":
            return cls(kind="hf", place=rest)
        if found and rest and scheme == "pvc":
            claim, _, path = rest.partition("/")
            return cls(kind="pvc", place=claim, path=path.strip("/"))
        if found and rest and scheme == "host":
            return cls(kind="host", place="/" + rest.strip("/"))
        raise ValueError(
            f"{text!r} is no source: give hf://org/name, pvc://claim/path or host:///path."
        )

    @property
    def model(self) -> str:
        """What vLLM's ``--model`` gets inside the container."""
        return {"hf": self.place, "pvc": f"{MODELS}/{self.path}".rstrip("/"), "host": MODELS}[
            self.kind
        ]


MODELS = "/models"
"""Where a claim or a folder of the node is mounted."""
HUB_CACHE = "/cache"
"""Where downloaded weights are kept."""
