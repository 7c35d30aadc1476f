"""The API: ``KVarNDeployment`` v1alpha1 as pydantic models, the one source of the CRD.

A field's docstring is what ``kubectl explain`` prints. Fields are only ever added, never changed.
What CEL can say about a resource stands beside the fields that it is about, so that the API server
refuses it at ``kubectl apply``; what CEL cannot say becomes a condition.
"""

from pydantic import ConfigDict

from kvarn_operator.api.base import ApiModel, rule, rules
from kvarn_operator.api.spec import Spec
from kvarn_operator.api.status import Status


class Metadata(ApiModel):
    """The part of an object's metadata that the operator reads."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0


class KVarNDeployment(ApiModel):
    """An OpenAI-compatible model server whose size follows its KV cache."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.metadata.name.matches('^[a-z]([-a-z0-9]{0,43}[a-z0-9])?$')",
                "the name must be 1 to 45 lower-case letters, digits or '-', and start with a"
                " letter: it becomes the name of a Service",
            )
        )
    )

    metadata: Metadata
    spec: Spec
    """What is wanted."""
    status: Status = Status()
    """What is."""
