"""A small language model that reads small videos, from scratch and untrained."""

from fractions import Fraction

import numpy as np
import torch

from codec import ClipSpec
from videotok.lm import Codebooks, VideoLanguageModel, extend
from videotok.lm.chat import Turn
from videotok.lm.model import VideoSettings
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.tokens import ModelIdentity, SourceFacts, VideoTokens
from videotok.vocabulary import Vocabulary

TURNS = [Turn("user", "what is it"), Turn("assistant", "a dog")]
SIZES = {"visual": 64, "motion": 32, "global_motion": 16}


def small_tokens() -> VideoTokens:
    """Two clips of random ids below `SIZES`: 13 patches, two motion quantizers, five global motion ids."""
    rng = np.random.default_rng(0)
    keep_mask = rng.random((2, 13)) < 0.5
    counts = keep_mask.sum(axis=1)
    return VideoTokens(
        spec=ClipSpec(),
        source=SourceFacts("clip.mp4", 12345, "h264", 640, 360, 90, 5.5, Fraction(30000, 1001)),
        motion_source="native",
        models={"keyframes": ModelIdentity("shipped", "a" * 64), "motion": ModelIdentity("shipped", "b" * 64)},
        codebooks=SIZES,
        visual_ids=rng.integers(0, SIZES["visual"], counts.sum(), np.int32),
        visual_offsets=np.cumsum([0, *counts], dtype=np.int64),
        keep_mask=keep_mask,
        motion_ids=rng.integers(0, SIZES["motion"], (2, 2, 135), np.int32),
        global_motion_ids=rng.integers(0, SIZES["global_motion"], (2, 5), np.int32),
        num_frames=np.array([24, 7], np.int32),
        pts_seconds=np.array([0.0, 2.0]),
        damaged=np.zeros(2, bool),
    )


def small_codebooks(tokens: VideoTokens) -> Codebooks:
    """Random codebook vectors for every kind of id that the tokens have."""
    generator = torch.Generator().manual_seed(0)
    sizes = Vocabulary.of(tokens, 1).to_dict()
    del sizes["text_size"]
    return Codebooks(torch.randn(64, 8, generator=generator), torch.randn(2, 32, 8, generator=generator), sizes)


def make_model(codebooks, features=None, prompt=None, seed=0) -> VideoLanguageModel:
    """A tiny Llama extended by the codebooks' ids."""
    torch.manual_seed(seed)
    text = tiny_tokenizer()
    model = tiny_llama(len(text), width=32, layers=2, heads=2)
    vocabulary = extend(text, model, codebooks)
    settings = VideoSettings(motion_quantizers=2, max_clips=None)
    return VideoLanguageModel(model, text, vocabulary, prompt, settings, features).eval()
