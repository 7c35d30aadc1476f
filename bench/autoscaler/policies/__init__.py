"""The policies: the operator's own, its rivals with their defaults, and fixed sizes."""
