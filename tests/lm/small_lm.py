"""A small language model that reads small videos, from scratch and untrained."""

from dataclasses import replace

import numpy as np
import torch
from test_tokens import made

from videotok.lm import Codebooks, VideoLanguageModel, extend
from videotok.lm.chat import Turn
from videotok.lm.model import VideoSettings
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.tokens import VideoTokens
from videotok.vocabulary import Vocabulary

TURNS = [Turn("user", "what is it"), Turn("assistant", "a dog")]
SIZES = {"visual": 64, "motion": 32, "camera": 16}


def small_tokens() -> VideoTokens:
    """Two clips of random ids below `SIZES`."""
    found = made(clips=2, patches=13, levels=2, camera=5)
    rng = np.random.default_rng(0)
    return replace(
        found,
        codebooks=SIZES,
        visual_ids=rng.integers(0, 64, found.visual_ids.shape, np.int32),
        motion_ids=rng.integers(0, 32, found.motion_ids.shape, np.int32),
        global_motion_ids=rng.integers(0, 16, found.global_motion_ids.shape, np.int32),
    )


def small_codebooks(tokens: VideoTokens) -> Codebooks:
    """Random words of every kind of id that the tokens have."""
    generator = torch.Generator().manual_seed(0)
    sizes = Vocabulary.of(tokens, 1).facts()
    del sizes["text_size"]
    return Codebooks(torch.randn(64, 8, generator=generator), torch.randn(2, 32, 8, generator=generator), sizes)


def make(codebooks, features=None, prompt=None, seed=0):
    torch.manual_seed(seed)
    text = tiny_tokenizer()
    model = tiny_llama(len(text), width=32, layers=2, heads=2)
    vocabulary = extend(text, model, codebooks)
    return VideoLanguageModel(model, text, vocabulary, prompt, VideoSettings("6", 2, None), features).eval()
