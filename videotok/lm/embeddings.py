"""The table of a language model's input embeddings"""

from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel


def embeddings(model: PreTrainedModel) -> Tensor:
    """The table of input embeddings, [ids, width]."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight
