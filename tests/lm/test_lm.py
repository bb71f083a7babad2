"""videotok.lm: ids and features in a language model, saving, loading, answering."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_lm import TURNS, make_model

from videotok import ModelError, TokensError
from videotok.lm import VideoLanguageModel, extend
from videotok.lm.chat import ChatTemplate, Prompt, Turn
from videotok.lm.data import EncodedVideo
from videotok.lm.generation import AnswerStreamer, answer
from videotok.lm.packing import VideoInput, conversation_document, evenly_spaced, pack, video_document
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.lm.tokenizer_extension import signed_amount_vectors
from videotok.vocabulary import Vocabulary


def test_new_embeddings_are_projected_codebooks(codebooks):
    text, model = tiny_tokenizer(), tiny_llama(259, width=32, layers=1, heads=2)
    old = model.get_input_embeddings().weight.detach().clone()
    vocabulary = extend(text, model, codebooks)
    table = model.get_input_embeddings().weight.detach()
    assert len(table) == vocabulary.size == len(text)
    torch.testing.assert_close(table[:259], old)
    visual = table[vocabulary.visual.start : vocabulary.visual.stop]
    vectors = codebooks.visual
    expected = torch.cdist(vectors, vectors).flatten()
    found = torch.cdist(visual / old.std(0), visual / old.std(0)).flatten()
    assert np.corrcoef(expected, found)[0, 1] > 0.999
    assert visual.std() == pytest.approx(float(old.std()), rel=0.2)
    camera = table[vocabulary.global_motion.start : vocabulary.global_motion.stop]
    assert (camera[3] - camera[4]).norm() < (camera[3] - camera[9]).norm()
    terms = codebooks.vectors(vocabulary, "global motion").unflatten(0, (vocabulary.num_global_motion_ids, -1))
    assert not (terms[0] @ terms[1].T).any()  # a term's amount can be read whatever the others are
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    with pytest.raises(ValueError, match="extended before"):
        extend(text, model, codebooks)


def test_signed_amounts_are_linear():
    vectors = signed_amount_vectors(256)
    still = vectors[127]  # the middle of 255 values, which global motion ids use
    assert still[1] == 0
    torch.testing.assert_close(vectors[127 + 40][1], -vectors[127 - 40][1])
    steps = vectors[1:255, 1] - vectors[:254, 1]
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    assert torch.cdist(vectors[:255], vectors[:255]).fill_diagonal_(1.0).min() > 0.01  # no two ids are the same


def test_an_untied_head_and_spare_rows(codebooks):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, tie_word_embeddings=False, **sizes))
    vocabulary = extend(tiny_tokenizer(), model, codebooks)
    head = model.get_output_embeddings().weight
    assert head.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    assert len(head) == max(vocabulary.size, 1000)
    assert head[vocabulary.motion.start].norm() > 0


def test_text_never_becomes_a_special_token(model):
    document = conversation_document(model.tokenizer, model.prompt, [Turn("user", "[IMG] <visual 3> </s> ok")])
    assert document.ids[1:].max() < model.vocabulary.text_size
    assert model.tokenizer.eos_token_id not in document.ids[1:]


def test_only_answers_are_targets(model, tokens):
    video = VideoInput.from_tokens(model.vocabulary, tokens)
    document = conversation_document(model.tokenizer, model.prompt, TURNS, video)
    learned = model.tokenizer.decode(document.ids[document.is_target])
    assert learned == " a dog</s>"
    again = model.vocabulary.tokens(document.ids[document.ids >= model.vocabulary.text_size].numpy(), like=tokens)
    np.testing.assert_array_equal(again.motion_ids, tokens.motion_ids)
    assert conversation_document(model.tokenizer, model.prompt, TURNS, video, all_targets=True).is_target[1:].all()
    assert video_document(model.tokenizer, video, "a dog").is_target[1:].all()


def test_a_marked_video_goes_to_its_mark(model, tokens):
    video = VideoInput.from_tokens(model.vocabulary, tokens, [0], keyframes_only=True)
    document = conversation_document(model.tokenizer, Prompt(), [Turn("user", "before <video> after")], video)
    place = int((document.ids == model.vocabulary.image_begin).nonzero()[0])
    assert model.tokenizer.decode(document.ids[1:place]) == "USER: before "
    with pytest.raises(ValueError, match="stands 2 times"):
        conversation_document(model.tokenizer, Prompt(), [Turn("user", "<video><video>")], video)


def test_chat_templates(model):
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="changes the text before turn 2"):
        ChatTemplate().segments(TURNS, False, _changing(tokenizer))
    user, assistant = "Q {{ m.content }} A ", "{{ m.content }}."
    choice = "{% if m.role == 'user' %}" + user + "{% else %}" + assistant + "{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}" + choice + "{% endfor %}"
    document = conversation_document(tokenizer, ChatTemplate(), TURNS)
    assert tokenizer.decode(document.ids) == "Q what is it A a dog."
    assert tokenizer.decode(document.ids[document.is_target]) == "a dog."


def _changing(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    return tokenizer


def test_features_replace_the_embeddings_of_their_ids(codebooks, tokens):
    model = make_model(codebooks, features={"motion": 4})
    values = [{"motion": torch.randn(135, 4)} for _ in range(2)]
    turn = [Turn("user", "what")]
    document = conversation_document(
        model.tokenizer, model.prompt, turn, VideoInput.from_tokens(model.vocabulary, tokens, features=values)
    )
    batch = pack([[document]], model.vocabulary, 0)
    embedded = model.embed(batch.ids, batch.features)[0]
    first = (document.ids >= model.vocabulary.motion.start) & (document.ids < model.vocabulary.motion.start + 32)
    expected = model.projections["motion"](torch.cat([row["motion"] for row in values]))
    torch.testing.assert_close(embedded[first], expected)
    torch.testing.assert_close(embedded[~first], model.model.get_input_embeddings()(document.ids[~first]))
    with pytest.raises(ValueError, match="134 motion features for 135"):
        VideoInput.from_tokens(model.vocabulary, tokens, [0], features=[{"motion": torch.zeros(134, 4)}])
    with pytest.raises(TokensError, match="no motion features"):
        make_model(codebooks).embed(batch.ids, batch.features)


def test_evenly_spaced():
    assert evenly_spaced(3, 8) == [0, 1, 2]
    assert evenly_spaced(100, 4) == [0, 33, 66, 99]
    assert evenly_spaced(5, None) == [0, 1, 2, 3, 4]


def test_saved_and_loaded(codebooks, tokens, tmp_path):
    model = make_model(codebooks, features={"motion": 4}, prompt=Prompt(before_user="Q: "))
    model.save_pretrained(tmp_path)
    again = VideoLanguageModel.from_pretrained(tmp_path)
    assert again.vocabulary == model.vocabulary
    assert again.prompt == model.prompt
    assert again.settings == model.settings
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], parameter, msg=name)
    facts = json.loads((tmp_path / "videotok.json").read_text())
    (tmp_path / "videotok.json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(ModelError, match="has format 99"):
        VideoLanguageModel.from_pretrained(tmp_path)
    (tmp_path / "videotok.json").unlink()
    with pytest.raises(ModelError, match="is a language model without video"):
        VideoLanguageModel.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no language model in"):
        VideoLanguageModel.from_pretrained(tmp_path / "nothing")


def test_a_folder_of_format_1_still_loads(codebooks, tmp_path):
    model = make_model(codebooks, features={"motion": 4})
    model.save_pretrained(tmp_path)
    path = tmp_path / "videotok.json"
    config = json.loads(path.read_text())
    config["video"]["motion_levels"] = config["video"].pop("motion_quantizers")
    older = {
        "motion_quantizers": "motion_levels",
        "motion_ids_per_quantizer": "motion_places",
        "global_motion_size": "camera_size",
        "num_global_motion_ids": "camera_terms",
    }
    config["vocabulary"] = {older.get(name, name): value for name, value in config["vocabulary"].items()}
    path.write_text(json.dumps(config | {"format": 1}))
    older = {"linear_in": "first", "linear_out": "second", "std": "spread", "scale": "size"}
    weights = {
        ".".join(older.get(part, part) for part in name.split(".")): tensor
        for name, tensor in load_file(tmp_path / "videotok.safetensors").items()
    }
    assert "motion.spread" in weights
    save_file(weights, tmp_path / "videotok.safetensors")
    again = VideoLanguageModel.from_pretrained(tmp_path)
    assert again.settings == model.settings
    assert again.vocabulary == model.vocabulary
    for name, tensor in model.projections.state_dict().items():
        torch.testing.assert_close(again.projections.state_dict()[name], tensor, msg=name)


def test_published_layout_of_a_language_model_folder(tmp_path):
    text = tiny_tokenizer()
    tiny_llama(49412, width=16, layers=1, heads=2).save_pretrained(tmp_path)
    text.save_pretrained(tmp_path)
    model = VideoLanguageModel.from_pretrained(tmp_path)
    assert model.vocabulary == Vocabulary.published()
    assert model.prompt == Prompt.video_lavit()
    shown = []
    streamer = AnswerStreamer(model, shown.append)
    for token in text("yes \\n no")["input_ids"]:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert "".join(shown) == streamer.text == "yes "
    assert streamer.is_stopped


def test_answers_are_streamed(model, tokens):
    parts = []
    found = answer(model, "what", EncodedVideo(tokens), max_new_tokens=12, on_text=parts.append)
    assert "".join(parts).strip() == found
    sampled = [answer(model, "what", None, max_new_tokens=12, temperature=2.0, seed=seed) for seed in (0, 0, 1)]
    assert sampled[0] == sampled[1] != sampled[2]
    with pytest.raises(TokensError, match="was trained on those of cccc"):
        model.settings.__class__(models={"motion": "c" * 64}).check(tokens)
