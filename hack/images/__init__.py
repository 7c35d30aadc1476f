"""The container images, built with buildah where there is no Docker and no registry."""
