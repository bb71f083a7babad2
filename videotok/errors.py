"""The errors of this room. Their messages are one line: what came, what is allowed, what to try."""


class TokensError(Exception):
    """Tokens that cannot be read, or that do not belong to the model, video or request at hand."""


class ModelError(Exception):
    """Weights that cannot be found or loaded."""


class CorpusError(Exception):
    """A corpus that cannot be read, written or continued."""
