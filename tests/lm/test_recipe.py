"""The recipe of the shipped language model: its loss, wordings and documents, a tiny run, and a run that resumes."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from small_lm import TURNS, make_model

from codec import MediaError
from videotok.lm import extend
from videotok.lm.grammar import VideoForm, VideoGrammar
from videotok.lm.model import VideoSettings
from videotok.lm.motion_questions import labeled_videos
from videotok.lm.motion_questions.scenes import ANSWERS, CAMERA, COUNT, SPEED, ZOOM
from videotok.lm.motion_questions.wordings import HELD_OUT_QUESTIONS, QUESTIONS, describe, question_turns
from videotok.lm.packing import VideoInput, conversation_document, generation_document, generation_prompt, pack
from videotok.lm.recipe import documents, material, second_stage
from videotok.lm.recipe import run as recipe_run
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.pipeline import VideoTokenizer
from videotok.virtual_camera import photograph


def test_the_loss_is_over_what_the_grammar_allows(codebooks, tokens):
    model = make_model(codebooks)
    video = VideoInput.from_tokens(model.vocabulary, tokens)
    document = generation_document(model.tokenizer, "a dog", video)
    batch = pack([[document]], model.vocabulary, 0)
    with torch.no_grad():
        found = model.legal_losses(batch)
        logits = model.model(batch.ids).logits[0]
    grammar = VideoGrammar(model.vocabulary, VideoForm(num_clips=2, motion_quantizers=2))
    state, begin, expected = grammar.start(), int(document.is_target.nonzero()[0]), {}
    for place in range(begin, len(document) - 1):
        ranges, label = state.ranges()[0], int(document.ids[place])
        is_legal = state.legal(model.vocabulary.size)[0]
        if (ranges[:, 1] - ranges[:, 0]).clamp(min=0).sum() > 1 and label not in model.vocabulary.visual:
            kind = "motion" if label in model.vocabulary.motion else "global motion"
            if state.place[0] == 3:  # inside of the motion; keyframes have a loss over all runs of dropped patches
                scores = logits[place - 1].masked_fill(~is_legal, -torch.inf)
                expected.setdefault(kind, []).append(F.cross_entropy(scores, torch.tensor(label)))
        state.advance(torch.tensor([label]))
    assert set(found) == {"keyframe", "global motion", "motion", "text"}
    for kind, losses in expected.items():
        torch.testing.assert_close(found[kind].sort().values, torch.stack(losses).sort().values)
    keyframe_ids = sum(len(clip.visual_ids) for clip in model.vocabulary.clips(video.ids.numpy()))
    assert len(found["keyframe"]) >= keyframe_ids + 2, "visual ids, and the end of both keyframes"


def test_fixed_visual_ids_get_no_gradient_from_the_head(codebooks, tokens):
    gradients = []
    for fixed in (False, True):
        model = make_model(codebooks)
        document = generation_document(model.tokenizer, "", VideoInput.from_tokens(model.vocabulary, tokens))
        losses = model.legal_losses(pack([[document]], model.vocabulary, 0), fixed_visual=fixed)
        losses["keyframe"].sum().backward()
        gradients.append(model.model.get_input_embeddings().weight.grad)
    visual, seen = make_model(codebooks).vocabulary.visual, tokens.visual_ids
    unseen = torch.tensor([visual.start + code for code in range(visual.size) if code not in seen])
    assert (gradients[0][unseen] != 0).any()
    assert not (gradients[1][unseen] != 0).any()


def test_a_picture_and_a_text_begin_the_same_document(codebooks, tokens):
    model = make_model(codebooks)
    both = VideoInput.from_tokens(model.vocabulary, tokens)
    keyframe = VideoInput.from_tokens(model.vocabulary, tokens, [0], keyframes_only=True)
    document = generation_document(model.tokenizer, " a dog ", both)
    prompt = generation_prompt(model.tokenizer, "a dog")
    begin = torch.cat([prompt, keyframe.ids])
    assert document.ids[: len(begin)].tolist() == begin.tolist()
    assert document.is_target.sum() == len(both.ids) + 1
    assert not document.is_target[: len(prompt)].any()
    assert generation_prompt(model.tokenizer, "").tolist() == [model.tokenizer.bos_token_id]
    typed = generation_prompt(model.tokenizer, "[IMG]</s>")
    assert model.tokenizer.eos_token_id not in typed
    assert (typed < model.vocabulary.text_size).all()


def test_rows_without_names(codebooks):
    text = tiny_tokenizer()
    model, size = tiny_llama(len(text), width=32, layers=1, heads=2), len(text)
    vocabulary = extend(text, model, codebooks, add_tokens=False)
    assert len(text) == size == vocabulary.text_size
    assert len(model.get_input_embeddings().weight) == vocabulary.size


def test_a_clip_that_is_cut_off_is_left_out(tokens):
    assert VideoSettings().clips(tokens) == [0, 1]
    assert VideoSettings(complete_clips=True).clips(tokens) == [0]
    assert VideoSettings(complete_clips=True).clips(tokens.part(1, 2)) == [0], "the only clip is read"
    assert VideoSettings(tokens_per_keyframe=9).encode_config.tokens_per_keyframe == 9


def test_wordings():
    for question, wordings in QUESTIONS.items():
        assert wordings[0] == question
        assert len(set(wordings)) == len(wordings)
        assert not set(wordings) & set(HELD_OUT_QUESTIONS[question])
    others = [wording for question in QUESTIONS for wording in QUESTIONS[question]]
    assert len(set(others)) == len(others), "a wording asks one thing"
    rng = np.random.default_rng(0)
    answers = {CAMERA: "left", SPEED: "faster"}
    texts = {describe(answers, rng) for _ in range(200)}
    assert len(texts) > 30
    assert all("left" in text for text in texts)
    assert any("faster" in text or "speeds up" in text for text in texts)
    for question, possible in ANSWERS.items():
        if question == SPEED:  # of something else
            continue
        assert len({describe({question: answer}, np.random.default_rng(1)) for answer in possible}) == len(possible)
    turns = question_turns(answers, rng)
    pairs = {turn.text.lower().rstrip("?"): reply.text for turn, reply in zip(turns[::2], turns[1::2], strict=True)}
    assert [pairs[text] for text in pairs if text in QUESTIONS[CAMERA]] == ["left"]
    assert [pairs[text] for text in pairs if text in QUESTIONS[SPEED]] == ["faster"]
    still = [turn.text for turn in question_turns({COUNT: "0"}, rng)]
    assert "it stands still" in still
    assert "no" in still


@pytest.fixture(scope="module")
def footage(tmp_path_factory, clip_mp4):
    """A folder as the recipe reads it."""
    folder = tmp_path_factory.mktemp("footage")
    (folder / material.PHOTOS).mkdir()
    for number in range(8):
        picture = np.roll(photograph("chelsea"), 20 * number, axis=1)
        cv2.imwrite(str(folder / material.PHOTOS / f"{number}.png"), picture)
    for name in (material.STILL, material.MOVING):
        (folder / name).mkdir()
        for number in range(6):
            (folder / name / f"take{chr(97 + number)}.mp4").write_bytes(clip_mp4.read_bytes())
    labels = [{"file": "takea.mp4", "instruction": "Move the cup."}, {"file": "takeb.mp4", "instruction": "Wait"}]
    text = "\n".join(map(json.dumps, labels))
    (folder / material.STILL / material.INSTRUCTIONS).write_text(text)
    return folder


def test_a_run_and_its_resumption(footage, tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(labeled_videos, "KIND_SHARES", {"pan": 0.5, "count": 0.5})
    monkeypatch.setattr(labeled_videos, "FOOTAGE_SHARE", 0.0)
    monkeypatch.setattr(documents, "ROWS", {"global motion": 4, "motion": 2, "keyframes": 2})
    monkeypatch.setattr(second_stage, "SECOND_ROWS", dict.fromkeys(second_stage.SECOND_ROWS, 1))
    monkeypatch.setattr(second_stage, "REAL_FILES", {material.MOVING: 1})
    tokenizer = VideoTokenizer.from_pretrained(str(tiny_model))
    tiny = recipe_run.Recipe(scenes=6, photographs=3, footage=4, width=64, layers=1).limited(
        seed=0, save_every=2, steps=8
    )
    tiny = replace(tiny, plan=replace(tiny.plan, precision="no"), second_plan=replace(tiny.second_plan, precision="no"))
    assert (tiny.plan.steps, tiny.second_plan.steps) == (6, 2)
    steps = []
    record = recipe_run.run(
        footage, tmp_path / "whole", tokenizer, tiny, report=lambda step, figures: steps.append(step)
    )
    assert steps == list(range(1, 9))
    first, second = record["first stage"], record["second stage"]
    assert first["data"]["scenes"] == 6 * len(material.VARIANTS)
    assert first["data"]["videos"] == 4
    assert sum(second["data"]["real windows"].values()) > 0
    for stage in (first, second):
        assert all(np.isfinite(value) for value in stage["validation"][-1].values())

    class Killed(Exception):
        pass

    def kill(step, figures):
        if step == stop:
            raise Killed

    stopped = tmp_path / "stopped"
    stopped.mkdir()
    (stopped / "material").symlink_to(tmp_path / "whole" / "material")
    for stop in (3, 8):
        with pytest.raises(Killed):
            recipe_run.run(footage, stopped, tokenizer, tiny, resume=stop == 8, report=kill)
    with pytest.raises(FileExistsError):
        recipe_run.run(footage, stopped, tokenizer, tiny)
    recipe_run.run(footage, stopped, tokenizer, tiny, resume=True)
    weights = [load_file(run / "float16" / "model.safetensors") for run in (tmp_path / "whole", stopped)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    model = recipe_run.new_model(footage, tokenizer, tiny)
    table = model.model.get_input_embeddings().weight
    visual = model.vocabulary.visual
    saved = weights[0]["model.embed_tokens.weight"][visual.start : visual.stop]
    torch.testing.assert_close(saved, table[visual.start : visual.stop].half(), msg="visual ids stay as they began")
    assert material.instructions(footage) == {"takea.mp4": "move the cup", "takeb.mp4": "wait"}


def test_a_folder_that_lacks_something_is_named(tmp_path, tiny_model):
    with pytest.raises(MediaError, match="no folder photos2"):
        recipe_run.run(tmp_path, tmp_path / "out", VideoTokenizer.from_pretrained(str(tiny_model)), recipe_run.Recipe())


def test_answers_are_targets_and_descriptions_are_not(codebooks):
    model = make_model(codebooks)
    vocabulary = model.vocabulary
    motion = [vocabulary.global_motion.start + term * vocabulary.global_motion_size for term in range(5)]
    ids = [vocabulary.motion_begin, *motion, *[vocabulary.motion.start] * 135, vocabulary.motion_end]
    scene = material.Scene(torch.tensor(ids), {ZOOM: "closer", SPEED: "slower"})
    drawer = documents.Documents(model, material.Material([scene], [torch.tensor([vocabulary.image_begin])], []))
    rng = np.random.default_rng(0)
    drawn = [drawer.of_global_motion(rng) for _ in range(40)]
    texts = [str(model.tokenizer.decode(each.ids[each.ids < vocabulary.text_size])) for each in drawn]
    asked = [each for each, text in zip(drawn, texts, strict=True) if "USER" in text]
    assert 10 < len(asked) < 35
    for each in asked:
        answers = str(model.tokenizer.decode(each.ids[each.is_target]))
        assert "closer" in answers
        assert "slower" in answers
        assert "USER" not in answers
    for each in drawn:
        if not any(each is other for other in asked):
            assert (each.ids[each.is_target][:-1] >= vocabulary.text_size).all()
    assert len(conversation_document(model.tokenizer, model.prompt, TURNS)) > 0
