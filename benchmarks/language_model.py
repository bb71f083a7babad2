"""What the shipped language model can do: `python -m benchmarks.language_model PART … --json OUT`.

questions     motion questions about scenes of held-out photographs and recordings, as `videotok lm ask` answers them
real          which way the camera moves in real footage, compared with the motion between its pictures
direction     pictures and "the camera moves left": the direction of the decoded video, by optical flow
prediction    bits per token of a video's second clip, beside context models of order 0 and 2, by stream
continuation  a video's second clip, generated from the first one: PSNR and LPIPS, beside its motion repeated
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.context_models import ContextModel
from videotok.evaluation import frames_of, source_clips
from videotok.inputs import VIDEO_SUFFIXES
from videotok.io_utils import write_json
from videotok.lm.data import EncodedVideo, TokenCache
from videotok.lm.generated_video import GeneratedClip, GeneratedVideo
from videotok.lm.generation import answer
from videotok.lm.loading import load_language_model
from videotok.lm.model import VideoLanguageModel
from videotok.lm.motion_questions.camera_motion import MOVES, STANDS_STILL
from videotok.lm.motion_questions.encoded_videos import encode_videos
from videotok.lm.motion_questions.footage import photographs
from videotok.lm.motion_questions.labeled_videos import SourceFolders, labeled_videos
from videotok.lm.motion_questions.real_motion import RealMotion, read_real_motion
from videotok.lm.motion_questions.scenes import CAMERA, ZOOM
from videotok.lm.motion_questions.wordings import FURTHER_HELD_OUT, HELD_OUT_QUESTIONS, QUESTIONS
from videotok.lm.packing import VideoInput, generation_document, pack
from videotok.lm.recipe.material import MOVING, PHOTOS, STILL, clip_ids, read_footage
from videotok.lm.recipe.second_stage import REAL_CLIPS, REAL_TEST_FILES, real_files
from videotok.lm.sampling import SamplingConfig, default_sampling
from videotok.lm.video_generation import VideoGenerator, VideoPrompt
from videotok.metrics import measure
from videotok.perceptual import LPIPS
from videotok.pipeline import VideoTokenizer
from videotok.vocabulary import Span

DIRECTIONS = {
    "left": "the camera moves left",
    "right": "the camera moves right",
    "up": "the camera moves up",
    "down": "the camera moves down",
    "closer": "the camera comes closer",
    "away": "the camera goes away",
}
"""What the video must do -> the text it is generated from."""
Figures = dict[str, float]


def main() -> None:
    """Measure the parts that were asked for, and write them."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    loaded = load_language_model(options.lm)
    parts: dict[str, Callable[[argparse.Namespace, VideoLanguageModel, VideoTokenizer], dict]] = {
        "questions": questions,
        "real": real_footage,
        "direction": direction,
        "prediction": prediction,
        "continuation": continuation,
    }
    found = {}
    for part in options.parts:
        found[part] = parts[part](options, loaded.model, loaded.tokenizer)
        print(part, found[part])
        if options.json:
            write_json(options.json, {"options": {k: str(v) for k, v in vars(options).items()}, **found})


# ---- questions ----


def questions(options: argparse.Namespace, model: VideoLanguageModel, tokenizer: VideoTokenizer) -> dict:
    """Return, for each question and for all: questions asked, and the share of right answers in four wordings.

    `as trained`: the first wording of each question; `others`: one of its other wordings that were trained on, in turn;
    `held out`, `further`: one of those that were not, near to those that were, and further from them.
    """
    sources = SourceFolders(options.data / PHOTOS, options.data / STILL, options.data / MOVING)
    videos = encode_videos(
        labeled_videos(sources, options.cache, "test", options.videos),
        tokenizer,
        options.cache,
        "test",
        tokens_per_keyframe=model.settings.tokens_per_keyframe or 64,
        with_raw_field=False,
    )
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for number, video in enumerate(videos):
        shown = EncodedVideo(video.tokens)
        for question, expected in video.answers.items():
            others, held_out = QUESTIONS[question][1:], HELD_OUT_QUESTIONS[question]
            further = FURTHER_HELD_OUT[question]
            wordings = {
                "as trained": question,
                "others": others[number % len(others)],
                "held out": held_out[number % len(held_out)],
                "further": further[number % len(further)],
            }
            for name, wording in wordings.items():
                found = answer(model, f"{wording}?", shown, max_new_tokens=12)
                right[question][name].append(found.strip().lower() == expected)
    rows = {question: _shares(columns) for question, columns in right.items()}
    total: dict[str, list[bool]] = defaultdict(list)
    for columns in right.values():
        for name, values in columns.items():
            total[name] += values
    return {**rows, "all": _shares(total)}


