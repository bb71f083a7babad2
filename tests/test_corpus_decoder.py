"""Clips for a corpus: the codec's clips with resized keyframes, read in a child process."""

import numpy as np
import pytest
from corpora import SIZE
from videos import even, scenes, write

from codec import ClipSpec, MediaError, SubprocessReader, iter_clips
from videotok.corpus.decoder import read_resized_clips
from videotok.image_utils import to_square_tensor

SPEC = ClipSpec()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write(tmp_path_factory.mktemp("video") / "pan.mp4", scenes(SIZE)["pan"], even(4.5, 24), "ultrafast", 24)


@pytest.mark.parametrize("options", [{}, {"start_seconds": 1.5, "duration_seconds": 2.0}], ids=["whole", "part"])
def test_clips_are_those_of_the_codec(video, options):
    expected = list(iter_clips(video, SPEC, **options))
    with SubprocessReader() as reader:
        found = list(reader.run(read_resized_clips, video, SPEC, 64, **options))
    assert len(found) == len(expected)
    for clip, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(clip.vectors, other.motion.vectors)
        np.testing.assert_array_equal(clip.valid, other.motion.valid)
        picture = (to_square_tensor(other.keyframe, 64)[0].permute(1, 2, 0).numpy() + 1) * 127.5
        np.testing.assert_array_equal(clip.keyframe, picture.round().astype(np.uint8))
        assert (clip.pts_seconds, clip.num_frames) == (other.pts_seconds, other.num_frames)
        assert (clip.codec, clip.width, clip.height) == ("h264", *SIZE)
        assert clip.cpu_seconds >= 0


def test_a_file_cut_short_is_refused_at_its_end(video, tmp_path):
    short = tmp_path / "short.mp4"
    short.write_bytes(video.read_bytes()[: video.stat().st_size * 6 // 10])
    clips = read_resized_clips(str(short), SPEC, 64)
    assert next(clips).num_frames == SPEC.frames
    with pytest.raises(MediaError, match=r"short\.mp4 is cut short"):
        list(clips)
