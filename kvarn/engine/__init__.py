"""The vLLM plugin and the launcher that pods run."""
