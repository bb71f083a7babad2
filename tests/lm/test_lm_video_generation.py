"""videotok.lm.video_generation: prompts of every kind, reproducible, in bounded context, shown as they are stored."""

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_lm_grammar import sample

from codec import probe
from videotok import ModelError, TokensError, VideoTokenizer, VideoTokens
from videotok.cli.main import main
from videotok.config import DecodeConfig, EncodeConfig
from videotok.lm import video_generation
from videotok.lm.generated_video import video_tokens
from videotok.lm.grammar import VideoForm, VideoGrammar
from videotok.lm.loading import new_tiny_model
from videotok.lm.model import VideoSettings
from videotok.lm.sampling import CachedModel, SamplingConfig, default_sampling, sample_ids
from videotok.lm.video_generation import VideoGenerator, VideoPrompt, generate_video
from videotok.virtual_camera import photograph

SIZE = (64, 48)
STORED = ("visual_ids", "keep_mask", "skip_mask", "motion_ids", "global_motion_ids", "num_frames")


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return VideoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    weights = {part: tokenizer.bundle.identity(part).sha256 for part in ("keyframes", "motion")}
    settings = VideoSettings("12", 1, max_clips=3, models=weights)
    return new_tiny_model(tokenizer, settings, False, width=32, layers=2).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def picture():
    return cv2.resize(photograph("chelsea"), SIZE, interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def picture_file(picture, tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "cat.png"
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return path


def one_video(generator, prompt, seconds):
    """Return clips, tokens and frames of one video."""
    videos = generator.begin([prompt], SIZE)
    clips = list(generator.generate([prompt], seconds, videos=videos))
    frames = np.concatenate([clip.frames for clip in generator.frames(clips)])
    return clips, video_tokens(clips, videos[0]), frames


def assert_same(a, b):
    for name in STORED:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(quantizers=st.integers(0, 1), can_skip=st.booleans(), seed=st.integers(0, 99))
def test_whatever_the_logits_are_the_ids_are_a_video_that_decodes(
    model, tokenizer, clip_mp4, quantizers, can_skip, seed
):
    like = tokenizer.encode(clip_mp4, EncodeConfig(max_clips=1, motion_quantizers=quantizers))
    grammar = VideoGrammar(model.vocabulary, VideoForm(2, quantizers, can_skip=can_skip))
    (ids,) = sample(grammar, 1, seed)
    tokens = model.vocabulary.tokens(ids, like)
    np.testing.assert_array_equal(model.vocabulary.ids(tokens), ids)
    frames = np.stack(list(tokenizer.decode(tokens, DecodeConfig(size=SIZE))))
    assert frames.shape == (48, 48, 64, 3)


def test_text_to_video_is_reproducible_saved_and_decoded(model, tokenizer, tmp_path):
    generator = VideoGenerator(model, tokenizer)
    clips, tokens, frames = one_video(generator, VideoPrompt(("a dog",)), 2.5)
    assert [clip.is_new for clip in clips] == [True, True]
    assert frames.shape == (30, 48, 64, 3)
    assert tokens.num_frames.tolist() == [24, 6]
    assert tokens.keep_mask[0].any()
    # the second keyframe is the first one, warped
    assert tokens.skip_mask[1].all()
    assert not tokens.pictures
    tokens.save(tmp_path / "a.vtok")
    decoded = np.stack(list(tokenizer.decode(VideoTokens.load(tmp_path / "a.vtok"))))
    assert decoded.shape[0] == 30
    again = generate_video(model, tokenizer, "a dog", seconds=2.5)
    assert_same(again, tokens)
    other = generate_video(model, tokenizer, "a dog", seconds=0.1, sampling=SamplingConfig(seed=1))
    assert not np.array_equal(other.motion_ids[0], tokens.motion_ids[0])


@pytest.mark.parametrize("keyframes", ["encoded", "generated"])
def test_keyframes_that_are_not_predicted(model, tokenizer, keyframes):
    tokens = generate_video(model, tokenizer, "a dog", seconds=2.5, keyframes=keyframes)
    assert tokens.keep_mask.any(axis=1).all()
    assert not tokens.skip_mask.any()


def test_rows_of_a_batch_are_those_of_single_videos(model, tokenizer):
    texts = ("a", "a longer text")
    prompts = [VideoPrompt((text,)) for text in texts]
    sampling = SamplingConfig(temperature=0.8, top_k=20, top_p=0.9, guidance=2.0, seed=5)
    generator = VideoGenerator(model, tokenizer, sampling)
    videos = generator.begin(prompts)
    clips = list(generator.generate(prompts, 3.0, videos=videos))
    assert [clip.row for clip in clips] == [0, 1, 0, 1]
    for row, text in enumerate(texts):
        tokens = video_tokens([clip for clip in clips if clip.row == row], videos[row])
        single = VideoGenerator(model, tokenizer, replace(sampling, seed=5 + row))
        alone = single.begin([VideoPrompt((text,))])
        assert_same(tokens, video_tokens(list(single.generate([VideoPrompt((text,))], 3.0, videos=alone)), alone[0]))


def test_a_picture_is_the_first_keyframe(model, tokenizer, picture):
    generator = VideoGenerator(model, tokenizer)
    start = generator.encode_picture(picture)
    assert start.is_picture
    clips, tokens, frames = one_video(generator, VideoPrompt(("the camera moves",), start), 4.0)
    np.testing.assert_array_equal(tokens.visual_ids_of(0), start.visual_ids)
    # the picture itself is shown, not what its ids say
    shown = clips[0].shown.keyframe[0].movedim(0, -1).numpy()
    assert np.abs((shown + 1) * 127.5 - picture).mean() < 4
    # what is stored with the tokens is what was shown: keyframes are the pictures, so the frames are the same
    assert len(tokens.pictures) == tokens.num_clips == 2
    np.testing.assert_array_equal(np.stack(list(tokenizer.decode(tokens, DecodeConfig(size=SIZE)))), frames)


def test_predicted_keyframes_are_those_of_the_decoder(model, tokenizer, picture):
    generator = VideoGenerator(model, tokenizer)
    start = replace(generator.encode_picture(picture), pictures=())
    _, tokens, frames = one_video(generator, VideoPrompt(("",), start), 4.0)
    decoded = np.stack(list(tokenizer.decode(tokens, DecodeConfig(size=SIZE))))
    assert tokens.skip_mask[1].all()
    # the decoder encodes the prediction once more, which rounds
    assert np.abs(decoded.astype(int) - frames).max() <= 2


def test_a_video_is_continued(model, tokenizer, clip_mp4):
    generator = VideoGenerator(model, tokenizer)
    start = generator.encode_start(clip_mp4)
    # the last whole clip of three seconds, up to the end
    assert start.num_frames.tolist() == [24]
    assert start.start_seconds == pytest.approx(1.0, abs=0.1)
    clips, tokens, frames = one_video(generator, VideoPrompt((), start), 1.0)
    assert [clip.is_new for clip in clips] == [False, True]
    assert tokens.num_frames.tolist() == [24, 12]
    assert len(frames) == 36
    np.testing.assert_array_equal(tokens.motion_ids[0], start.motion_ids[0])
    assert len(tokens.pictures) == 2


def test_motion_of_the_clip_before_is_repeated(model, tokenizer, clip_mp4):
    sampling = SamplingConfig(seed=5)
    generators = [VideoGenerator(model, tokenizer, replace(sampling, repeat=repeat)) for repeat in (0, 100)]
    prompt = VideoPrompt((), generators[0].encode_start(clip_mp4).part(0, 1))
    same = []
    for generator in generators:
        first, *new = [clip.ids for clip in generator.generate([prompt], 4)]
        same.append([np.mean(clip.motion_ids == first.motion_ids) for clip in new])
        same.append([np.mean(clip.global_motion_ids == first.global_motion_ids) for clip in new])
    assert max(same[0] + same[1]) < 0.9
    assert min(same[2] + same[3]) == 1, "the second new clip repeats the first one"
    generator = VideoGenerator(model, tokenizer, replace(sampling, repeat=100), "generated")
    assert len(list(generator.generate([prompt], 2))) == 2, "of sampled keyframes nothing is in the same place"


def test_pictures_and_texts_in_any_order(model, tokenizer, picture):
    generator = VideoGenerator(model, tokenizer)
    found = generator.encode_picture(picture)
    prompt = VideoPrompt.from_text("ab <image> c<image>", [found, found])
    ids, vocabulary = generator._prompt_ids(prompt), model.vocabulary
    keyframe = vocabulary.ids(found, [0], keyframes_only=True).tolist()
    a, c = (model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("ab", "c"))
    assert ids.tolist() == [model.tokenizer.bos_token_id, *a, *keyframe, *c, *keyframe]
    (clip,) = generator.generate_pictures([prompt], size=SIZE)
    assert clip.shown.keyframe.shape == (1, 3, 48, 64)
    assert len(clip.ids.visual_ids)
    with pytest.raises(ValueError, match="1 times <image> for 0 pictures"):
        VideoPrompt.from_text("a <image>")
    with pytest.raises(ValueError, match="must be text or the tokens of a picture"):
        VideoPrompt((replace(found, num_frames=np.array([5], np.int32)),))


def test_context_and_memory_do_not_grow_with_the_video(model, tokenizer, monkeypatch):
    lengths = []

    def recorded(model, prompts, *args, **options):
        lengths.append(len(prompts[0]))
        return sample_ids(model, prompts, *args, **options)

    monkeypatch.setattr(video_generation, "sample_ids", recorded)
    generator = VideoGenerator(model, tokenizer)
    video = generator.begin([VideoPrompt(("a",))])
    seen = list(generator.generate([VideoPrompt(("a",))], 8.0, videos=video))
    assert len(seen) == 4
    # a document of training has three clips: two before the one that is generated
    assert len(video[0].context) == 2
    assert lengths[0] < lengths[1] < lengths[2]
    assert lengths[3] < 2 * lengths[1] + 10
    # a model that reads less is given less
    monkeypatch.setattr(model.model.config, "max_position_embeddings", 420)
    lengths.clear()
    list(generator.generate([VideoPrompt(("a",))], 4.0))
    assert max(lengths) + 161 <= 420


def test_the_cache_gives_the_logits_of_a_whole_pass(model):
    prompts = [torch.tensor([1, 50, 60, 70]), torch.tensor([1])]
    cached, ids = CachedModel(model, 2), [list(prompt) for prompt in prompts]
    logits = cached.read_prompts(prompts)
    for token in (80, 90, 300):
        for row in ids:
            row.append(torch.tensor(token))
        logits = cached.read(torch.tensor([token, token]))
    for row, found in zip(ids, logits, strict=True):
        whole = model.model(torch.stack(row)[None]).logits[0, -1]
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=1e-4)


def test_guidance_moves_away_from_what_is_predicted_without_the_text(model):
    grammar = VideoGrammar(model.vocabulary, VideoForm(1, 1))
    prompt, free = torch.tensor([1, 50, 60]), torch.tensor([1])

    def sampled(prompt, unconditional, guidance):
        sampling = SamplingConfig(guidance=guidance)
        given = None if unconditional is None else [unconditional]
        return sample_ids(model, [prompt], grammar.start(), sampling, sampling.generators(1), given)[0].tolist()

    alone, without = sampled(prompt, None, 1.0), sampled(free, None, 1.0)
    assert sampled(prompt, free, 1.0) == alone != without
    assert sampled(prompt, free, 0.0) == without
    assert sampled(prompt, free, 4.0) not in (alone, without)
    greedy = SamplingConfig(temperature=0)
    rows = [sample_ids(model, [prompt], grammar.start(), greedy, greedy.generators(1))[0].tolist() for _ in range(2)]
    assert rows[0] == rows[1]


def test_what_does_not_fit_is_refused(model, tokenizer, other_model, clip_mp4, picture, monkeypatch):
    with pytest.raises(ModelError, match="reads motion features"):
        VideoGenerator(_with_features(tokenizer), tokenizer)
    with pytest.raises(TokensError, match=r"keyframes weights of other.* name the video weights"):
        VideoGenerator(model, VideoTokenizer.from_pretrained(other_model))
    with pytest.raises(ModelError, match=r"shipped has visual 16384, .* the language model's vocabulary 64"):
        VideoGenerator(model, VideoTokenizer.from_pretrained())
    generator = VideoGenerator(model, tokenizer)
    with pytest.raises(TokensError, match=r"clip\.mp4 is a video"):
        generator.encode_picture(clip_mp4)
    slow = tokenizer.encode(clip_mp4, EncodeConfig(fps=Fraction(6), predict_keyframes=False))
    with pytest.raises(TokensError, match="have 6 frames a second, the language model 12"):
        next(generator.generate([VideoPrompt((), slow)], 1))
    with pytest.raises(ValueError, match="must be at least one frame"):
        next(generator.generate([VideoPrompt(("a",))], 0.01))
    with pytest.raises(ValueError, match="give one of them"):
        generate_video(model, tokenizer, image=picture, video=clip_mp4)
    with pytest.raises(ValueError, match="give a text"):
        generate_video(model, tokenizer)
    with pytest.raises(TokensError, match=r"the prompt takes 5001 tokens and a clip .* this language model reads 4096"):
        next(generator.generate([VideoPrompt(("a" * 5000,))], 1))


def _with_features(tokenizer):
    model = new_tiny_model(tokenizer, VideoSettings(), False, width=16, layers=1)
    model.set_features({"motion": 8})
    return model


@pytest.mark.parametrize(
    ("name", "value"), [("temperature", -1), ("top_k", -1), ("top_p", 0.0), ("guidance", 101), ("repeat", -1)]
)
def test_sampling_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        SamplingConfig(**{name: value})


def test_the_command(folder, tiny_model, picture_file, clip_mp4, tmp_path, capsys):
    def run(*arguments):
        options = ["--lm", str(folder), "--video-model", str(tiny_model)]
        return main(["lm", "generate", *map(str, arguments), *options])

    out, again = tmp_path / "out.mp4", tmp_path / "again.mp4"
    begin = ["it moves", "--image", picture_file, "--seconds", "0.5"]
    assert run(*begin, "-o", out) == 0
    assert "6 frames, 222x166 at 12 fps, 0.50 s of video" in capsys.readouterr().out
    assert probe(out).duration_seconds == pytest.approx(0.5)
    assert run(*begin, "-o", again) == 0
    assert out.read_bytes() == again.read_bytes()
    tokens = tmp_path / "a.vtok"
    assert run("--video", clip_mp4, "--seconds", "1", "-o", tokens) == 0
    assert VideoTokens.load(tokens).num_frames.tolist() == [24, 12]
    assert run("--video", tokens, "--seconds", "1", "-o", tmp_path / "b.vtok") == 2
    assert "predicted from clip 0" in capsys.readouterr().err
    picture = tmp_path / "out.png"
    assert run("like this", "--image", picture_file, "-o", picture) == 0
    assert cv2.imread(str(picture)).shape == (144, 256, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to generate from"),
        (["a", "--seconds", "0"], "--seconds 0 must be above 0 and at most 3600"),
        (["a", "--seconds", "nan"], "--seconds nan must be above 0"),
        (["a", "--seconds", "0.01"], "--seconds 0.01 is less than a frame, 1/12"),
        (["a <image>"], "the text has 1 times <image> for 0 times --image"),
        (["a", "--image", "{picture}", "--image", "{picture}"], "2 times --image"),
        (["a", "--image", "{picture}", "--video", "{clip}"], "both say how the result begins"),
        (["a", "--video", "{clip}", "-o", "{tmp}/a.png"], "a picture cannot continue a --video"),
        (["a", "--image", "{tmp}/none.png"], "none.png"),
        (["a", "--image", "{text}"], "broken.png"),
        (["a", "--image", "{clip}"], "clip.mp4 is a video"),
        (["a", "--video", "{picture}"], "cat.png has"),
        (["a", "--top-p", "0"], "--top-p (=0.0) must be above 0"),
        (["a", "--lm", "{tmp}"], "no language model in"),
        (["a", "--video-model", "{other}"], "name the video weights that it was trained with"),
        (["{long}"], "the prompt takes 5001 tokens"),
    ],
)  # fmt: skip
def test_what_the_command_refuses(
    arguments, message, folder, tiny_model, other_model, picture_file, clip_mp4, tmp_path, capsys
):
    (tmp_path / "broken.png").write_text("no picture")
    names = dict(tmp=tmp_path, picture=picture_file, clip=clip_mp4, other=other_model, long="a" * 5000)
    given = [argument.format(text=tmp_path / "broken.png", **names) for argument in arguments]
    out = tmp_path / "out.mp4"
    defaults = {"--lm": str(folder), "--video-model": str(tiny_model), "-o": str(out)}
    for option, value in defaults.items():
        given += [] if option in given else [option, value]
    assert main(["lm", "generate", *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_defaults_of_sampling_are_those_of_the_model(model, tokenizer, monkeypatch):
    monkeypatch.setattr(model, "settings", replace(model.settings, guidance=3.0, temperature=0.7))
    assert default_sampling(model) == SamplingConfig(temperature=0.7, guidance=3.0)
    assert VideoGenerator(model, tokenizer).sampling == SamplingConfig(temperature=0.7, guidance=3.0)
