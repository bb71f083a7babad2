"""The model class for lmms-eval, with a stand-in for lmms-eval that has the parts of its interface that are used."""

import sys
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

from videotok import VideoTokenizer
from videotok.lm.loading import new_tiny_model
from videotok.lm.model import VideoSettings


class Base:
    """What lmms-eval's base class gives: documents by task and split."""

    def __init__(self):
        self.task_dict = {}


@pytest.fixture
def lmms_eval(monkeypatch):
    """The stand-in, and the module of videotok that is imported on top of it."""
    api, models = ModuleType("lmms_eval.api.model"), ModuleType("lmms_eval.models.registry_v2")
    api.lmms = Base  # pyright: ignore[reportAttributeAccessIssue]
    models.ModelManifest = lambda model_id, **paths: SimpleNamespace(model_id=model_id, **paths)  # pyright: ignore[reportAttributeAccessIssue]
    parts = {name: ModuleType(name) for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models")}
    for name, module in (parts | {"lmms_eval.api.model": api, "lmms_eval.models.registry_v2": models}).items():
        monkeypatch.setitem(sys.modules, name, module)
    yield import_module("videotok.lm.lmms_eval")
    sys.modules.pop("videotok.lm.lmms_eval", None)


@pytest.fixture(scope="module")
def tiny_lm(tmp_path_factory):
    """The folder of a language model with random weights."""
    torch.manual_seed(0)
    model = new_tiny_model(VideoTokenizer.from_pretrained(), VideoSettings(), False, width=32, layers=1)
    model.save_pretrained(folder := tmp_path_factory.mktemp("lm"))
    return folder


@pytest.fixture
def model(lmms_eval, tiny_lm, tmp_path):
    return lmms_eval.VideotokModel(lm=str(tiny_lm), cache=str(tmp_path / "videos"), device="cpu", max_batch_size=None)


def ask(model, visuals, **options):
    """Ask one question about a document with these visuals, as lmms-eval does."""
    model.task_dict = {"task": {"test": [{"visuals": visuals}]}}
    request = SimpleNamespace(args=("what is it?", options, lambda document: document["visuals"], 0, "task", "test"))
    (text,) = model.generate_until([request])
    return text


def test_the_entry_point_names_the_class(lmms_eval):
    (point,) = entry_points(group="lmms_eval.models", name="videotok")
    module, _, name = point.load()().simple_class_path.rpartition(".")
    assert getattr(import_module(module), name) is lmms_eval.VideotokModel


def test_videos_pictures_and_text_are_asked_about(model, clip_mp4, tmp_path):
    long = ask(model, [str(clip_mp4)], max_new_tokens=12)
    assert isinstance(long, str)
    assert ask(model, [str(clip_mp4)], max_new_tokens=12, temperature=0) == long
    assert len(list((tmp_path / "videos").glob("*.vtok"))) == 1
    if long:
        assert ask(model, [str(clip_mp4)], max_new_tokens=12, until=[long[:1]]) == ""
    picture = Image.new("RGB", (40, 30), "red")
    assert isinstance(ask(model, [picture], max_new_tokens=2), str)
    assert isinstance(ask(model, [], max_new_tokens=2), str)


def test_what_cannot_be_asked(model, lmms_eval, tiny_lm, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert ask(model, [str(broken)]) == ""
    assert "answered by nothing" in capsys.readouterr().out
    with pytest.raises(ValueError, match="2 pictures or videos in one question"):
        ask(model, ["a.mp4", "b.mp4"])
    with pytest.raises(NotImplementedError, match="generate_until"):
        model.loglikelihood([])
    with pytest.raises(ValueError, match="must be 1"):
        lmms_eval.VideotokModel(lm=str(tiny_lm), batch_size=4)
    with pytest.raises(ValueError, match="unknown model_args colour"):
        lmms_eval.VideotokModel(lm=str(tiny_lm), colour="red")
