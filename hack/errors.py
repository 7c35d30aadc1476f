"""What a person can put right: one sentence that names the remedy, exit status 2."""

import click


class Refusal(click.ClickException):
    """A tool cannot go on; the message says why and what to do about it."""

    exit_code = 2
