"""The entry point that vLLM loads.

vLLM swallows what goes wrong while it imports an entry point, but not what goes wrong while it
calls one. So this module imports nothing, and the work begins with the call.
"""

from importlib import import_module


def register() -> None:
    """Make the KVarN formats known to this process's vLLM; calling it again changes nothing."""
    import_module("kvarn.engine.registration").register_formats()
