"""The one error of this room."""


class MediaError(Exception):
    """A media file that cannot be read, or an output that cannot be written.

    The message is one line: what came, what is allowed, what to try. The command line prints it and exits with 2.
    """
