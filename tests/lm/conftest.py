"""Small tokens, codebooks and a model, for the tests of language models."""

import pytest
from small_lm import make_model, small_codebooks, small_tokens


@pytest.fixture(scope="module")
def tokens():
    return small_tokens()


@pytest.fixture(scope="module")
def codebooks(tokens):
    return small_codebooks(tokens)


@pytest.fixture(scope="module")
def model(codebooks):
    return make_model(codebooks)
