"""The API: ``KVarNDeployment`` v1alpha1 as pydantic models, the one source of the CRD.

A field's docstring is what ``kubectl explain`` prints. Fields are only ever added, never changed.
What CEL can say about a resource stands beside the fields that it is about, so that the API server
refuses it at ``kubectl apply``; what CEL cannot say becomes a condition.
"""

from typing import Any

from pydantic import ConfigDict, ValidationError, ValidatorFunctionWrapHandler, field_validator

from kvarn_operator.api.base import ApiModel, rule, rules
from kvarn_operator.api.spec import Spec
from kvarn_operator.api.status import Status


class Metadata(ApiModel):
    """The part of an object's metadata that the operator reads."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 0


class Head(ApiModel):
    """What can be read of a resource, whatever its spec says."""

    metadata: Metadata
    status: Status = Status()
    """What is."""

    @field_validator("status", mode="wrap")
    @classmethod
    def _what_validates(cls, written: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        """Another version of the operator may have written the rest, which is found anew."""
        try:
            return validate(written)
        except ValidationError as error:
            strange = {each["loc"][0] for each in error.errors()}
            return validate({name: written[name] for name in written.keys() - strange})


class KVarNDeployment(Head):
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

    spec: Spec
    """What is wanted."""
