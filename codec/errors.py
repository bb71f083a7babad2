"""The error that this package raises for files it cannot read or write."""


class MediaError(Exception):
    """A media file cannot be read, or an output cannot be written.

    The message is one line that says what is wrong, what is allowed and what to try.
    """
