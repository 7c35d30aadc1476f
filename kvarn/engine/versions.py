"""Whether the plugin knows a release of vLLM."""

from kvarn.format.releases import SUPPORTED


def why_unsupported(version: str) -> str | None:
    """Why a release of vLLM is not supported, or None when it is.

    Args:
        version: as in ``vllm.__version__``, for example ``0.32.0+cpu``.
    """
    if ".".join(version.split(".")[:2]) in SUPPORTED:
        return None
    return f"vLLM {version} is not supported; install vLLM {' or '.join(SUPPORTED)}."
