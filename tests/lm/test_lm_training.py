"""videotok.lm: packing, training, resuming, and data that is refused."""

import itertools
import json
import shutil
from dataclasses import replace

import pytest
import torch
from small_lm import TURNS, make_model

from videotok import TokensError
from videotok.cli.main import main
from videotok.lm import Codebooks
from videotok.lm.chat import Turn
from videotok.lm.data import EncodedVideo, read_samples
from videotok.lm.generation import answer
from videotok.lm.loading import new_tiny_model
from videotok.lm.model import VideoSettings
from videotok.lm.packing import IGNORED, VideoInput, conversation_document, pack, video_document
from videotok.lm.train import Plan, RowBatches, train
from videotok.packing import first_fit
from videotok.vocabulary import Vocabulary


@torch.no_grad()
def test_packing_does_not_change_the_loss(codebooks, tokens):
    model = make_model(codebooks, features={"visual": 6, "motion": 4})
    generator = torch.Generator().manual_seed(1)
    features = [
        {"visual": torch.randn(count, 6, generator=generator), "motion": torch.randn(135, 4, generator=generator)}
        for count in tokens.visual_counts.tolist()
    ]
    documents = [
        conversation_document(
            model.tokenizer,
            model.prompt,
            TURNS,
            VideoInput.from_tokens(model.vocabulary, tokens, [0], features=features),
        ),
        conversation_document(model.tokenizer, model.prompt, [Turn("user", "hm"), Turn("assistant", "yes it is")]),
        video_document(
            model.tokenizer, VideoInput.from_tokens(model.vocabulary, tokens, [1], features=features), "end"
        ),
    ]
    alone = [model(pack([[document]], model.vocabulary, 0)) for document in documents]
    counts = torch.tensor([int(document.is_target.sum()) for document in documents])
    expected = (torch.stack(alone) * counts).sum() / counts.sum()
    for rows in ([documents], [documents[:1], documents[1:]], [documents[::-1]]):
        torch.testing.assert_close(model(pack(rows, model.vocabulary, 0)), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_head_runs_at_targets_only_with_the_loss_of_all_logits(codebooks, tokens):
    model = make_model(codebooks)
    video = VideoInput.from_tokens(model.vocabulary, tokens, [0])
    rows = [[Turn("user", "q" * n), Turn("assistant", "a" * n)] for n in (1, 4)]
    batch = pack(
        [[conversation_document(model.tokenizer, model.prompt, row, video)] for row in rows], model.vocabulary, 0
    )
    outputs = []
    hook = model.model.get_output_embeddings().register_forward_hook(lambda head, given, logits: outputs.append(logits))
    loss = model(batch)
    hook.remove()
    assert outputs[0].shape[:2] == (1, int((batch.labels[:, 1:] != IGNORED).sum()))
    logits = model.model(
        inputs_embeds=model.embed(batch.ids, batch.features),
        attention_mask=batch.attention_mask(),
        position_ids=batch.position_ids,
    ).logits
    assert logits.shape[:2] == batch.ids.shape  # nothing of the hook is left
    whole = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    torch.testing.assert_close(loss, whole)


def test_rows_are_filled(model):
    documents = [
        video_document(model.tokenizer, VideoInput(torch.zeros(n, dtype=torch.long))) for n in (5, 9, 3, 8, 1, 6)
    ]
    rows = list(first_fit(documents, 12))
    assert sorted(id(document) for row in rows for document in row) == sorted(map(id, documents))
    assert all(sum(map(len, row)) <= 12 for row in rows)
    assert len(rows) == 4
    with pytest.raises(ValueError, match="document 1 has 11 tokens, a row has 10"):
        list(first_fit(documents, 10))


def test_a_resumed_run_ends_like_an_uninterrupted_one(codebooks, tokens, tmp_path):
    def documents(model):
        video = VideoInput.from_tokens(model.vocabulary, tokens, [0], keyframes_only=True)
        rows = [[Turn("user", f"q{i}"), Turn("assistant", f"a{i}")] for i in range(5)]
        return [conversation_document(model.tokenizer, model.prompt, row, video) for row in rows]

    plan = Plan(6, 2, row_length=120, warmup_steps=1, save_every=3)
    whole = make_model(codebooks)
    record = train(whole, documents(whole), documents(whole)[:1], plan, tmp_path / "whole")
    assert record["validation"][-1]["step"] == 6
    assert 0 < record["validation"][-1]["cross_entropy"] < record["validation"][0]["cross_entropy"]
    killed = make_model(codebooks)

    class Killed(Exception):
        pass

    def kill(step, figures):
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        train(killed, documents(killed), [], plan, tmp_path / "killed", report=kill)
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(killed, documents(killed), [], plan, tmp_path / "killed")
    resumed = make_model(codebooks, seed=7)
    train(resumed, documents(resumed), [], plan, tmp_path / "killed", resume=True)
    for name, parameter in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], parameter, msg=name)
    other = replace(plan, batch_size=3)
    with pytest.raises(ValueError, match="made with plan"):
        train(make_model(codebooks), documents(resumed), [], other, tmp_path / "killed", resume=True)


