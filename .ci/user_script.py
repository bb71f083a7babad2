"""What a user's own program may look like: it must run with the installed package alone, and its types must be seen."""

import sys
from fractions import Fraction

from codec import Clip, VideoWriter, iter_clips
from motion_vq import MotionTokenizer
from videotok import DecodeConfig, EncodeConfig, VideoTokenizer, VideoTokens


def first_clip(path: str) -> Clip:
    return next(iter(iter_clips(path)))


tokenizer: VideoTokenizer = VideoTokenizer.from_pretrained(device="cpu")
motion: MotionTokenizer = tokenizer.motion
tokens: VideoTokens = tokenizer.encode(sys.argv[1], EncodeConfig(max_clips=1, motion_quantizers=1))
rate: float = tokens.tokens_per_second
fps: Fraction = tokens.spec.fps
with VideoWriter("again.mp4", fps, (256, 144)) as writer:
    for frame in tokenizer.decode(tokens, DecodeConfig(size=(256, 144))):
        writer.write(frame)
keyframe = first_clip(sys.argv[1]).keyframe
print(f"{rate:.0f} tokens/s, {motion.num_quantizers} quantizers, keyframe {keyframe.shape}")
