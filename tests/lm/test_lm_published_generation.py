"""Generation with models of the published classes and layout: text or a picture to video, and to pictures."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lavit_files import small_parts, write_checkpoint, write_language_model

from codec import probe
from videotok import VideoTokens
from videotok.cli.main import main
from videotok.config import DecodeConfig
from videotok.lavit import image_decoder
from videotok.lavit.conversion import convert
from videotok.lavit.weight_map import PARTS
from videotok.lm import video_generation
from videotok.lm.loading import load_language_model
from videotok.lm.sampling import SamplingConfig, default_sampling, sample_ids
from videotok.lm.video_generation import VideoGenerator, VideoPrompt
from videotok.pipeline import VideoTokenizer


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, part in small_parts({"keyframes": 16384, "motion": 1024}).items():
        monkeypatch.setitem(PARTS, name, part)
    # the published ones: 1024 x 1024 pixels in 50 steps
    monkeypatch.setitem(image_decoder.ImageDecoder.__init__.__kwdefaults__, "size", (32, 32))
    monkeypatch.setitem(image_decoder.ImageDecoder.__init__.__kwdefaults__, "num_inference_steps", 4)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The published folder with the model that generates, converted."""
    published = write_checkpoint(tmp_path / "published", image_decoder=True)
    write_language_model(published / "language_model", embedded=False)
    convert(published, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_text_and_pictures_to_video(bundle: Path, tmp_path: Path, monkeypatch, capsys):
    prompts = []

    def recorded(model, conditional, state, sampling, generators, unconditional, **options):
        prompts.append((conditional[0], unconditional[0]))
        return sample_ids(model, conditional, state, sampling, generators, unconditional, **options)

    monkeypatch.setattr(video_generation, "sample_ids", recorded)
    lm, out = bundle / "language_model", tmp_path / "out.mp4"
    options = ["--lm", str(lm), "--size", "64x32"]
    assert main(["lm", "generate", "a cat", "--seconds", "5", "-o", str(out), *options]) == 0
    assert capsys.readouterr().err == ""
    assert probe(out).duration_seconds == pytest.approx(5)
    # bare text without a beginning of the sequence, then [IMG]; guidance away from [IMG] alone
    loaded = load_language_model(lm, str(bundle), "ids")
    text = loaded.model.tokenizer("a cat", add_special_tokens=False)["input_ids"]
    assert prompts[0][0].tolist() == [*text, 32000]
    assert prompts[0][1].tolist() == [32000]
    # the second clip reads the first one: [IMG], up to 16 visual ids, [/IMG], [MOV], 135 motion ids, [/MOV]
    assert prompts[1][0][-136:-2].min() >= 48388
    assert default_sampling(loaded.model) == SamplingConfig(top_k=200, guidance=4.0)
    picture = tmp_path / "picture.png"
    cv2.imwrite(str(picture), np.full((32, 64, 3), 90, np.uint8))
    tokens = tmp_path / "out.vtok"
    assert (
        main(["lm", "generate", "a cat", "--image", str(picture), "--seconds", "1", "-o", str(tokens), *options]) == 0
    )
    assert VideoTokens.load(tokens).motion_source == "mpeg4"
    assert prompts[2][0][-1] == 48386
    assert main(["lm", "generate", "a cat", "-o", str(tmp_path / "out.png"), *options]) == 0
    assert cv2.imread(str(tmp_path / "out.png")).shape == (32, 64, 3)


def test_keyframes_start_from_the_last_frame(bundle: Path):
    loaded = load_language_model(bundle / "language_model", str(bundle), "ids")
    generator = VideoGenerator(loaded.model, loaded.tokenizer)
    assert generator.mode == "constrained"
    prompt = VideoPrompt(("a",))
    clips = list(generator.generate([prompt], 5.0, size=(64, 32)))
    frames = [clip.frames for clip in generator.frames(clips)]
    assert [len(part) for part in frames] == [24, 6]
    assert [len(clip.frames) for clip in clips] == [24, 6]
    # the model decodes forward, each clip by itself, so nothing changes when they are decoded later
    config = DecodeConfig(bidirectional=False)
    again = next(loaded.tokenizer.detokenize([clips[0].shown], config)).frames
    np.testing.assert_array_equal(again, frames[0])


def test_a_constrained_image_starts_from_the_one_before(bundle: Path):
    model = VideoTokenizer.from_pretrained(bundle).keyframes
    ids, mask = [torch.arange(5)], torch.ones(1, 16, dtype=torch.bool)
    assert model.decode(ids, mask, previous=torch.zeros(1, 3, 40, 60)).shape == (1, 3, 32, 32)
    decoder = model.image_decoder
    decoder.num_inference_steps = 20
    tokens, pooled = decoder.condition([model.codes[:5]])
    conditions = torch.cat([torch.zeros_like(tokens), tokens]), torch.cat([torch.zeros_like(pooled), pooled])
    free = decoder._sample(*conditions, None)
    near = [decoder._sample(*conditions, torch.full_like(free, value)) for value in (-5.0, 5.0)]
    # the last three of twenty steps have little noise
    assert near[0].mean() < -3
    assert near[1].mean() > 3
