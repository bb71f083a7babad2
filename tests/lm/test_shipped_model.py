"""The language model that ships with videotok: what it answers about made clips, and what it refuses."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from codec import REPRODUCIBLE, VideoWriter
from videotok import TokensError
from videotok.cli.main import main
from videotok.lm.data import EncodedVideo
from videotok.lm.generation import answer
from videotok.lm.loading import load_language_model, shipped_language_model
from videotok.virtual_camera import Layer, Pose, Scene, constant_speed, photograph

FPS, SIZE = 12, (256, 144)
MOTIONS = {
    "left": constant_speed(pan=(-0.1, 0.0)),
    "right": constant_speed(pan=(0.1, 0.0)),
    "up": constant_speed(pan=(0.0, -0.15)),
    "down": constant_speed(pan=(0.0, 0.15)),
}


@pytest.fixture(scope="module")
def loaded():
    return load_language_model()


@pytest.fixture(scope="module")
def pans(tmp_path_factory):
    """Direction -> a video of 25 frames whose camera moves that way."""
    folder, found = tmp_path_factory.mktemp("pans"), {}
    for name, path in MOTIONS.items():
        found[name] = folder / f"{name}.mp4"
        scene = Scene([Layer(photograph("coffee"), path)], SIZE)
        with VideoWriter(found[name], Fraction(FPS), SIZE, options=REPRODUCIBLE) as writer:
            for frame in scene.frames(index / FPS for index in range(24)):
                writer.write(frame)
    return found


def test_it_is_small_and_knows_the_shipped_tokenizers(loaded):
    model = loaded.model
    assert sum(parameter.numel() for parameter in model.model.parameters()) <= 15_000_000
    assert sum(path.stat().st_size for path in shipped_language_model().iterdir()) <= 30_000_000
    assert set(model.settings.models) == {"keyframes", "motion"}
    for part, sha256 in model.settings.models.items():
        assert loaded.tokenizer.bundle.identity(part).sha256 == sha256
    assert (shipped_language_model() / "README.md").read_text().startswith("---\n"), "a card as the hub reads it"


def test_it_tells_which_way_the_camera_moves(loaded, pans):
    torch.manual_seed(0)
    for direction, path in pans.items():
        tokens = loaded.tokenizer.encode(path, loaded.model.settings.encode_config)
        for question in ("which way does the camera move?", "In which direction does the camera move"):
            assert answer(loaded.model, question, EncodedVideo(tokens)) == direction, (direction, question)


def test_the_middle_of_a_longer_video_counts(loaded, tmp_path):
    """Like a camera that follows something: at rest for two seconds, then four of a pan, then at rest again."""

    def path(seconds):
        return Pose(-0.1 * min(max(seconds - 2, 0), 4), 0)

    scene, file = Scene([Layer(photograph("coffee"), path)], SIZE), tmp_path / "long.mp4"
    with VideoWriter(file, Fraction(FPS), SIZE, options=REPRODUCIBLE) as writer:
        for frame in scene.frames(index / FPS for index in range(96)):
            writer.write(frame)
    tokens = loaded.tokenizer.encode(file, loaded.model.settings.encode_config)
    assert answer(loaded.model, "which way does the camera move?", EncodedVideo(tokens)) == "left"


def test_the_command_needs_no_model(pans, capsys):
    assert main(["lm", "ask", str(pans["left"]), "which way does the camera move?"]) == 0
    assert capsys.readouterr().out.strip() == "left"


def test_what_is_refused(pans, tmp_path, tiny_model, capsys, loaded):
    clip = str(pans["left"])
    assert main(["lm", "ask", clip, "what", "--lm", str(tmp_path)]) == 2
    assert "no language model in" in capsys.readouterr().err
    assert main(["encode", clip, "-o", str(tmp_path / "other.vtok"), "--model", str(tiny_model), "--fps", "12"]) == 0
    capsys.readouterr()
    assert main(["lm", "ask", str(tmp_path / "other.vtok"), "what"]) == 2
    assert "this language model was trained on those of" in " ".join(capsys.readouterr().err.split())
    tokens = loaded.tokenizer.encode(pans["left"], loaded.model.settings.encode_config)
    with pytest.raises(TokensError, match=r"question and video take .* ask a shorter question"):
        answer(loaded.model, "why " * 2000, EncodedVideo(tokens))
    assert main(["lm", "train", clip, "-o", str(tmp_path / "run"), "--recipe", "shipped"]) == 2
    assert "--recipe takes one folder" in capsys.readouterr().err


def test_the_same_answer_whatever_the_threads(loaded, pans):
    tokens = EncodedVideo(loaded.tokenizer.encode(pans["up"], loaded.model.settings.encode_config))
    threads = torch.get_num_threads()
    found = set()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.add(answer(loaded.model, "describe the video", tokens, max_new_tokens=12))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
    assert np.any([word in next(iter(found)) for word in ("up", "upwards")])
