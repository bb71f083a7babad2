"""The grammar of generated video: what is sampled is a video, what is not one is refused where it goes wrong."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_lm import small_tokens
from test_tokens import random_tokens
from test_vocabulary import with_skipped_patches
from transformers import GenerationConfig, LogitsProcessorList

from videotok import TokensError
from videotok.lm.grammar import VideoForm, VideoGrammar, VideoGrammarProcessor
from videotok.lm.tiny import tiny_llama
from videotok.vocabulary import Vocabulary

TEXT, END = 20, 2


def small_vocabulary(patches=6, quantizers=2, global_motion=3, interleaved=False):
    return Vocabulary(
        TEXT,
        visual_size=9,
        motion_size=5,
        motion_quantizers=quantizers,
        motion_ids_per_quantizer=4,
        global_motion_size=7 if global_motion else 0,
        num_global_motion_ids=global_motion,
        patches=patches,
        interleaved=interleaved,
    )


def sample(grammar, batch, seed, sharpness=3.0):
    """Sample a batch under random logits, every step with other ones; returns the ids of each row."""
    generator = torch.Generator().manual_seed(seed)
    state, rows = grammar.start(batch), [[] for _ in range(batch)]
    while not state.is_finished.all():
        logits = sharpness * torch.randn(batch, grammar.vocabulary.size, generator=generator)
        # so that runs of patches come as often as visual ids, of which there are many more
        logits[:, grammar.vocabulary.drop.start :] += math.log(grammar.vocabulary.visual_size)
        logits = logits.masked_fill(~state.legal(grammar.vocabulary.size), -torch.inf)
        active = ~state.is_finished
        logits[~active] = 0
        ids = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
        state.advance(ids, active)
        for row, token in enumerate(ids.tolist()):
            rows[row] += [token] if active[row] else []
    state.check_finished()
    return rows


@settings(max_examples=40, deadline=None)
@given(
    clips=st.integers(1, 3),
    patches=st.integers(1, 7),
    quantizers=st.integers(0, 2),
    global_motion=st.sampled_from([0, 3]),
    can_skip=st.booleans(),
    interleaved=st.booleans(),
    max_ids=st.sampled_from([None, 1, 2, 4]),
    seed=st.integers(0, 999),
)
def test_whatever_is_sampled_is_a_video(
    clips, patches, quantizers, global_motion, can_skip, interleaved, max_ids, seed
):
    vocabulary = small_vocabulary(patches, 2, global_motion, interleaved)
    form = VideoForm(clips, quantizers, can_skip=can_skip, max_keyframe_ids=max_ids)
    grammar = VideoGrammar(vocabulary, form)
    for ids in sample(grammar, 3, seed):
        assert len(ids) <= clips * grammar.max_ids_per_clip
        found = vocabulary.clips(ids)
        assert len(found) == clips
        for number, clip in enumerate(found):
            assert clip.motion_ids.shape == (quantizers, 4)
            assert clip.global_motion_ids.shape == (global_motion,)
            assert clip.keep_mask.any() or clip.skip_mask.any()
            assert number or not clip.skip_mask.any()
            assert max_ids is None or len(clip.visual_ids) <= max_ids


@pytest.mark.parametrize("can_skip", [False, True])
def test_one_sequence_for_each_video(can_skip):
    like = small_tokens()
    vocabulary = Vocabulary.of(like, TEXT)
    grammar = VideoGrammar(vocabulary, VideoForm(3, 1, can_skip=can_skip))
    for ids in sample(grammar, 8, seed=0):
        tokens = vocabulary.tokens(ids, like)
        np.testing.assert_array_equal(vocabulary.ids(tokens), ids)
        assert tokens.skip_mask.any() == can_skip


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 99))
def test_every_video_is_in_the_grammar(clips, patches, seed):
    tokens = random_tokens(clips, patches, 2, 3, seed)
    if not tokens.keep_mask.any(1).all():
        tokens = replace(
            tokens,
            keep_mask=np.ones_like(tokens.keep_mask),
            visual_ids=np.zeros(clips * patches, np.int32),
            visual_offsets=np.arange(clips + 1, dtype=np.int64) * patches,
        )
    tokens = with_skipped_patches(tokens, seed)
    vocabulary = Vocabulary.of(tokens, TEXT)
    state = VideoGrammar(vocabulary, VideoForm(clips, 2, can_skip=True)).start()
    for token in vocabulary.ids(tokens):
        state.advance(torch.tensor([token]))
    state.check_finished()


def test_the_published_vocabulary():
    grammar = VideoGrammar(Vocabulary.published(), VideoForm(2, 1), patches=256)
    legal = grammar.start().legal(49412)
    assert legal.nonzero()[:, 1].tolist() == [32000]
    state = grammar.start()
    for token in [32000, *[32002] * 256]:
        state.advance(torch.tensor([token]))
    assert state.legal(49412).nonzero()[:, 1].tolist() == [32001]
    for token in [32001, 48386]:
        state.advance(torch.tensor([token]))
    assert state.legal(49412).nonzero()[:, 1].tolist() == list(range(48388, 49412))
    for ids in sample(VideoGrammar(Vocabulary.published(), VideoForm(2, 1, max_keyframe_ids=9), patches=256), 2, 0):
        assert [len(clip.motion_ids[0]) for clip in Vocabulary.published().clips(ids)] == [135, 135]
    with pytest.raises(ValueError, match="`patches`"):
        VideoGrammar(Vocabulary.published(), VideoForm())
    with pytest.raises(ValueError, match="no skip ids"):
        VideoGrammar(Vocabulary.published(), VideoForm(can_skip=True), patches=256)
    with pytest.raises(ValueError, match="the vocabulary has 1"):
        VideoGrammar(Vocabulary.published(), VideoForm(motion_quantizers=2), patches=256)


def test_keyframes_only_and_no_more_than_allowed():
    vocabulary = small_vocabulary()
    grammar = VideoGrammar(vocabulary, VideoForm(2, keyframes_only=True, max_keyframe_ids=2))
    for ids in sample(grammar, 4, 1):
        clips = vocabulary.clips(ids)
        assert len(clips) == 2
        assert not any(clip.motion_ids.size for clip in clips)


def names(vocabulary, *tokens):
    found = {vocabulary.name(token): token for token in range(vocabulary.size)}
    return [found[token] for token in tokens]


@pytest.mark.parametrize(
    ("before", "wrong", "message"),
    [
        ([], "<visual 0>", r"position 0 of the ids: found <visual 0>, expected \[IMG\]$"),
        (["[IMG]"], "[/IMG]", r"position 1 of the ids: found \[/IMG\], expected <visual 0> to <visual 8> or <drop 1>"),
        (["[IMG]", "<drop 2>"], "<drop 1>", "position 2 of the ids: found <drop 1>, expected <visual 0> to"),
        (["[IMG]", "<visual 1>", "<drop 4>"], "[/IMG]", r"position 3 of the ids: found \[/IMG\], expected <visual 0>"),
        (
            ["[IMG]", "<visual 1>"],
            "<drop 5>",
            "position 2 of the ids: found <drop 5>, expected .* <drop 1> to <drop 4>",
        ),
        (["[IMG]", "<visual 1>"], "text 7", r"position 2 of the ids: found text 7, expected \[/IMG\] or"),
        (["[IMG]", "<visual 1>"], "<skip 2>", "position 2 of the ids: found <skip 2>, expected"),
        (["[IMG]", "<visual 1>", "[/IMG]"], "[IMG]", r"position 3 of the ids: found \[IMG\], expected \[MOV\]"),
        (
            ["[IMG]", "<visual 1>", "[/IMG]", "[MOV]", "<global motion 0 6>"],
            "<global motion 0 1>",
            "position 5 of the ids: found <global motion 0 1>, expected <global motion 1 0> to <global motion 1 6>",
        ),
    ],
)
def test_what_is_not_a_video_is_refused_where_it_goes_wrong(before, wrong, message):
    vocabulary = small_vocabulary()
    state = VideoGrammar(vocabulary, VideoForm(1, 2)).start()
    for token in names(vocabulary, *before):
        state.advance(torch.tensor([token]))
    (token,) = names(vocabulary, wrong)
    with pytest.raises(TokensError, match=message):
        state.advance(torch.tensor([token]))


def test_truncated_finished_and_impossible_states_name_the_position():
    vocabulary = small_vocabulary(quantizers=0, global_motion=3)
    grammar = VideoGrammar(vocabulary, VideoForm(1, 0))
    video = ["[IMG]", "<visual 1>", "[/IMG]", "[MOV]", *(f"<global motion {n} 0>" for n in range(3)), "[/MOV]"]
    state = grammar.start(2)
    for number, token in enumerate(names(vocabulary, *video)):
        state.advance(torch.tensor([token, token]), torch.tensor([True, number < 3]))
    assert state.is_finished.tolist() == [True, False]
    with pytest.raises(TokensError, match=r"position 3 of the ids of row 1: found the end, expected \[MOV\]"):
        state.check_finished()
    with pytest.raises(
        TokensError, match=r"position 8 of the ids of row 0: found \[IMG\], expected nothing: all 1 clips"
    ):
        state.advance(torch.tensor([vocabulary.image_begin] * 2))
    processor = VideoGrammarProcessor(grammar, prompt_length=1)
    with pytest.raises(TokensError, match="position 0 of the ids: found scores that are all infinite or not a number"):
        processor(torch.zeros(1, 1, dtype=torch.long), torch.full((1, vocabulary.size), torch.nan))


def test_generate_of_transformers_writes_a_video():
    vocabulary = small_vocabulary()
    torch.manual_seed(0)
    model = tiny_llama(vocabulary.size + 5, width=16, layers=1, heads=2)  # with spare rows
    grammar = VideoGrammar(vocabulary, VideoForm(2, 2, can_skip=True), end_id=END)
    prompt = torch.tensor([[1, 5, 6], [1, 7, 8]])
    config = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=200, eos_token_id=END, pad_token_id=END)
    processor = VideoGrammarProcessor(grammar, prompt_length=3)
    ids = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), generation_config=config,
        logits_processor=LogitsProcessorList([processor]),
    )  # fmt: skip
    for row in ids[:, 3:]:
        end = int((row == END).nonzero()[0])
        assert len(vocabulary.clips(row[:end].numpy())) == 2
