"""Videos of a language model: the direction of generated motion, prediction of the next clip, its continuation."""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.entropy import ContextModel
from videotok.evaluation import frames_of, source_clips
from videotok.inputs import VIDEO_SUFFIXES
from videotok.lm.generated_video import GeneratedClip, GeneratedVideo
from videotok.lm.model import VideoLanguageModel
from videotok.lm.motion_questions.footage import photographs
from videotok.lm.packing import VideoInput, generation_document, pack
from videotok.lm.recipe.material import PHOTOS, MaterialReader, clip_ids
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

    reader = MaterialReader(options.data, options.cache, model, tokenizer)

    def read(count: int, held_back: bool) -> list[list[torch.Tensor]]:
        return [video.clips for video in reader.footage(count, held_back=held_back)]

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
