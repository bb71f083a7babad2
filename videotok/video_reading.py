"""Clips of a video: to be encoded, read ahead of the models by a thread or a child process; and those of its tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from codec import Clip, ClipSpec, MediaInfo, iter_clips, iter_clips_isolated, probe, probe_isolated
from codec.probe import expected_seconds
from videotok.background import read_ahead
from videotok.config import EncodeConfig
from videotok.errors import TokensError
from videotok.image_utils import display_size
from videotok.tokens import VideoTokens

CLIPS_AHEAD = 8
"""Clips that wait for the models at most: 16 seconds of video at 12 frames a second."""
MIN_CHILD_SECONDS = 4.0
"""A child process takes 0.3 s of processor time to start, which a shorter video does not repay."""
ERROR_AREA = 128 * 72
"""Pixels of the frames that rate control measures motion errors on. Larger ones cost four times as much and say less:
keyframes decoded from tokens lack the detail that a small displacement would blur."""


@dataclass(frozen=True)
class OpenVideo:
    """A video whose clips are being read."""

    path: Path
    spec: ClipSpec
    config: EncodeConfig
    info: MediaInfo
    clips: Iterator[Clip]

    @property
    def expected_seconds(self) -> float | None:
        """Seconds of video that are to be encoded; None where the file does not say."""
        config = self.config
        return expected_seconds(self.info, self.spec, config.start_seconds, config.duration_seconds, config.max_clips)


@contextmanager
def open_video(
    path: Path, spec: ClipSpec, config: EncodeConfig, *, beside_imports: bool = False, frame_area: int | None = None
) -> Iterator[OpenVideo]:
    """Begin to read the clips of a video; inside of the block they are read ahead.

    Args:
        path: any video or picture file that FFmpeg reads.
        spec: of the clips.
        config: which part of the video, and how.
        beside_imports: read a longer video in a child process. A thread makes no progress while Python imports modules,
            for both need its lock; and importing the models takes as long as reading ten clips.
        frame_area: clips have frames too, of about so many pixels. With `tokens_per_second` they have frames of
            `ERROR_AREA` in any case.

    Raises:
        MediaError: the file cannot be read. Errors that come later are raised where its clips are taken.
    """
    info = (probe_isolated if config.isolate else probe)(path, config.stream)
    video = OpenVideo(path, spec, config, info, iter(()))
    seconds = video.expected_seconds
    is_long = not info.is_still_image and (seconds is None or seconds >= MIN_CHILD_SECONDS)
    frame_area = frame_area if config.tokens_per_second is None else ERROR_AREA
    with read_ahead(_clips(video, beside_imports and is_long, frame_area), CLIPS_AHEAD) as clips:
        yield replace(video, clips=clips)


def _clips(video: OpenVideo, in_child: bool, frame_area: int | None) -> Iterator[Clip]:
    config, info = video.config, video.info
    options = {
        "frames": frame_area is not None,
        "frame_size": None if frame_area is None else display_size(info.width, info.height, frame_area),
        "motion_source": config.motion_source,
        "start_seconds": config.start_seconds,
        "duration_seconds": config.duration_seconds,
        "max_clips": config.max_clips,
        "split_at_cuts": config.split_at_cuts,
        "stream": config.stream,
    }
    if config.isolate:
        return iter_clips_isolated(video.path, video.spec, **options)
    if in_child:
        return iter_clips_isolated(video.path, video.spec, patience_seconds=None, **options)
    return iter_clips(video.path, video.spec, **options)


def source_clips(tokens: VideoTokens, video: Path, frame_size: tuple[int, int] | None = None) -> Iterator[Clip]:
    """Read the clips of the video that tokens were made from, with frames if `frame_size` (width, height) is given.

    Raises:
        MediaError: the video cannot be read.
        TokensError: it is another video: a clip is missing or stands at another time.
    """
    # only a cut ends a clip early that is not the last
    was_split = bool((tokens.num_frames[:-1] < tokens.spec.frames).any())
    clips = iter_clips(
        video,
        tokens.spec,
        frames=frame_size is not None,
        frame_size=frame_size,
        start_seconds=tokens.start_seconds,
        max_clips=tokens.num_clips,
        motion_source="auto" if tokens.motion_source == "native" else tokens.motion_source,
        split_at_cuts=was_split,
        stream=tokens.config.stream if tokens.config else None,
    )
    for index, (pts, num_frames) in enumerate(zip(tokens.pts_seconds, tokens.num_frames, strict=True)):
        clip = next(clips, None)
        if clip is None:
            raise TokensError(
                f"{video} has {index} clips, the tokens of {tokens.source.file} have {tokens.num_clips}; "
                "name the video they were made from"
            )
        if abs(clip.pts_seconds - pts) > 0.5 / tokens.spec.fps or clip.num_frames < num_frames:
            raise TokensError(
                f"clip {index} of {video} has {clip.num_frames} frames from {clip.pts_seconds:.3f} s, that of "
                f"{tokens.source.file} {num_frames} from {pts:.3f} s; name the video the tokens were made from"
            )
        yield clip
