"""Serving speed of cache formats in a real vLLM: steps of decoding, and three workloads."""
