"""The model's shape from a hub: its config, and the headers of its weights, never the weights.

`huggingface_hub` does the work, so HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they
mean elsewhere. It is no dependency of the planner: serving images have it.
"""

import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from kvarn.planner.config_file import load_config
from kvarn.planner.errors import ShapeError
from kvarn.planner.hf_config import (
    QUANTIZATION_FILE,
    computing_dtype,
    folder_config,
    shape_from_config,
)
from kvarn.planner.safetensors import Tensor, folder_weight_bytes, loaded_bytes

if TYPE_CHECKING:
    from kvarn.planner.shape import ModelShape

CONNECT_SECONDS = 5


def hub_shape(repository: str, revision: str | None = None) -> "ModelShape":
    """The shape of `org/name` on the hub, or in the hub's cache on this machine.

    Raises:
        ShapeError: the hub or the model cannot be reached, or cannot be planned for.
    """
    path = _config_path(repository, revision)
    if "quantization_config" not in load_config(path):
        _fetch_beside(path, repository)
    config = folder_config(path.parent)
    dtype = computing_dtype(config)
    measured = folder_weight_bytes(path.parent, dtype, config)
    if measured is None:
        tensors = _remote_tensors(repository, revision)
        measured = loaded_bytes(tensors, dtype, config) if tensors else None
    return shape_from_config(config, name=repository, weight_bytes=measured)


def _fetch_beside(path: Path, repository: str) -> None:
    """Fetch the quantisation that NVIDIA's tools keep in a file of its own, if there is one."""
    from huggingface_hub import errors, hf_hub_download  # noqa: PLC0415

    with suppress(OSError, errors.EntryNotFoundError):
        hf_hub_download(repository, QUANTIZATION_FILE, revision=path.parent.name)


def _config_path(repository: str, revision: str | None) -> Path:
    """The model's config in the local cache, fetched if need be."""
    try:
        from huggingface_hub import constants, errors, hf_hub_download  # noqa: PLC0415
    except ImportError as error:
        raise ShapeError(
            "HubUnreachable",
            f"{repository} is no folder here, and huggingface_hub is not installed; install it, or"
            " give a folder or a config.json.",
        ) from error
    try:
        cached = not _reachable(constants.ENDPOINT)
        return Path(
            hf_hub_download(repository, "config.json", revision=revision, local_files_only=cached)
        )
    except (OSError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise _explained(error, repository, revision) from error


def _reachable(endpoint: str) -> bool:
    """Whether a connection opens; unasked behind a proxy.

    `huggingface_hub` retries for half a minute before it says that there is no network.
    """
    if getproxies():
        return True
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def _explained(error: Exception, repository: str, revision: str | None) -> ShapeError:
    """What `huggingface_hub` raised, as one sentence with the remedy."""
    from huggingface_hub import constants, errors  # noqa: PLC0415

    hub = constants.ENDPOINT
    if _is_unauthorised(error):
        return ShapeError(
            "Unauthorized",
            f"{hub} refuses {repository} to this token; correct HF_TOKEN, or accept the model's"
            " terms there.",
        )
    match error:
        case errors.HFValidationError():
            reason, message = "UnknownModel", "is no model's name; write it as organisation/name"
        case errors.RevisionNotFoundError():
            reason = "UnknownModel"
            message = f"has no revision {revision}; check its branches and tags"
        case errors.RepositoryNotFoundError():
            reason = "UnknownModel"
            message = (
                f"is not on {hub}, or not for this token; check the name, accept the model's"
                " terms, or set HF_TOKEN"
            )
        case errors.RemoteEntryNotFoundError():
            reason, message = "UnreadableConfig", "has no config.json; use a model that has one"
        case _:
            reason = "HubUnreachable"
            message = (
                f"is not in the local cache, and {hub} does not answer; give a folder or a"
                " config.json, or set HF_ENDPOINT"
            )
    return ShapeError(reason, f"{repository} {message}.")


def _is_unauthorised(error: BaseException | None) -> bool:
    """Whether the hub refused the token, rather than having no such model."""
    from huggingface_hub import errors  # noqa: PLC0415

    while error is not None:
        if isinstance(error, errors.GatedRepoError):
            return True
        if isinstance(error, errors.HfHubHTTPError):
            absent = isinstance(error, errors.RepositoryNotFoundError)
            return error.response.status_code in (401, 403) and not absent
        error = error.__cause__
    return False


def _remote_tensors(repository: str, revision: str | None) -> list[Tensor]:
    """The weights' headers by ranged reads; empty where that cannot be done."""
    from huggingface_hub import errors, get_safetensors_metadata  # noqa: PLC0415

    try:
        metadata = get_safetensors_metadata(repository, revision=revision)
    except (OSError, errors.NotASafetensorsRepoError, errors.SafetensorsParsingError):
        return []
    return [
        Tensor(name, tensor.dtype, tuple(tensor.shape), tuple(tensor.data_offsets))
        for file in metadata.files_metadata.values()
        for name, tensor in file.tensors.items()
    ]
