"""The one error of the plugin."""


class UnsupportedError(ValueError):
    """What was asked for does not go with the cache; the message names the option to change."""
