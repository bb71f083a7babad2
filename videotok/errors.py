"""Errors that a user can cause. Each message is one line: what came, what is allowed, what to try."""


class TokensError(Exception):
    """Tokens that cannot be read, or that do not fit the model, video or request."""


class ModelError(Exception):
    """Weights or a device that cannot be found or used."""


class CorpusError(Exception):
    """A corpus that cannot be read, written or continued."""
