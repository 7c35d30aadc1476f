"""Tools for developers: a real local Kubernetes, and the container images."""
