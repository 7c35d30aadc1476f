"""The demo: trains a small model, serves it from a quantised cache, scales, rolls and drains it."""
