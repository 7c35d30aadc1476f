"""The operations on cached pages that the engine calls."""
