"""What the understanding model is given of a question about a video: our row of embeddings beside the reference's"""

import types
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from benchmarks import parity_cases as cases
from benchmarks.parity_reference import Reference, decided_images, not_initialised, their_tokenizer
from codec import ClipSpec
from videotok.lavit.weight_map import PARTS, build
from videotok.lm.chat import Prompt, Turn
from videotok.lm.model import VideoLanguageModel
from videotok.lm.packing import VideoInput, conversation, pack
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.tokens import ModelIdentity, SourceFacts, VideoTokens
from videotok.vocabulary import Vocabulary

QUESTION = "what is the man doing?"
WIDTH = 64
"""Of the embeddings; 4096 in the published model."""
CONFIG = {**cases.KEYFRAMES, "language_width": WIDTH}


def text_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes; begins every text with its mark of a beginning, as Llama's does."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])  # type: ignore[assignment]
    return tokenizer


def table() -> Tensor:
    """Embeddings of the published vocabulary, float [49412, WIDTH]."""
    return cases.drawn("embeddings", (Vocabulary.published().size, WIDTH))


def motion_ids() -> Tensor:
    """int64 [2, 135] in [0, 1024)."""
    return (cases.drawn("motion ids", (2, 135)).abs() * 1000).long() % 1024


def our_language(config: Mapping[str, Any]) -> dict[str, Tensor]:
    keyframes = build(PARTS["keyframes"], cases.weights("keyframes", config), config)
    images, mask = cases.pictures(config), cases.keep_decision(keyframes.num_patches)
    found = keyframes.encode(images, keep_mask=mask)
    llama = tiny_llama(Vocabulary.published().size, width=WIDTH, layers=1, heads=2)
    llama.get_input_embeddings().weight.copy_(table())  # type: ignore[operator, union-attr]
    model = VideoLanguageModel(
        llama, text_tokenizer(), Vocabulary.published(), Prompt.published(), features={"visual": None}
    )
    features = [{"visual": row} for row in keyframes.language_features(images, mask)]
    video = VideoInput.of(model.vocabulary, _tokens(found.ids, mask), features=features)
    document = conversation(model.tokenizer, model.prompt, [Turn("user", QUESTION)], video)
    batch = pack([[document]], model.vocabulary, model.padding)
    return {"embeddings": model.embed(batch.ids, batch.features)[0]}


def _tokens(ids: list[Tensor], mask: Tensor) -> VideoTokens:
    unknown = ModelIdentity("random", "0" * 64)
    return VideoTokens(
        spec=ClipSpec(fps=Fraction(6)),
        source=SourceFacts("none", 0, "none", 56, 56, 0, 8.0, Fraction(6)),
        motion_source="mpeg4",
        models={"keyframes": unknown, "motion": unknown},
        codebooks={"visual": 16384, "motion": 1024, "camera": 1024},
        visual_ids=torch.cat(ids).numpy().astype(np.int32),
        visual_offsets=np.cumsum([0, *map(len, ids)], dtype=np.int64),
        keep_mask=mask.numpy(),
        motion_ids=motion_ids()[:, None].numpy().astype(np.int32),
        global_motion_ids=np.zeros((2, 0), np.int32),
        num_frames=np.full(2, 24, np.int32),
        pts_seconds=np.arange(2) * 4.0,
        damaged=np.zeros(2, bool),
        start_seconds=0.0,
    )


def their_language(reference: Reference, config: Mapping[str, Any]) -> dict[str, Tensor]:
    with not_initialised():
        visual, images, _ = their_tokenizer(reference, config)
    module, runner, talk = reference.language()
    # the mark that its runner puts before a question, and the words around both
    conversation = talk.default_conversation.copy()
    conversation.append_message(conversation.roles[0], talk.DEFAULT_VIDEO_TOKEN + "\n" + QUESTION)
    conversation.append_message(conversation.roles[1], None)
    prompt = conversation.get_prompt()
    mark, name = talk.VIDEO_TOKEN_INDEX, talk.DEFAULT_VIDEO_TOKEN
    ids = runner.tokenizer_image_token(prompt, text_tokenizer(), mark, name, return_tensors="pt")[None]
    motion = types.SimpleNamespace(get_tokens=lambda _: {"token": motion_ids()})
    model = types.SimpleNamespace(
        visual_tokenizer=visual, motion_tokenizer=motion, embed_tokens=nn.Embedding.from_pretrained(table())
    )
    # its class would build a transformer of billions first
    whole = types.SimpleNamespace(
        get_model=lambda: model,
        get_motion_tower=lambda: motion,
        config=types.SimpleNamespace(tokenizer_padding_side="left"),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    owner = module.VideoLaVITLlamaForCausalLM
    for method in ("encode_visual_features", "compute_motion_embeds", "prepare_inputs_labels_for_multimodal"):
        setattr(whole, method, types.MethodType(getattr(owner, method), whole))
    seen = [((images, torch.zeros(2, 2, 24, 20, 36)), "video")]
    decided_images(reference, cases.keep_decision(visual.encoder.pos_embed.shape[1] - 1))
    given = whole.prepare_inputs_labels_for_multimodal(ids, None, torch.ones_like(ids), None, None, seen)
    return {"embeddings": given[4][0]}