def test_processes_share_the_rows_of_a_step(model):
    documents = [
        video_document(model.tokenizer, VideoInput(torch.full((4,), number), {}), "") for number in range(3, 11)
    ]
    batches = RowBatches(documents, model, Plan(9, 4, row_length=6))
    whole = next(batches.from_step(3))
    shares = [next(batches.from_step(3, process=process, num_processes=2)) for process in range(2)]
    assert len(whole.ids) == 4
    assert torch.equal(torch.cat([share.ids for share in shares]), torch.cat([whole.ids[0::2], whole.ids[1::2]]))
    assert torch.equal(next(itertools.islice(batches.from_step(0), 3, None)).ids, whole.ids)


def test_training_learns_from_the_video(codebooks, tokens):
    """Two videos, one question: only the video tells the answer."""
    model = make_model(codebooks)
    turns = [[Turn("user", "which"), Turn("assistant", name)] for name in ("one", "two")]
    videos = [VideoInput.from_tokens(model.vocabulary, tokens, [clip]) for clip in range(2)]
    documents = [
        conversation_document(model.tokenizer, model.prompt, *pair) for pair in zip(turns, videos, strict=True)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(50):
        loss = model(pack([documents], model.vocabulary, 0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    kept = [EncodedVideo(_only(tokens, clip)) for clip in range(2)]
    assert [answer(model, "which", video, max_new_tokens=8) for video in kept] == ["one", "two"]


def _only(tokens, clip):
    vocabulary = Vocabulary.of(tokens, 1)
    return vocabulary.tokens(vocabulary.ids(tokens, [clip]), like=tokens)


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
def test_refused_lines(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(TokensError, match=message):
        list(read_samples([tmp_path / "a.jsonl"]))


def test_refused_paths(tmp_path):
    with pytest.raises(TokensError, match=r"no corpus\.json"):
        list(read_samples([tmp_path]))
    with pytest.raises(TokensError, match="cannot train on"):
        list(read_samples([tmp_path / "a.mp4"]))


@pytest.mark.parametrize("inputs", ["ids", "features"])
def test_commands(tmp_path, clip_mp4, tiny_model, other_model, capsys, inputs):
    """Train on a clip and a conversation, ask, and get errors for what does not fit."""
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
    assert "encode the video with those weights" in capsys.readouterr().err
    if inputs == "features":
        return
    short = [*command[:4], str(tmp_path / "other"), *command[5:8], "64", *weights]
    assert main(short) == 2
    assert "take longer rows" in capsys.readouterr().err


def test_a_new_model_has_the_sizes_of_its_video_tokenizer(tiny_model):
    from videotok.pipeline import VideoTokenizer

    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    model = new_tiny_model(tokenizer, VideoSettings(motion_quantizers=3), True, width=32, layers=1)
    assert model.vocabulary.motion_quantizers == 3
    assert model.vocabulary.visual_size == tokenizer.keyframes.codebook_size
    assert {kind: len(projection.mean) for kind, projection in model.projections.items()} == {"visual": 32, "motion": 8}
    codebooks = Codebooks.from_tokenizer(tokenizer)
    assert torch.equal(codebooks.visual, tokenizer.keyframes.codebook_vectors.float())
    assert codebooks.motion.shape == (tokenizer.default_motion_quantizers, tokenizer.motion.codebook_size, 8)
    with pytest.raises(ValueError, match="`motion_quantizers`"):
        Codebooks.from_tokenizer(tokenizer, motion_quantizers=9)
