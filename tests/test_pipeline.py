"""VideoTokenizer: the same ids however it is run, one set of weights, streamed frames, errors that name both sides."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from codec import MediaError, iter_clips
from videotok import ModelError, TokensError, VideoTokenizer
from videotok.config import DecodeConfig, EncodeConfig
from videotok.image_utils import display_size
from videotok.models import choose_device


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return VideoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def tokens(tokenizer, clip_mp4):
    return tokenizer.encode(clip_mp4)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_tokens_describe_the_clip(tokens, tokenizer, tiny_model):
    assert tokens.num_clips == 2
    assert tokens.num_frames.tolist() == [24, 12]
    assert tokens.pts_seconds.tolist() == [0.0, 2.0]
    assert tokens.duration_seconds == 3
    assert tokens.motion_source == "native"
    assert not tokens.damaged.any()
    assert tokens.source.file == "clip.mp4"
    assert (tokens.source.codec, tokens.source.width, tokens.source.height) == ("h264", 160, 96)
    assert tokens.source.average_fps == 24
    assert tokens.num_motion_quantizers == 2
    assert tokens.models["motion"].name == tiny_model.name
    assert tokens.codebooks["visual"] == tokenizer.keyframes.codebook_size


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_ids_do_not_depend_on_threads_or_batch(tokenizer, clip_mp4, tokens, threads, count, batch_size):
    threads(count)
    again = tokenizer.encode(clip_mp4, EncodeConfig(batch_size=batch_size))
    for name in ("visual_ids", "keep_mask", "motion_ids", "global_motion_ids"):
        np.testing.assert_array_equal(getattr(again, name), getattr(tokens, name), err_msg=name)


def test_part_of_a_video(tokenizer, clip_mp4, tokens):
    part = tokenizer.encode(clip_mp4, EncodeConfig(start_seconds=1.0, duration_seconds=1.5))
    assert part.start_seconds == 1.0
    assert part.num_frames.tolist() == [18]
    assert part.pts_seconds[0] == pytest.approx(1.0)
    first = tokenizer.encode(clip_mp4, EncodeConfig(max_clips=1))
    np.testing.assert_array_equal(first.visual_ids, tokens.visual_ids_of(0))


def test_other_frame_rates(tokenizer, clip_mp4):
    slow = tokenizer.encode(clip_mp4, EncodeConfig(fps=Fraction(6)))
    assert slow.num_frames.tolist() == [18]
    assert slow.duration_seconds == 3
    assert sum(1 for _ in tokenizer.decode(slow, DecodeConfig(num_inference_steps=1))) == 18


def test_progress_counts_seconds_of_video(tokenizer, clip_mp4):
    calls = []
    tokenizer.encode(clip_mp4, EncodeConfig(batch_size=1), progress=lambda *state: calls.append(state))
    assert calls == [(2.0, 3.0), (3.0, 3.0)]


def test_number_of_motion_quantizers(tokenizer, clip_mp4, tokens):
    assert tokenizer.encode(clip_mp4, EncodeConfig(motion_quantizers=3)).num_motion_quantizers == 3
    coarse = tokenizer.encode(clip_mp4, EncodeConfig(motion_quantizers=1))
    np.testing.assert_array_equal(coarse.motion_ids, tokens.motion_ids[:, :1])
    with pytest.raises(ValueError, match="4"):
        tokenizer.encode(clip_mp4, EncodeConfig(motion_quantizers=4))


def test_frames_have_shape_number_and_seed(tokenizer, tokens):
    frames = list(tokenizer.decode(tokens, DecodeConfig(size=(64, 48), num_inference_steps=1)))
    assert len(frames) == 36
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((48, 64, 3), "uint8")}
    again = list(tokenizer.decode(tokens, DecodeConfig(size=(64, 48), num_inference_steps=1)))
    np.testing.assert_array_equal(frames, again)


def test_frames_stream(tokenizer, tokens, clip_mp4):
    """The first frame comes before the last keyframe is asked for."""
    six = repeat_first_clip(tokens, 6)
    picture = next(iter_clips(clip_mp4)).keyframe
    requested = []

    def keyframes():
        for index in range(6):
            requested.append(index)
            yield picture

    next(tokenizer.decode(six, DecodeConfig(size=(64, 48), num_inference_steps=1), keyframes=keyframes()))
    assert len(requested) <= 3


def repeat_first_clip(tokens, clips):
    """Return tokens with the first clip several times."""
    counts = [tokens.visual_counts[0]] * clips
    return replace(
        tokens,
        visual_ids=np.tile(tokens.visual_ids_of(0), clips),
        visual_offsets=np.cumsum([0, *counts], dtype=np.int64),
        keep_mask=tokens.keep_mask[[0] * clips],
        skip_mask=tokens.skip_mask[[0] * clips],
        motion_ids=tokens.motion_ids[[0] * clips],
        motion_quantizers=tokens.motion_quantizers[[0] * clips],
        global_motion_ids=tokens.global_motion_ids[[0] * clips],
        num_frames=tokens.num_frames[[0] * clips],
        pts_seconds=np.arange(clips) * 2.0,
        damaged=tokens.damaged[[0] * clips],
    )


def test_given_keyframes_replace_the_ids(tokenizer, tokens, clip_mp4):
    pictures = [clip.keyframe for clip in iter_clips(clip_mp4)]
    clips = list(tokenizer.detokenizer_inputs(tokens, DecodeConfig(size=(160, 96)), keyframes=pictures))
    shown = ((clips[1].keyframe[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    np.testing.assert_array_equal(shown, pictures[1])
    with pytest.raises(TokensError, match="1 keyframes for 2 clips"):
        list(tokenizer.detokenizer_inputs(tokens, DecodeConfig(size=(160, 96)), keyframes=pictures[:1]))


def test_other_weights_are_refused_by_name(tokens, other_model):
    other = VideoTokenizer.from_pretrained(other_model)
    with pytest.raises(TokensError) as caught:
        other.decode(tokens)
    message = str(caught.value)
    assert tokens.models["keyframes"].sha256[:12] in message
    assert other.bundle.identity("keyframes").sha256[:12] in message
    assert other_model.name in message


def test_a_file_whose_end_is_missing(tokenizer, clip_mp4, tmp_path):
    path = tmp_path / "short.mp4"
    content = clip_mp4.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(MediaError, match=r"cut short: \d\.\d\d s of 3.00 s can be read; .* duration of \d\.\d+ s"):
        tokenizer.encode(path)
    assert tokenizer.encode(path, EncodeConfig(duration_seconds=0.5)).num_clips == 1


def test_a_duration_that_only_the_header_states(tokenizer, clip_mp4, monkeypatch):
    import videotok.video_reading as video_reading

    honest = video_reading.probe
    wrong = lambda path, *rest, **options: replace(honest(path), duration_seconds=10.0)  # noqa: E731
    monkeypatch.setattr(video_reading, "probe", wrong)
    assert tokenizer.encode(clip_mp4).duration_seconds == pytest.approx(3)


def test_a_single_frame_is_one_keyframe(tokenizer, clip_mp4):
    tokens = tokenizer.encode(clip_mp4, EncodeConfig(duration_seconds=0.05))
    assert tokens.num_frames.tolist() == [1]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/no/such/folder", "neither a folder nor a hub id"),
        ("no such thing", "neither a folder nor a hub id"),
        ("empty", "is not a bundle"),
    ],
)
def test_no_such_model(model, message, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        VideoTokenizer.from_pretrained(model)


def test_a_bundle_with_one_model_does_what_it_can(tmp_path, tiny_model, tokens, clip_mp4):
    (tmp_path / "motion").symlink_to(tiny_model / "motion")
    part = VideoTokenizer.from_pretrained(tmp_path)
    assert part.reconstruct_motion(next(iter_clips(clip_mp4)).motion, 1).shape == (1, 24, 20, 36, 2)
    with pytest.raises(ModelError, match="has no keyframes"):
        part.encode(clip_mp4)


def test_damaged_weights(tmp_path, tiny_model, clip_mp4):
    for part in tiny_model.iterdir():
        (tmp_path / part.name).mkdir()
        for path in part.iterdir():
            (tmp_path / part.name / path.name).write_bytes(path.read_bytes()[:300])
    with pytest.raises(ModelError, match="cannot load motion") as caught:
        VideoTokenizer.from_pretrained(tmp_path).encode(clip_mp4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "shown"),
    [((1920, 1080), (256, 144)), ((1080, 1920), (144, 256)), ((640, 480), (222, 166)), ((176, 144), (212, 174))],
)
def test_display_size_keeps_shape_and_area(source, shown):
    assert display_size(*source) == shown


IDS = ("visual_ids", "keep_mask", "skip_mask", "motion_ids", "global_motion_ids")


def assert_same_ids(a, b):
    for name in IDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_one_set_of_weights_is_cast_and_cast_back(tiny_model, tokens, clip_mp4):
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    keyframes, motion, before = tokenizer.keyframes, tokenizer.motion, weights(tokenizer.keyframes)
    with tokenizer.encoding():
        assert (tokenizer.keyframes, tokenizer.motion) == (keyframes, motion)
        assert (keyframes.dtype, motion.dtype) == (torch.float32, torch.float64)
        with tokenizer.decoding():
            assert motion.dtype == torch.float32
        assert motion.dtype == torch.float64
    # cast back when it is asked for
    assert (tokenizer.keyframes, tokenizer.motion) == (keyframes, motion)
    assert (keyframes.dtype, motion.dtype) == (torch.float32, torch.float32)
    assert_same_ids(tokenizer.encode(clip_mp4), tokens)
    for name, value in weights(keyframes).items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_ids_do_not_depend_on_the_dtype(tiny_model, tokens, clip_mp4, dtype):
    tokenizer = VideoTokenizer.from_pretrained(tiny_model, dtype=dtype)
    tokenizer.reconstruct_motion(next(iter_clips(clip_mp4)).motion, 1)
    assert tokenizer.keyframes.dtype == dtype
    assert_same_ids(tokenizer.encode(clip_mp4), tokens)
    assert tokenizer.keyframes.dtype == dtype
    frames = list(tokenizer.decode(tokens, DecodeConfig(size=(64, 48), num_inference_steps=1)))
    assert_same_ids(tokenizer.encode(clip_mp4), tokens)
    assert len(frames) == 36
    tokenizer.to(dtype=torch.float32)
    assert tokenizer.dtype == tokenizer.keyframes.dtype == torch.float32
    assert_same_ids(tokenizer.encode(clip_mp4), tokens)


def test_the_detokenizer_alone_is_in_bfloat16_where_the_cpu_multiplies_it(tiny_model, tokens, monkeypatch):
    config = DecodeConfig(size=(64, 48))
    monkeypatch.setattr("videotok.models.has_native_bfloat16", lambda: False)
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    expected = np.stack(list(tokenizer.decode(tokens, config))).astype(int)
    assert tokenizer.detokenizer.dtype == tokenizer.dtype == torch.float32
    monkeypatch.setattr("videotok.models.has_native_bfloat16", lambda: True)
    exact = VideoTokenizer.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = VideoTokenizer.from_pretrained(tiny_model)
    frames = np.stack(list(tokenizer.decode(tokens, config))).astype(int)
    assert tokenizer.detokenizer.dtype == torch.bfloat16
    assert tokenizer.keyframes.dtype == tokenizer.motion.dtype == tokenizer.dtype == torch.float32
    assert np.abs(frames - expected).mean() < 0.5
    inputs = zip(exact.detokenizer_inputs(tokens), tokenizer.detokenizer_inputs(tokens), strict=True)
    assert any(not torch.equal(a.square, b.square) for a, b in inputs), "keyframes are not decoded the fast way"
    # weights that were rounded are loaded again
    assert tokenizer.to(dtype=torch.float32).detokenizer.dtype == torch.float32
    assert np.array_equal(np.stack(list(tokenizer.decode(tokens, config))), expected)
    assert VideoTokenizer.from_pretrained(tiny_model, dtype=torch.float32).detokenizer.dtype == torch.float32


def test_weights_stored_in_float64_are_not_rounded(tiny_model, tmp_path, clip_mp4):
    shutil.copytree(tiny_model, tmp_path / "double")
    path = tmp_path / "double" / "keyframes" / "diffusion_pytorch_model.safetensors"
    stored = {name: value.double() if value.is_floating_point() else value for name, value in load_file(path).items()}
    stored["to_code.weight"] += 1e-10  # lost in float32
    save_file(stored, path)
    tokenizer = VideoTokenizer.from_pretrained(tmp_path / "double")
    tokenizer.reconstruct_keyframe(next(iter_clips(clip_mp4)).keyframe, (64, 48))
    with tokenizer.encoding():
        assert torch.equal(tokenizer.keyframes.state_dict()["to_code.weight"], stored["to_code.weight"])
    assert tokenizer.keyframes.dtype == torch.float32


def test_keyframes_are_decoded_by_a_share_of_the_threads(tokenizer, tokens, monkeypatch):
    """The others rebuild frames; operations that are shared with busy threads wait for them, and spin."""
    decode, before, used = tokenizer._decode_keyframe, torch.get_num_threads(), []
    monkeypatch.setattr(
        tokenizer, "_decode_keyframe", lambda *inputs: used.append(torch.get_num_threads()) or decode(*inputs)
    )
    torch.set_num_threads(4)
    try:
        for _ in tokenizer.decode_clips(tokens, DecodeConfig(size=(64, 48))):
            assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert used == [2, 2]


def test_threads_may_encode_and_decode_at_once(tokenizer, tokens, clip_mp4):
    config = DecodeConfig(size=(64, 48), num_inference_steps=1)
    expected = list(tokenizer.decode(tokens, config))
    with ThreadPoolExecutor(4) as pool:
        encoded = [pool.submit(tokenizer.encode, clip_mp4, EncodeConfig(batch_size=1)) for _ in range(2)]
        decoded = [pool.submit(lambda: list(tokenizer.decode(tokens, config))) for _ in range(2)]
    for job in encoded:
        assert_same_ids(job.result(), tokens)
    for job in decoded:
        np.testing.assert_array_equal(job.result(), expected)


def test_the_config_is_recorded_without_what_cannot_change_ids(tokenizer, clip_mp4):
    config = EncodeConfig(batch_size=2, isolate=True, max_clips=1, motion_quantizers=1)
    assert tokenizer.encode(clip_mp4, config).config == EncodeConfig(max_clips=1, motion_quantizers=1)


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("cuda:99", "warp drive", "meta"):
        with pytest.raises(ModelError, match=f"no device {name}.*choose auto"):
            choose_device(name)


def test_repr_names_models_sizes_device_and_dtype(tokenizer, tiny_model):
    text = repr(tokenizer)
    assert text.startswith(f"VideoTokenizer('{tiny_model.name}', keyframes=KeyframeTokenizer(0.")
    assert text.endswith("M), device=cpu, dtype=auto)")


def test_saved_weights_load_and_are_the_same(tokenizer, tokens, clip_mp4, tmp_path, tiny_model):
    tokenizer.save_pretrained(tmp_path / "copy")
    again = VideoTokenizer.from_pretrained(tmp_path / "copy")
    again.bundle.check(tokens)
    assert_same_ids(again.encode(clip_mp4), tokens)
    with pytest.raises(ModelError, match="is where these weights come from"):
        again.save_pretrained(tmp_path / "copy")


class LocalHub:
    """Takes the place of `huggingface_hub.HfApi`: keeps what is uploaded in a folder."""

    def __init__(self, folder):
        self.folder, self.repos = folder, []

    def create_repo(self, repo_id, *, private, exist_ok):
        self.repos.append((repo_id, private, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.folder / repo_id)
        return f"https://hub.test/{repo_id}/commit/1"


def test_push_to_hub(tokenizer, tmp_path, monkeypatch, tokens):
    hub = LocalHub(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    assert tokenizer.push_to_hub("someone/tiny", private=True) == "https://hub.test/someone/tiny/commit/1"
    assert hub.repos == [("someone/tiny", True, True)]
    VideoTokenizer.from_pretrained(tmp_path / "someone" / "tiny").bundle.check(tokens)
    with pytest.raises(ModelError, match="neither a folder nor a hub id"):
        tokenizer.push_to_hub("no id")


def test_a_refused_upload_is_one_line(tokenizer, tmp_path, monkeypatch):
    hub = LocalHub(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    monkeypatch.setattr(hub, "create_repo", lambda *_, **__: (_ for _ in ()).throw(OSError("401 Unauthorized\nmore")))
    with pytest.raises(ModelError, match=r"cannot upload to someone/tiny: 401 Unauthorized; check"):
        tokenizer.push_to_hub("someone/tiny")
