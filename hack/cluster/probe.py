"""Whether an API server answers. Standard library only: the node's process 1 stays small."""

import ssl
import urllib.request
from pathlib import Path


def is_ready(url: str, keys: Path) -> bool:
    """Whether the API server at `url` calls itself ready to the administrator of `keys`."""
    context = ssl.create_default_context(cafile=keys / "ca.crt")
    context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
    try:
        with urllib.request.urlopen(f"{url}/readyz", context=context, timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False
