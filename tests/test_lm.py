"""videotok.lm: ids and features in a language model, trained, saved, asked"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_tokens import made

from videotok import ModelError, TokensError
from videotok.cli.main import main
from videotok.lm import Codebooks, VideoLanguageModel, extend
from videotok.lm.answer import Written, answer
from videotok.lm.codebooks import amounts
from videotok.lm.documents import VideoInput, conversation, evenly, film
from videotok.lm.model import VideoSettings
from videotok.lm.packing import IGNORED, first_fit, pack
from videotok.lm.prompt import ChatTemplate, Prompt, Turn
from videotok.lm.shards import samples
from videotok.lm.start import new_model
from videotok.lm.store import Kept
from videotok.lm.tiny import tiny_llama, tiny_tokenizer
from videotok.lm.train import Plan, train
from videotok.vocabulary import Vocabulary

TURNS = [Turn("user", "what is it"), Turn("assistant", "a dog")]


@pytest.fixture(scope="module")
def tokens():
    found = made(clips=2, patches=13, levels=2, camera=5)
    rng = np.random.default_rng(0)
    small = {"visual": 64, "motion": 32, "camera": 16}
    return replace(
        found,
        codebooks=small,
        visual_ids=rng.integers(0, 64, found.visual_ids.shape, np.int32),
        motion_ids=rng.integers(0, 32, found.motion_ids.shape, np.int32),
        camera_ids=rng.integers(0, 16, found.camera_ids.shape, np.int32),
    )


@pytest.fixture(scope="module")
def codebooks(tokens):
    generator = torch.Generator().manual_seed(0)
    sizes = Vocabulary.of(tokens, 1).facts()
    del sizes["text_size"]
    return Codebooks(torch.randn(64, 8, generator=generator), torch.randn(2, 32, 8, generator=generator), sizes)


def make(codebooks, features=None, prompt=None, seed=0):
    torch.manual_seed(seed)
    text = tiny_tokenizer()
    model = tiny_llama(len(text), width=32, layers=2, heads=2)
    vocabulary = extend(text, model, codebooks)
    return VideoLanguageModel(model, text, vocabulary, prompt, VideoSettings("6", 2, None), features).eval()


@pytest.fixture(scope="module")
def model(codebooks):
    return make(codebooks)


def test_new_embeddings_are_the_codebooks_seen_through_a_projection(codebooks):
    text, model = tiny_tokenizer(), tiny_llama(259, width=32, layers=1, heads=2)
    old = model.get_input_embeddings().weight.detach().clone()
    vocabulary = extend(text, model, codebooks)
    table = model.get_input_embeddings().weight.detach()
    assert len(table) == vocabulary.size == len(text)
    torch.testing.assert_close(table[:259], old)
    visual = table[vocabulary.visual.start : vocabulary.visual.stop]
    words = codebooks.visual
    expected = torch.cdist(words, words).flatten()
    found = torch.cdist(visual / old.std(0), visual / old.std(0)).flatten()
    assert np.corrcoef(expected, found)[0, 1] > 0.999
    assert visual.std() == pytest.approx(float(old.std()), rel=0.2)
    camera = table[vocabulary.camera.start : vocabulary.camera.stop]
    assert (camera[3] - camera[4]).norm() < (camera[3] - camera[9]).norm()
    terms = codebooks.words(vocabulary, "camera").unflatten(0, (vocabulary.camera_terms, -1))
    assert not (terms[0] @ terms[1].T).any()  # a term's amount can be read whatever the others are
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    with pytest.raises(ValueError, match="extended before"):
        extend(text, model, codebooks)


def test_an_amount_lies_on_a_line():
    words = amounts(256)
    still = words[127]  # the middle of 255 values, which the camera's code uses
    assert still[1] == 0
    torch.testing.assert_close(words[127 + 40][1], -words[127 - 40][1])
    steps = words[1:255, 1] - words[:254, 1]
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    assert torch.cdist(words[:255], words[:255]).fill_diagonal_(1.0).min() > 0.01  # no two ids are the same


def test_an_untied_head_and_spare_rows(codebooks):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, tie_word_embeddings=False, **sizes))
    vocabulary = extend(tiny_tokenizer(), model, codebooks)
    head = model.get_output_embeddings().weight
    assert head.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    assert len(head) == max(vocabulary.size, 1000)
    assert head[vocabulary.motion.start].norm() > 0


def test_text_never_becomes_a_mark(model):
    document = conversation(model.tokenizer, model.prompt, [Turn("user", "[IMG] <visual 3> </s> ok")])
    assert document.ids[1:].max() < model.vocabulary.text_size
    assert model.tokenizer.eos_token_id not in document.ids[1:]


def test_only_answers_are_learned(model, tokens):
    video = VideoInput.of(model.vocabulary, tokens)
    document = conversation(model.tokenizer, model.prompt, TURNS, video)
    learned = model.tokenizer.decode(document.ids[document.is_target])
    assert learned == " a dog</s>"
    again = model.vocabulary.tokens(document.ids[document.ids >= model.vocabulary.text_size].numpy(), like=tokens)
    np.testing.assert_array_equal(again.motion_ids, tokens.motion_ids)
    assert conversation(model.tokenizer, model.prompt, TURNS, video, all_targets=True).is_target[1:].all()
    assert film(model.tokenizer, video, "a dog").is_target[1:].all()


def test_a_video_named_in_the_text_stands_there(model, tokens):
    video = VideoInput.of(model.vocabulary, tokens, [0], keyframes_only=True)
    document = conversation(model.tokenizer, Prompt(), [Turn("user", "before <video> after")], video)
    place = int((document.ids == model.vocabulary.image_begin).nonzero()[0])
    assert model.tokenizer.decode(document.ids[1:place]) == "USER: before "
    with pytest.raises(ValueError, match="stands 2 times"):
        conversation(model.tokenizer, Prompt(), [Turn("user", "<video><video>")], video)


def test_chat_templates(model):
    tokenizer = tiny_tokenizer()
    with pytest.raises(ValueError, match="writes turn 2 over"):
        ChatTemplate().pieces(TURNS, False, _changing(tokenizer))
    user, assistant = "Q {{ m.content }} A ", "{{ m.content }}."
    choice = "{% if m.role == 'user' %}" + user + "{% else %}" + assistant + "{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}" + choice + "{% endfor %}"
    document = conversation(tokenizer, ChatTemplate(), TURNS)
    assert tokenizer.decode(document.ids) == "Q what is it A a dog."
    assert tokenizer.decode(document.ids[document.is_target]) == "a dog."


def _changing(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    return tokenizer


@torch.no_grad()
def test_packing_changes_nothing(codebooks, tokens):
    model = make(codebooks, features={"visual": 6, "motion": 4})
    generator = torch.Generator().manual_seed(1)
    features = [
        {"visual": torch.randn(count, 6, generator=generator), "motion": torch.randn(135, 4, generator=generator)}
        for count in tokens.visual_counts.tolist()
    ]
    documents = [
        conversation(
            model.tokenizer, model.prompt, TURNS, VideoInput.of(model.vocabulary, tokens, [0], features=features)
        ),
        conversation(model.tokenizer, model.prompt, [Turn("user", "hm"), Turn("assistant", "yes it is")]),
        film(model.tokenizer, VideoInput.of(model.vocabulary, tokens, [1], features=features), "end"),
    ]
    alone = [model(pack([[document]], model.vocabulary, 0)) for document in documents]
    counts = torch.tensor([int(document.is_target.sum()) for document in documents])
    expected = (torch.stack(alone) * counts).sum() / counts.sum()
    for rows in ([documents], [documents[:1], documents[1:]], [documents[::-1]]):
        torch.testing.assert_close(model(pack(rows, model.vocabulary, 0)), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_head_works_where_it_is_asked_and_the_loss_is_that_of_all_logits(codebooks, tokens):
    model = make(codebooks)
    video = VideoInput.of(model.vocabulary, tokens, [0])
    rows = [[Turn("user", "q" * n), Turn("assistant", "a" * n)] for n in (1, 4)]
    batch = pack([[conversation(model.tokenizer, model.prompt, row, video)] for row in rows], model.vocabulary, 0)
    seen = []
    watch = model.model.get_output_embeddings().register_forward_hook(lambda head, given, logits: seen.append(logits))
    loss = model(batch)
    watch.remove()
    assert seen[0].shape[:2] == (1, int((batch.labels[:, 1:] != IGNORED).sum()))
    logits = model.model(
        inputs_embeds=model.embed(batch.ids, batch.features),
        attention_mask=batch.mask(),
        position_ids=batch.position_ids,
    ).logits
    assert logits.shape[:2] == batch.ids.shape  # nothing of the hook is left
    whole = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    torch.testing.assert_close(loss, whole)


def test_features_stand_in_for_their_ids(codebooks, tokens):
    model = make(codebooks, features={"motion": 4})
    values = [{"motion": torch.randn(135, 4)} for _ in range(2)]
    turn = [Turn("user", "what")]
    seen = conversation(model.tokenizer, model.prompt, turn, VideoInput.of(model.vocabulary, tokens, features=values))
    batch = pack([[seen]], model.vocabulary, 0)
    embedded = model.embed(batch.ids, batch.features)[0]
    first = (seen.ids >= model.vocabulary.motion.start) & (seen.ids < model.vocabulary.motion.start + 32)
    expected = model.projections["motion"](torch.cat([row["motion"] for row in values]))
    torch.testing.assert_close(embedded[first], expected)
    torch.testing.assert_close(embedded[~first], model.model.get_input_embeddings()(seen.ids[~first]))
    with pytest.raises(ValueError, match="134 motion features for 135"):
        VideoInput.of(model.vocabulary, tokens, [0], features=[{"motion": torch.zeros(134, 4)}])
    with pytest.raises(TokensError, match="no motion features"):
        make(codebooks).embed(batch.ids, batch.features)


def test_rows_are_filled(model):
    documents = [film(model.tokenizer, VideoInput(torch.zeros(n, dtype=torch.long))) for n in (5, 9, 3, 8, 1, 6)]
    rows = list(first_fit(documents, range(6), 12))
    assert sorted(index for row in rows for index in row) == list(range(6))
    assert all(sum(len(documents[index]) for index in row) <= 12 for row in rows)
    assert len(rows) == 4
    with pytest.raises(ValueError, match="document 1 has 11 tokens, a row has 10"):
        list(first_fit(documents, range(6), 10))


def test_clips_are_spread_evenly():
    assert evenly(3, 8) == [0, 1, 2]
    assert evenly(100, 4) == [0, 33, 66, 99]
    assert evenly(5, None) == [0, 1, 2, 3, 4]


def test_a_resumed_run_ends_where_an_unbroken_one_does(codebooks, tokens, tmp_path):
    def lessons(model):
        video = VideoInput.of(model.vocabulary, tokens, [0], keyframes_only=True)
        rows = [[Turn("user", f"q{i}"), Turn("assistant", f"a{i}")] for i in range(5)]
        return [conversation(model.tokenizer, model.prompt, row, video) for row in rows]

    plan = Plan(6, length=120, rows=2, warmup_steps=1, save_every=3)
    whole = make(codebooks)
    record = train(whole, lessons(whole), lessons(whole)[:1], plan, tmp_path / "whole")
    assert record["validation"][-1]["step"] == 6
    broken = make(codebooks)

    class Killed(Exception):
        pass

    def kill(step, figures):
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        train(broken, lessons(broken), [], plan, tmp_path / "broken", report=kill)
    with pytest.raises(FileExistsError, match="--resume"):
        train(broken, lessons(broken), [], plan, tmp_path / "broken")
    resumed = make(codebooks, seed=7)
    train(resumed, lessons(resumed), [], plan, tmp_path / "broken", resume=True)
    for name, parameter in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], parameter, msg=name)
    other = replace(plan, rows=3)
    with pytest.raises(ValueError, match="made with plan"):
        train(make(codebooks), lessons(resumed), [], other, tmp_path / "broken", resume=True)


def test_it_learns_what_it_sees(codebooks, tokens):
    """Two videos, one question: the answer is in the video alone."""
    model = make(codebooks)
    turns = [[Turn("user", "which"), Turn("assistant", name)] for name in ("one", "two")]
    videos = [VideoInput.of(model.vocabulary, tokens, [clip]) for clip in range(2)]
    lessons = [conversation(model.tokenizer, model.prompt, *pair) for pair in zip(turns, videos, strict=True)]
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(50):
        loss = model(pack([lessons], model.vocabulary, 0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = [Kept(_only(tokens, clip), None) for clip in range(2)]
    assert [answer(model, "which", video, max_new_tokens=8) for video in kept] == ["one", "two"]


def _only(tokens, clip):
    vocabulary = Vocabulary.of(tokens, 1)
    return vocabulary.tokens(vocabulary.ids(tokens, [clip]), like=tokens)


def test_saved_and_loaded(codebooks, tokens, tmp_path):
    model = make(codebooks, features={"motion": 4}, prompt=Prompt(before_user="Q: "))
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
    with pytest.raises(ModelError, match="knows nothing of video"):
        VideoLanguageModel.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no language model in"):
        VideoLanguageModel.from_pretrained(tmp_path / "nothing")


def test_published_layout_of_a_language_model_folder(tmp_path):
    text = tiny_tokenizer()
    tiny_llama(49412, width=16, layers=1, heads=2).save_pretrained(tmp_path)
    text.save_pretrained(tmp_path)
    model = VideoLanguageModel.from_pretrained(tmp_path)
    assert model.vocabulary == Vocabulary.published()
    assert model.prompt == Prompt.published()
    shown = []
    written = Written(model, shown.append)
    for token in text("yes \\n no")["input_ids"]:
        written.put(torch.tensor([token]))
    written.end()
    assert "".join(shown) == written.text == "yes "
    assert written.stopped


def test_answers_are_streamed(model, tokens):
    parts = []
    found = answer(model, "what", Kept(tokens, None), max_new_tokens=12, show=parts.append)
    assert "".join(parts).strip() == found
    drawn = [answer(model, "what", None, max_new_tokens=12, temperature=2.0, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(TokensError, match="this language model learned those of cccc"):
        model.settings.__class__(models={"motion": "c" * 64}).check(tokens)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": "a.mp4", "question": "x"}', r":1 is not \{video, question, answer\}"),
        ("{", ":1 is not"),
        ('{"turns": [{"role": "user", "text": "x"}]}', r":1 has turns \['user'\]"),
        ('{"video": "gone.mp4", "question": "x", "answer": "y"}', "which does not exist"),
        ("{}", ":1 has turns"),
    ],
)
def test_lines_that_are_refused(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(TokensError, match=message):
        list(samples([tmp_path / "a.jsonl"]))


def test_places_that_are_refused(tmp_path):
    with pytest.raises(TokensError, match=r"no corpus\.json"):
        list(samples([tmp_path]))
    with pytest.raises(TokensError, match="cannot train on"):
        list(samples([tmp_path / "a.mp4"]))


@pytest.mark.parametrize("inputs", ["ids", "features"])
def test_commands(tmp_path, clip_mp4, tiny_model, other_model, capsys, inputs):
    """Train on a clip and a conversation, ask, and be told what does not fit."""
    shutil.copy(clip_mp4, tmp_path / "clip.mp4")
    lines = [{"video": "clip.mp4", "question": "what", "answer": "a cat"}, {"video": "clip.mp4", "caption": "coffee"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out, weights = str(tmp_path / "lm"), ["--video-model", str(tiny_model)]
    command = ["lm", "train", str(tmp_path / "a.jsonl"), "--out", out, "--steps", "2", "--length", "700", *weights]
    assert main([*command, "--rows", "1", "--inputs", inputs, "--fps", "12"]) == 0, capsys.readouterr().err
    assert main(["lm", "ask", str(clip_mp4), "what", "--lm", out, "--max-tokens", "4", *weights]) == 0
    capsys.readouterr()
    assert main(command) == 2
    assert "already holds a run" in capsys.readouterr().err
    asked = ["lm", "ask", str(clip_mp4), "what", "--lm", out, "--video-model", str(other_model)]
    assert main(asked) == 2
    assert "encode the video with the weights it was trained on" in capsys.readouterr().err
    if inputs == "features":
        return
    short = [*command[:4], str(tmp_path / "other"), *command[5:8], "64", *weights]
    assert main(short) == 2
    assert "raise --length" in capsys.readouterr().err


def test_new_model_takes_the_sizes_of_its_tokenizer(tiny_model):
    from videotok.pipeline import VideoTokenizer

    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    model = new_model(tokenizer, VideoSettings(motion_levels=3), True, width=32, layers=1)
    assert model.vocabulary.motion_levels == 3
    assert model.vocabulary.visual_size == tokenizer.keyframes.codebook_size
    assert {kind: len(projection.mean) for kind, projection in model.projections.items()} == {"visual": 32, "motion": 8}
    with pytest.raises(ValueError, match="`levels`"):
        Codebooks.of(tokenizer, levels=9)
