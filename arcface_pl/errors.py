"""The base of every exception that tells a user of a mistake or a fault that the user can do something about."""

__all__ = ["UserError"]


class UserError(ValueError):
    """A setting, file or picture that cannot be used: the message names it, what it got and what it accepts.

    The command line prints such a message on one line, without a traceback, and exits with code 2.
    """