def _shares(columns: dict[str, list[bool]]) -> Figures:
    count = len(next(iter(columns.values())))
    return {"questions": count, **{name: round(float(np.mean(values)), 4) for name, values in columns.items()}}


# ---- real footage ----


@dataclass(frozen=True)
class RealAnswer:
    """One question about a window of real footage, and what was answered."""

    file: str
    start: int
    """First clip of the window."""
    clips: int
    question: str
    expected: str
    found: str
    speed: float
    """Of the camera's motion, in frame widths a second."""

    @property
    def is_right(self) -> bool:
        """Whether the answer is the expected one."""
        return self.found.strip().lower() == self.expected


def real_footage(options: argparse.Namespace, model: VideoLanguageModel, tokenizer: VideoTokenizer) -> dict:
    """Return, for the test videos and for held-out recordings of the training data, the share of right answers.

    Windows of one, two and four clips whose camera's motion is clear (`CameraPath.answers`): the way it goes, and
    whether it moves. Held-out recordings: those with a moving camera, and as many others.
    """
    natural = [path for path in sorted(options.natural.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES]
    held_out = real_files(options.data, "test", REAL_TEST_FILES)
    groups = {"test videos": (natural, 8), "held-out recordings": (held_out, REAL_CLIPS)}
    found = {}
    for name, (files, max_clips) in groups.items():
        motions = {file: read_real_motion(file, options.cache / "real", max_clips) for file in files}
        windows = {file: _clear_windows(motion) for file, motion in motions.items() if motion is not None}
        moving = [file for file, rows in windows.items() if any(answers[MOVES] == "yes" for _, _, answers in rows)]
        still = [file for file, rows in windows.items() if rows and file not in moving]
        chosen = [*moving, *(still if name == "test videos" else still[: len(moving)])]
        cache = TokenCache(options.cache / "real-tokens", tokenizer, model.settings, max_clips=max_clips)
        rows = [row for file in chosen for row in _ask_about(file, windows[file], motions[file], cache, model)]
        found[name] = {"videos": len(chosen), **_real_shares(rows), "answers": [vars(row) for row in rows]}
        print(name, {key: value for key, value in found[name].items() if key != "answers"}, flush=True)
    return found


def _clear_windows(motion: RealMotion) -> list[tuple[int, int, dict[str, str]]]:
    """Return the first clip, the clip after the last one, and the answers of each window that has any."""
    count, windows = len(motion.vectors), []
    for length in (1, 2, 4):
        for start in range(0, count - length + 1, length):
            if answers := motion.path(start, start + length).answers():
                windows.append((start, start + length, answers))
    return windows


def _ask_about(
    file: Path,
    windows: Sequence[tuple[int, int, dict[str, str]]],
    motion: RealMotion | None,
    cache: TokenCache,
    model: VideoLanguageModel,
) -> list[RealAnswer]:
    tokens, rows = cache.get(file).tokens, []
    for start, stop, answers in windows:
        shown = EncodedVideo(tokens.part(start, stop))
        assert motion is not None  # it has windows
        path = motion.path(start, stop).known()
        speed = float(np.abs(path.sum(axis=0)).max() / len(path) * float(tokens.spec.fps))
        for question in (CAMERA if CAMERA in answers else ZOOM, MOVES):
            found = answer(model, f"{question}?", shown, max_new_tokens=12)
            rows.append(RealAnswer(file.name, start, stop - start, question, answers[question], found, speed))
    return rows


def _real_shares(rows: Sequence[RealAnswer]) -> dict[str, Figures]:
    """Return questions, videos and shares of right answers with a 95 % interval, by what was asked and answered."""
    groups: dict[str, list[RealAnswer]] = defaultdict(list)
    for row in rows:
        if row.question == MOVES:
            groups["does the camera move"].append(row)
            continue
        groups[row.expected].append(row)
        groups["all ways"].append(row)
        groups["moving" if row.expected != STANDS_STILL else "still"].append(row)
        groups[f"{'moving' if row.expected != STANDS_STILL else 'still'}, {2 * row.clips} s"].append(row)
    return {name: _share_by_video(group) for name, group in sorted(groups.items())}


def _share_by_video(rows: Sequence[RealAnswer]) -> Figures:
    """Return the share of right answers; its interval by bootstrap over videos, whose windows are alike."""
    by_video: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        by_video[row.file].append(row.is_right)
    videos, rng = list(by_video.values()), np.random.default_rng(0)
    means = []
    for _ in range(2000):
        drawn = [value for index in rng.integers(len(videos), size=len(videos)) for value in videos[index]]
        means.append(np.mean(drawn))
    low, high = (float(value) for value in np.percentile(means, (2.5, 97.5)))
    right = float(np.mean([row.is_right for row in rows]))
    return {"questions": len(rows), "videos": len(videos), "right": right, "low": low, "high": high}


# ---- direction ----


@dataclass(frozen=True)
class Flow:
    """The mean motion of a video's content between neighbouring frames, in pixels."""

    x: float
    """To the right."""
    y: float
    """Downwards."""
    growth: float
    """Of the picture at its sides, away from its centre."""

    def direction(self, is_zoom: bool) -> str:
        """Return the way the camera went, which is against that of the content."""
        if is_zoom:
            return "closer" if self.growth > 0 else "away"
        if abs(self.x) > abs(self.y):
            return "left" if self.x > 0 else "right"
        return "up" if self.y > 0 else "down"


def direction(options: argparse.Namespace, model: VideoLanguageModel, tokenizer: VideoTokenizer) -> dict:
    """Return, for each text: videos generated from held-out photographs, and the share that moves as the text says."""
    files = photographs(options.data / PHOTOS, "test").files
    chosen = [files[index] for index in np.linspace(0, len(files) - 1, options.pictures).astype(int)]
    right, speeds = defaultdict(list), defaultdict(list)
    for number, file in enumerate(chosen):
        sampling = replace(default_sampling(model), seed=number * len(DIRECTIONS))
        generator = VideoGenerator(model, tokenizer, sampling)
        picture = generator.encode_picture(file)
        prompts = [VideoPrompt.from_text(text, (), picture) for text in DIRECTIONS.values()]
        clips = sorted(generator.generate(prompts, options.seconds), key=lambda clip: clip.row)
        rows_of_clips = [list(row) for _, row in groupby(clips, lambda clip: clip.row)]
        for wanted, shown in zip(DIRECTIONS, rows_of_clips, strict=True):
            flow = optical_flow(np.concatenate([clip.frames for clip in generator.frames(shown)]))
            is_zoom = wanted in ("closer", "away")
            right[wanted].append(flow.direction(is_zoom) == wanted)
            speeds[wanted].append(flow.growth if is_zoom else float(np.hypot(flow.x, flow.y)))
        print(file.name, {wanted: values[-1] for wanted, values in right.items()}, flush=True)
    rows = {
        wanted: {
            "videos": len(values),
            "right": float(np.mean(values)),
            "pixels a step": float(np.mean(speeds[wanted])),
        }
        for wanted, values in right.items()
    }
    total = [value for values in right.values() for value in values]
    return {**rows, "all": {"videos": len(total), "right": float(np.mean(total))}}


def optical_flow(frames: np.ndarray) -> Flow:
    """Return the mean over time of the median dense optical flow (DIS) of frames uint8 [n, H, W, 3]."""
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    height, width = grey[0].shape
    x = (np.arange(width) + 0.5) / width * 2 - 1
    found = []
    for before, after in pairwise(grey):
        flow = method.calc(before, after, np.zeros((height, width, 2), np.float32))
        sides = np.abs(x) > 0.4
        growth = np.median((flow[..., 0] * np.sign(x))[:, sides])
        found.append((np.median(flow[..., 0]), np.median(flow[..., 1]), growth))
    return Flow(*(float(value) for value in np.mean(found, axis=0)))


# ---- prediction ----

STREAMS = ("keyframe", "global motion", "motion")


def prediction(options: argparse.Namespace, model: VideoLanguageModel, tokenizer: VideoTokenizer) -> dict:
    """Return, by stream, bits per token of the second clips of held-back footage, given the first ones.

    The context models count the footage that the language model was trained on, and the first clip of the video itself.
    `place`: their contexts also hold the place (the term of global motion, the cell of the grid of motion).
    """

    def read(count: int, held_back: bool) -> list[list[torch.Tensor]]:
        footage = read_footage(
            options.data, options.cache, model, tokenizer, count, lambda what, number, count: None, held_back=held_back
        )
        return [video.clips for video in footage]

    trained = read(options.trained_footage, held_back=False)
    tests = [clips[:2] for clips in read(options.footage, held_back=True) if len(clips) > 1]
    rows: dict[str, Figures] = {}
    losses: dict[str, list[np.ndarray]] = defaultdict(list)
    for first, second in tests:
        for stream, values in _losses(model, first, second).items():
            losses[stream].append(values.numpy() / np.log(2))
    for stream in STREAMS:
        values = np.concatenate(losses[stream])
        rows[stream] = {"tokens": len(values), "language model": float(values.mean())}
        size = {
            "keyframe": model.vocabulary.visual_size + model.vocabulary.patches + 1,
            "global motion": model.vocabulary.global_motion_size,
            "motion": model.vocabulary.motion_size,
        }[stream]
        for order in (0, 2):
            for with_place in (False, True) if stream != "keyframe" else (False,):
                name = f"order {order}" + (", place" if with_place else "")
                rows[stream][name] = _context_bits(model, stream, order, size, with_place, trained, tests)
    return {"videos": len(tests), **rows}


def _losses(model: VideoLanguageModel, first: torch.Tensor, second: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the losses in nats of the ids of a second clip after the first one, by stream."""
    document = generation_document(model.tokenizer, "", VideoInput(torch.cat([first, second])))
    is_second = torch.arange(len(document)) >= 1 + len(first)
    document = replace(document, is_target=document.is_target & is_second)
    with torch.no_grad():
        batch = pack([[document]], model.vocabulary, model.padding_id).to(model.device)
        return {stream: values.cpu() for stream, values in model.legal_losses(batch).items()}


def _context_bits(
    model: VideoLanguageModel,
    stream: str,
    order: int,
    size: int,
    with_place: bool,
    trained: Sequence[Sequence[torch.Tensor]],
    tests: Sequence[Sequence[torch.Tensor]],
) -> float:
    """Return the bits per token of the second clips under a context model."""

    def places(ids: list[int]) -> list[int] | None:
        return list(range(len(ids))) if with_place else None

    context_model = ContextModel(order, size)
    for clips in trained:
        for clip in clips:
            ids = stream_ids(model, clip, stream)
            context_model.learn(ids, places(ids))
    bits, count = 0.0, 0
    for first, second in tests:
        for number, clip in enumerate((first, second)):
            ids = stream_ids(model, clip, stream)
            if number:
                bits, count = bits + context_model.bits(ids, places(ids)), count + len(ids)
            context_model.learn(ids, places(ids))
    return bits / count


def stream_ids(model: VideoLanguageModel, clip: torch.Tensor, stream: str) -> list[int]:
    """Return the ids of one stream of a clip: of the keyframe with its runs and [/IMG], or of the motion."""
    vocabulary = model.vocabulary
    spans = {
        "keyframe": (vocabulary.visual, vocabulary.drop, Span("[/IMG]", vocabulary.image_end, 1)),
        "global motion": (vocabulary.global_motion,),
        "motion": (vocabulary.motion,),
    }[stream]
    return [token for token in clip.tolist() if any(token in span for span in spans)]


# ---- continuation ----

REPEAT = 2.0
"""`SamplingConfig.repeat` of the continuation that favours the motion of the clip before."""


def continuation(options: argparse.Namespace, model: VideoLanguageModel, tokenizer: VideoTokenizer) -> dict:
    """Return PSNR and LPIPS of the second clips of videos, generated from the first one, and of two simple ones.

    All have the same keyframe: the exact first one, carried along the motion of the first clip. `sampled`: at
    temperature 1; `best of 4`: that of four samples which the model finds most likely; `likeliest`: the most likely id
    each time; `likeliest, repeat`: the same, with `SamplingConfig.repeat`.
    """
    lpips = LPIPS.load(options.lpips) if options.lpips else None
    files = [path for path in sorted(options.natural.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES]
    rows: dict[str, dict[str, Figures]] = {}
    for number, file in enumerate(files):
        if len(rows) == options.continued:
            break
        found = _continue(file, model, tokenizer, lpips, number)
        if found:
            rows[file.name] = found
            print(file.name, found, flush=True)
    if not rows:
        return {}
    names = next(iter(rows.values()))
    means = {
        name: {figure: float(np.mean([row[name][figure] for row in rows.values()])) for figure in names[name]}
        for name in names
    }
    return {"videos": len(rows), "mean": means, "rows": rows}


def _continue(
    file: Path,
    model: VideoLanguageModel,
    tokenizer: VideoTokenizer,
    lpips: LPIPS | None,
    seed: int,
) -> dict[str, Figures] | None:
    generators = {
        "sampled": VideoGenerator(model, tokenizer, SamplingConfig(seed=seed)),
        "likeliest": VideoGenerator(model, tokenizer, SamplingConfig(temperature=0.0)),
        "likeliest, repeat": VideoGenerator(model, tokenizer, SamplingConfig(temperature=0.0, repeat=REPEAT)),
    }
    generator = generators["sampled"]
    tokens = tokenizer.encode(file, replace(generator.encode_config, max_clips=2))
    if tokens.num_clips < 2 or (tokens.num_frames < tokens.spec.frames).any():
        return None
    start = tokens.part(0, 1)
    prompt, seconds = VideoPrompt((), start), float(tokens.spec.duration_seconds)
    (video,) = generator.begin([prompt])
    source = frames_of(list(source_clips(tokens, file, video.size))[1])
    clips = {name: list(each.generate([prompt], seconds))[1] for name, each in generators.items()}
    ids = clip_ids(model, start)[0]
    clips["best of 4"] = _best_sample(generator, [prompt] * 4, seconds, ids)
    motion = {
        "first clip's motion repeated": ids[ids.tolist().index(model.vocabulary.motion_begin) :],
        "no motion": _no_motion(video),
    }
    for name, following in motion.items():
        (video,) = generator.begin([prompt])
        list(generator._start_clips(video, start))
        assert video.keyframe is not None  # it is predicted
        clips[name] = video.add(torch.cat([video.keyframe, following]), tokens.spec.frames)
    # the last clip of a video is shown from its own keyframe alone, so it can be shown without the first one
    found = {name: next(iter(generator.frames([clip]))).frames for name, clip in clips.items()}
    return {
        name: {key: float(value) for key, value in _figures(source, frames, lpips).items()}
        for name, frames in found.items()
    }


def _best_sample(
    generator: VideoGenerator, prompts: Sequence[VideoPrompt], seconds: float, first: torch.Tensor
) -> GeneratedClip:
    """Return the second clip that the model finds most likely among samples for prompts that are all the same."""
    videos = generator.begin(prompts)
    clips = [clip for clip in generator.generate(prompts, seconds, videos=videos) if clip.is_new]
    losses = [_losses(generator.model, first, videos[clip.row].context[-1]) for clip in clips]
    return clips[int(np.argmin([float(sum(values.sum() for values in found.values())) for found in losses]))]


def _no_motion(video: GeneratedVideo) -> torch.Tensor:
    """Return [MOV] … [/MOV] of a clip in which nothing moves: its global motion, without quantizers."""
    vocabulary = video.vocabulary
    offsets = (
        vocabulary.global_motion.start + np.arange(vocabulary.num_global_motion_ids) * vocabulary.global_motion_size
    )
    ids = [vocabulary.motion_begin, *(video._still_global_motion() + offsets), vocabulary.motion_end]
    return torch.tensor(ids)


def _figures(source: np.ndarray, frames: np.ndarray, lpips: LPIPS | None) -> Figures:
    found = measure(source, frames, lpips)
    figures = {"psnr": float(np.mean(found.psnr))}
    return figures if found.lpips is None else figures | {"lpips": float(np.mean(found.lpips))}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="+", choices=("questions", "real", "direction", "prediction", "continuation"))
    parser.add_argument("--data", type=Path, required=True, help="folder of the training data, for what was held back")
    parser.add_argument("--natural", type=Path, help="folder of videos to continue")
    parser.add_argument("--lm", type=Path, help="folder of a language model; default: the shipped one")
    parser.add_argument("--cache", type=Path, default=Path("cache/language_model"), help="folder of encoded videos")
    parser.add_argument("--videos", type=int, default=180, help="scenes that questions are asked about")
    parser.add_argument("--pictures", type=int, default=12, help="photographs, each with all directions")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each generated video")
    parser.add_argument("--footage", type=int, default=30, help="held-back videos whose second clip is predicted")
    parser.add_argument("--trained-footage", type=int, default=300, help="videos that the context models count")
    parser.add_argument("--continued", type=int, default=20, help="videos that are continued")
    parser.add_argument("--lpips", type=Path, help="weights of the LPIPS network (SqueezeNet, safetensors)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    return parser


if __name__ == "__main__":
    main()
