"""Vocabulary: videos as sequences of ids, and back."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokens import assert_same, random_tokens, uneven_tokens

from videotok import TokensError
from videotok.vocabulary import Vocabulary

TEXT = 100


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 3), st.integers(0, 4), st.integers(0, 99), st.booleans())
def test_videos_come_back(clips, patches, quantizers, global_motion, seed, interleaved):
    tokens = random_tokens(clips, patches, quantizers, global_motion, seed)
    vocabulary = Vocabulary.of(tokens, TEXT, motion_quantizers=3, interleaved=interleaved)
    ids = vocabulary.ids(tokens)
    assert ids.min() >= TEXT
    assert ids.max() < vocabulary.size
    assert_same(vocabulary.tokens(ids, like=tokens), tokens)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 99), st.booleans())
def test_clips_of_different_quantizers_come_back(clips, quantizers, seed, interleaved):
    tokens = uneven_tokens(clips, quantizers, seed)
    vocabulary = Vocabulary.of(tokens, TEXT, interleaved=interleaved)
    assert_same(vocabulary.tokens(vocabulary.ids(tokens), like=tokens), tokens)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(1, 20), st.integers(0, 99))
def test_skipped_patches_come_back(clips, patches, seed):
    tokens = with_skipped_patches(random_tokens(clips, patches, seed=seed), seed)
    vocabulary = Vocabulary.of(tokens, TEXT)
    back = vocabulary.tokens(vocabulary.ids(tokens), like=tokens)
    assert_same(back, tokens)
    np.testing.assert_array_equal(back.skip_mask, tokens.skip_mask)


def with_skipped_patches(tokens, seed):
    """Return the same tokens with some of the dropped patches skipped instead."""
    skipped = ~tokens.keep_mask & (np.random.default_rng([seed, 1]).random(tokens.keep_mask.shape) < 0.5)
    skipped[0] = False
    return replace(tokens, skip_mask=skipped)


def test_predicted_clips_need_the_clip_before():
    tokens = with_skipped_patches(random_tokens(3, 40), 0)
    with pytest.raises(TokensError, match=r"clip 2 .* has patches predicted from clip 1"):
        Vocabulary.of(tokens, TEXT).ids(tokens, [0, 2])
    with pytest.raises(TokensError, match="which this vocabulary has no ids for"):
        Vocabulary.published().ids(tokens)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 99))
def test_the_published_layout_comes_back_with_a_given_mask(clips, seed):
    tokens = random_tokens(clips, 256, 1, 0, seed)
    ids = Vocabulary.published().ids(tokens)
    assert_same(Vocabulary.published().tokens(ids, tokens, tokens.keep_mask), tokens)
    assert len(ids) == len(tokens.visual_ids) + clips * (135 + 4)
    with pytest.raises(TokensError, match="`keep_mask`"):
        Vocabulary.published().tokens(ids, tokens)


def test_published_numbers():
    vocabulary = Vocabulary.published()
    assert [vocabulary.image_begin, vocabulary.image_end, vocabulary.visual.start] == [32000, 32001, 32002]
    assert [vocabulary.motion_begin, vocabulary.motion_end, vocabulary.motion.start] == [48386, 48387, 48388]
    assert vocabulary.size == 49412
    assert vocabulary.name(32002 + 16383) == "<visual 16383>"
    assert vocabulary.name(49411) == "<motion 0 1023>"


def test_ids_follow_each_other_without_a_gap():
    vocabulary = Vocabulary.of(random_tokens(), TEXT)
    names = vocabulary.new_names()
    assert len(set(names)) == len(names) == vocabulary.size - TEXT
    assert [span.start for span in vocabulary.spans[1:]] == [span.stop for span in vocabulary.spans[:-1]]


def test_clips_past_the_given_ones_are_complete():
    tokens = random_tokens(clips=2)
    vocabulary = Vocabulary.of(tokens, TEXT)
    ids = vocabulary.ids(tokens)
    longer = vocabulary.tokens(np.concatenate([ids, ids]), like=tokens)
    assert longer.num_frames.tolist() == [24, 7, 24, 24]
    np.testing.assert_allclose(np.diff(longer.pts_seconds), 2.0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_wrong_id_is_named_with_its_position(data):
    """Whatever replaces one id, it is another video or the error names a position that is not before it."""
    tokens = random_tokens(2, 13, 2, 5)
    vocabulary = Vocabulary.of(tokens, TEXT, interleaved=data.draw(st.booleans()))
    ids = vocabulary.ids(tokens)
    position = data.draw(st.integers(0, len(ids) - 1))
    ids[position] = data.draw(st.integers(0, vocabulary.size + 5))
    message = _refusal(vocabulary, ids)
    found = re.match(r"position (\d+) of the ids: found .+, expected .+", message)
    assert message == "" or found, message
    assert not found or position <= int(found[1])


def _refusal(vocabulary, ids):
    try:
        vocabulary.clips(ids)
    except TokensError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([5], r"position 0 .* found text 5, expected \[IMG\]"),
        ([100, 101, 102], r"position 2 .* found <visual 0>, expected \[IMG\]"),
        ([100], r"position 1 .* found the end, expected \[/IMG\]"),
        ([100, 999999], r"position 1 .* found 999999, past the end of the vocabulary"),
    ],
)
def test_messages(ids, message):
    with pytest.raises(TokensError, match=message):
        Vocabulary.of(random_tokens(), TEXT).clips(ids)


def test_more_patches_than_a_keyframe_has():
    tokens = random_tokens(1, patches=13)
    vocabulary = Vocabulary.of(tokens, TEXT)
    with pytest.raises(TokensError, match="a keyframe has 13 patches, this would be number 14"):
        vocabulary.clips([vocabulary.image_begin, vocabulary.drop.stop - 2, *[vocabulary.visual.start] * 2])


def test_other_weights_are_refused():
    with pytest.raises(TokensError, match="13 patches per keyframe, the vocabulary has 14"):
        Vocabulary.of(random_tokens(patches=14), TEXT).ids(random_tokens(patches=13))
    with pytest.raises(TokensError, match="3 motion quantizers, the vocabulary has 2"):
        Vocabulary.of(random_tokens(quantizers=2), TEXT).ids(random_tokens(quantizers=3))
    with pytest.raises(TokensError, match="5 global-motion ids per clip, the vocabulary has 0"):
        Vocabulary.published().ids(random_tokens(patches=256, quantizers=1))


def test_sizes_make_an_equal_vocabulary():
    vocabulary = Vocabulary.of(random_tokens(), TEXT, interleaved=True)
    assert Vocabulary.from_dict(vocabulary.to_dict()) == vocabulary
    with pytest.raises(ValueError, match="text_size"):
        Vocabulary(0)


def test_sizes_of_earlier_versions_are_read():
    old = {"text_size": 9, "motion_levels": 3, "motion_places": 7, "camera_size": 5, "camera_terms": 2, "patches": 4}
    vocabulary = Vocabulary.from_dict(old)
    assert vocabulary == Vocabulary(
        9,
        motion_quantizers=3,
        motion_ids_per_quantizer=7,
        global_motion_size=5,
        num_global_motion_ids=2,
        patches=4,
    )
    assert [vocabulary.name(vocabulary.size - 8), vocabulary.name(vocabulary.size - 1)] == ["<drop 1>", "<skip 4>"]
