"""Image archives, passed on as an OCI layout without the layers that the other side has.

An archive of `docker save` or `buildah push docker-archive:` holds a configuration and layers as
plain tar files. The digest of a plain layer stands in the configuration, so that the image's OCI
manifest can be told without reading a layer: https://github.com/opencontainers/image-spec.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hack.errors import Refusal

IMAGE = "application/vnd.oci.image"


@dataclass(frozen=True)
class Layer:
    """A layer: its file in the archive, the digest of its plain tar, its size in bytes."""

    member: str
    digest: str
    size: int


@dataclass(frozen=True)
class Archive:
    """What an image archive holds."""

    path: Path
    names: tuple[str, ...]
    config: bytes
    layers: tuple[Layer, ...]

    @classmethod
    def read(cls, path: Path) -> "Archive":
        """Read what is in the archive, but for the layers themselves.

        Raises:
            Refusal: there is no such file, or it is no image archive.
        """
        try:
            with tarfile.open(path) as tar:
                (image,) = json.loads(_content(tar, "manifest.json"))
                config = _content(tar, image["Config"])
                digests = json.loads(config)["rootfs"]["diff_ids"]
                members = [tar.getmember(name) for name in image["Layers"]]
                layers = [
                    Layer(member.name, digest, member.size)
                    for member, digest in zip(members, digests, strict=True)
                ]
                return cls(path, tuple(image["RepoTags"]), config, tuple(layers))
        except FileNotFoundError:
            raise Refusal(
                f"{path} does not exist: `python -m hack.images build` makes the archives."
            ) from None
        except (tarfile.TarError, OSError, KeyError, TypeError, ValueError):
            raise Refusal(
                f"{path} is no image archive: make one with `docker save` or "
                "`buildah push IMAGE docker-archive:FILE`."
            ) from None

    @property
    def manifest(self) -> bytes:
        """The image's OCI manifest."""
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{IMAGE}.manifest.v1+json",
                "config": _descriptor("config.v1+json", self.config),
                "layers": [
                    {
                        "mediaType": f"{IMAGE}.layer.v1.tar",
                        "digest": layer.digest,
                        "size": layer.size,
                    }
                    for layer in self.layers
                ],
            }
        )

    @property
    def digest(self) -> str:
        """The digest of the manifest: what containerd lists the image under."""
        return _digest(self.manifest)

    def missing(self, held: Collection[str]) -> list[Layer]:
        """The layers whose digests are not in `held`."""
        return [layer for layer in self.layers if layer.digest not in held]

    def write_layout(self, target: IO[bytes], name: str, held: Collection[str]) -> None:
        """Write a tar of the image as an OCI layout under a name, without the layers `held`."""
        with tarfile.open(self.path) as source, tarfile.open(fileobj=target, mode="w|") as layout:
            _add(layout, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _add(layout, "index.json", self._index(name))
            for blob in (self.config, self.manifest):
                _add(layout, _path(_digest(blob)), blob)
            for layer in self.missing(held):
                info = tarfile.TarInfo(_path(layer.digest))
                info.size = layer.size
                layout.addfile(info, source.extractfile(layer.member))

    def _index(self, name: str) -> bytes:
        named = {"annotations": {"io.containerd.image.name": name}}
        manifest = _descriptor("manifest.v1+json", self.manifest) | named
        return _json({"schemaVersion": 2, "manifests": [manifest]})


def _content(tar: tarfile.TarFile, member: str) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise KeyError(member)
    return file.read()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": f"{IMAGE}.{kind}", "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
