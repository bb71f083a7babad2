"""A tiny language model from scratch: small enough to train on a CPU, nothing to download."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")


def tiny_tokenizer(texts: Sequence[str] = (), size: int = 4096) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on `texts`, with at most `size` tokens.

    Without texts every byte is a token: 259 tokens with padding, beginning and end.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def tiny_llama(
    vocab_size: int, *, width: int = 128, layers: int = 3, heads: int = 4, length: int = 4096
) -> LlamaForCausalLM:
    """Return a Llama with tied embeddings and random weights.

    Args:
        vocab_size: number of ids.
        width: of the hidden states; divisible by `heads`.
        layers: number of transformer blocks.
        heads: attention heads.
        length: most positions of a sequence.
    """
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=length,
        tie_word_embeddings=True,
        initializer_range=width**-0.5,  # the default 0.02 suits widths above 1000; a narrow model would barely train
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)
