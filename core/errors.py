"""The exception for mistakes that users can fix."""


class UserError(Exception):
    """A wrong input. The message says in one line what is wrong, where, and what to do.

    The scripts print the message on stderr, without a traceback, and exit with status 2.
    """
