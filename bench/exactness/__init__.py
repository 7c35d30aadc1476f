"""Exactness of the whole engine on a GPU."""
