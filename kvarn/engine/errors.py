"""The one error of the plugin."""


class UnsupportedError(Exception):
    """What was asked for does not go with the cache; the message names the option to change.

    Not a ValueError, because pydantic would wrap that in a page of its own.
    """
