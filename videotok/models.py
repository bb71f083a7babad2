"""TokenizerModels: the three models of a bundle on one device, each of them in memory once."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec import ClipSpec, MotionField
from motion_vq import MotionTokenizer, MotionTokens
from motion_vq.fields import apple_gpu_reads_borders
from motion_vq.model_base import no_tf32
from videotok.bundle import Bundle
from videotok.config import EncodeConfig
from videotok.errors import ModelError
from videotok.keyframes.protocol import KeyframeTokenizerProtocol

if TYPE_CHECKING:
    from unet3d import LatentVideoDetokenizer, VideoDetokenizer

ENCODING_DTYPE = torch.float64
"""Precision in which ids are decided: rounding then never decides between two codes that lie equally near."""

FOR_ENCODING = " for encoding"
"""Ending of a loaded model's name where encoding has a copy of its own."""


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device of a name such as `cpu`, `cuda` or `cuda:1`; `auto` is the fastest one of this machine.

    Raises:
        ModelError: there is no such device.
    """
    is_mps_available = torch.backends.mps.is_available()
    available = [*(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if is_mps_available else []), "cpu"]
    try:
        device = torch.device(available[0] if str(name) == "auto" else name)
    except RuntimeError:
        device = None
    if device is not None and device.type in available:
        count = torch.cuda.device_count() if device.type == "cuda" else 1
        if device.type == "cpu" or (device.index or 0) < count:
            return device if device.type == "cpu" else torch.device(device.type, device.index or 0)
    raise ModelError(f"no device {name} on this machine; choose auto or {' or '.join(available)}")


@lru_cache(maxsize=1)
def has_native_bfloat16() -> bool:
    """Return whether this machine's CPU multiplies bfloat16 natively: x86 with AVX512-BF16 or AMX."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


@lru_cache(maxsize=1)
def apple_gpu_rebuilds_frames() -> bool:
    """Return whether this PyTorch has the operations for Apple's GPUs that the video detokenizer takes.

    Some are missing, or refuse sizes that do not divide each other: it then runs on the CPU.
    """
    picture = torch.rand(1, 1, 7, 9, device="mps")
    try:
        F.adaptive_avg_pool2d(picture, (3, 4)).cpu()
        F.adaptive_avg_pool3d(picture[None], (1, 3, 4)).cpu()
        F.interpolate(picture, (9, 13), mode="bicubic").cpu()
        F.conv3d(picture[None], torch.rand(1, 1, 1, 3, 3, device="mps")).cpu()
        torch.linalg.solve(torch.eye(3, device="mps"), torch.linalg.inv(torch.eye(3, device="mps"))).cpu()
    except RuntimeError:  # NotImplementedError is one too
        return False
    return apple_gpu_reads_borders()


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return a dtype, or float32 for one of fewer bits."""
    return torch.promote_types(dtype, torch.float32)


class TokenizerModels:
    """The models of a bundle, each loaded when it is first needed.

    There is one set of weights in memory. Outside of `encoding()` it has the caller's dtype. Inside, keyframe and
    motion tokenizer are cast in place to what their encoders take (`encoding_dtype`; float64 for motion), and back
    when they are next asked for. Weights are stored in half precision, so a cast between float32 and float64 loses
    nothing. Where it would (weights stored in float64, or a dtype of 16 bits), encoding has a copy of its own.

    A lock lets one thread at a time use the two tokenizers.
    """

    def __init__(self, bundle: Bundle, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> None:
        """Take the models of a bundle; nothing is loaded yet.

        Args:
            bundle: where the weights are.
            device: where they go; `auto` chooses.
            dtype: precision of decoding; where not given float32, but see `detokenizer_dtype`. It does not change ids.

        Raises:
            ModelError: there is no such device.
        """
        self.bundle = bundle
        self._device = choose_device(device)
        self._dtype = dtype
        self._loaded: dict[str, Any] = {}
        self._has_double_weights: dict[str, bool] = {}
        self._is_encoding = False
        self._lock = threading.RLock()

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of decoding; that of the video detokenizer may be lower, see `detokenizer_dtype`."""
        return self._dtype or torch.float32

    @property
    def detokenizer_dtype(self) -> torch.dtype:
        """Precision of the video detokenizer's weights.

        Where the caller gave none, on a CPU that has native bfloat16, it is bfloat16 for `VideoDetokenizer`: its
        network then takes half the time. Keyframes that are shown are then decoded with `fast=True`. Frames are as
        near to their source as those of float32, within 0.002 dB and LPIPS 0.0001 (means of eight natural videos), and
        differ from them by some 1/255 (RMS); see docs/adr/0007-bfloat16-decoding.md. Motion, positions and
        mixing stay in float32.
        """
        if self._dtype is not None or self._device.type != "cpu" or not has_native_bfloat16():
            return self.dtype
        return self.dtype if self.bundle.decodes_latents else torch.bfloat16

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the models to a device, or decode in another precision, and return self.

        Raises:
            ModelError: there is no such device.
        """
        with self._lock:
            self._device = self._device if device is None else choose_device(device)
            # weights may not survive two casts in a row
            if dtype is not None and dtype != self.dtype:
                self._loaded = {}
            self._dtype = dtype or self._dtype
            detokenizer = self._loaded.get("detokenizer")
            if detokenizer is not None and detokenizer.dtype != self.detokenizer_dtype:
                del self._loaded["detokenizer"]
            self._place_all()
        return self

    @property
    def keyframes(self) -> KeyframeTokenizerProtocol:
        """The keyframe tokenizer; encode with it inside of `encoding()` only."""
        return self._model("keyframes", self.bundle.load_keyframes)

    @property
    def motion(self) -> MotionTokenizer:
        """The motion tokenizer; encode with it inside of `encoding()` only."""
        return self._model("motion", lambda dtype: self.bundle.load("motion", MotionTokenizer, dtype))

    @property
    def detokenizer(self) -> "VideoDetokenizer | LatentVideoDetokenizer":
        """The model that rebuilds frames."""
        return self._model("detokenizer", self.bundle.load_detokenizer)

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Inside, `keyframes` and `motion` have the precision in which ids are decided, and torch multiplies in it."""
        with no_tf32(), self._mode(is_encoding=True):
            yield

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Inside, `keyframes` and `motion` have the caller's precision, and no other thread changes it."""
        with self._mode(is_encoding=False):
            yield

    def encode_motion(self, fields: Sequence[MotionField], num_quantizers: int | None = None) -> MotionTokens:
        """Return the ids of motion fields of any videos; see `MotionTokenizer.encode`."""
        vectors = torch.from_numpy(np.stack([field.vectors for field in fields]))
        valid = torch.from_numpy(np.stack([field.valid for field in fields]))
        with self.encoding():
            model = self.motion
            return model.encode(vectors.to(model.device), valid.to(model.device), num_quantizers)

    def decode_motion(self, tokens: MotionTokens) -> Tensor:
        """Return the vectors of motion ids, [B, T, h, w, 2]; see `MotionTokenizer.decode`."""
        with self.decoding():
            model = self.motion
            return model.decode(MotionTokens(tokens.ids.to(model.device), tokens.global_motion_ids.to(model.device)))

    @property
    def default_motion_quantizers(self) -> int:
        """Quantizers of motion ids where the caller gives no number."""
        return self._any_motion().default_num_quantizers

    @property
    def codebooks(self) -> dict[str, int]:
        """Size of each codebook, by the names of `VideoTokens.codebooks`."""
        motion = self._any_motion()
        return {
            "visual": self._any_keyframes().codebook_size,
            "motion": motion.codebook_size,
            "global_motion": motion.global_motion_codebook_size,
        }

    def spec(self, fps: Fraction | int = 12) -> ClipSpec:
        """Return the clips that the motion tokenizer takes, at `fps` frames per second."""
        motion = self._any_motion()
        return ClipSpec(motion.config["num_steps"], Fraction(fps), motion.grid)

    def check(self, config: EncodeConfig) -> None:
        """Check that these models can follow a config, before any work.

        Raises:
            ValueError: an option that they cannot follow; the message names it.
        """
        keyframes, quantizers = self._any_keyframes(), self._any_motion().num_quantizers
        patches = keyframes.num_patches
        ratio, tokens, steps = config.keep_ratio, config.tokens_per_keyframe, config.refinement_steps
        if config.motion_quantizers is not None and config.motion_quantizers > quantizers:
            raise ValueError(
                f"`motion_quantizers` (={config.motion_quantizers}): this model has {quantizers} quantizers"
            )
        if tokens is not None and tokens > patches:
            raise ValueError(f"`tokens_per_keyframe` (={tokens}): a keyframe of this model has {patches} patches")
        if not keyframes.drops_patches and ((tokens or patches) < patches or (ratio or 1) < 1):
            name, value = ("keep_ratio", ratio) if tokens is None else ("tokens_per_keyframe", tokens)
            raise ValueError(f"`{name}` (={value}): this model has {patches} tokens for every keyframe and drops none")
        if config.tokens_per_second is not None and not keyframes.expects_errors:
            raise ValueError(
                f"`tokens_per_second` (={config.tokens_per_second:g}): this keyframe tokenizer does not say which "
                "errors to expect; use `motion_quantizers`, and where it can drop patches `tokens_per_keyframe`"
            )
        if ratio is not None and not keyframes.chooses_rate:
            raise ValueError(f"`keep_ratio` (={ratio}): this keyframe tokenizer decides by itself how much it keeps")
        if config.patch_selection == "sample" and not keyframes.samples_patches:
            raise ValueError(
                "`patch_selection` (='sample'): this keyframe tokenizer cannot sample patches; leave it out"
            )
        if steps is not None and not keyframes.refines_codes:
            raise ValueError(
                f"`refinement_steps` (={steps}): this keyframe tokenizer cannot refine codes; leave it out"
            )

    def _any_keyframes(self) -> KeyframeTokenizerProtocol:
        """Return the keyframe tokenizer in any precision: its sizes do not depend on it."""
        return self._any("keyframes")

    def _any_motion(self) -> MotionTokenizer:
        """Return the motion tokenizer in any precision: its sizes do not depend on it."""
        return self._any("motion")

    def _any(self, part: str) -> Any:
        with self._lock:
            found = self._loaded.get(part) or self._loaded.get(part + FOR_ENCODING)
            if found is not None:
                return found
        with self.encoding():
            return getattr(self, part)

    @contextmanager
    def _mode(self, *, is_encoding: bool) -> Iterator[None]:
        with self._lock:
            before, self._is_encoding = self._is_encoding, is_encoding
            self._place_all()
            try:
                yield
            finally:
                # casts back wait until a model is asked for: most often the next thing is to encode again
                self._is_encoding = before
                if before:
                    self._place_all()

    def _model(self, part: str, load: Callable[[torch.dtype], Any]) -> Any:
        """Return a loaded model in the precision of the moment."""
        with self._lock:
            is_copy = self._is_encoding and part != "detokenizer" and not self._shares_weights(part)
            name = part + FOR_ENCODING if is_copy else part
            if name not in self._loaded:
                dtype = ENCODING_DTYPE if self._is_for_encoding(name) else self._decoding_dtype(part)
                self._loaded[name] = load(dtype)
            self._place(name, self._loaded[name])
            return self._loaded[name]

    def _is_for_encoding(self, name: str) -> bool:
        """Whether a loaded model is to decide ids at the moment."""
        if name.endswith(FOR_ENCODING):
            return True
        return self._is_encoding and name != "detokenizer" and self._shares_weights(name)

    def _decoding_dtype(self, part: str) -> torch.dtype:
        if part == "detokenizer":
            return self.detokenizer_dtype
        # a displacement across the picture needs more digits than 16 bits have
        return at_least_float32(self.dtype) if part == "motion" else self.dtype

    def _shares_weights(self, part: str) -> bool:
        """Whether a cast to the dtype of decoding and back is exact, so that one copy serves both."""
        dtype = self._decoding_dtype(part)
        return at_least_float32(dtype) == dtype and not self._stores_doubles(part)

    def _stores_doubles(self, part: str) -> bool:
        if part not in self._has_double_weights:
            self._has_double_weights[part] = self.bundle.has_double_weights(part)
        return self._has_double_weights[part]

    def _place_all(self) -> None:
        for name, model in self._loaded.items():
            self._place(name, model)

    def _place(self, name: str, model: Any) -> None:
        """Cast and move a model, in place, to what it is needed for at the moment."""
        device, part = self._device, name.removesuffix(FOR_ENCODING)
        if not self._is_for_encoding(name):
            dtype = self._decoding_dtype(part)
        else:
            # weights stored in float64 are not rounded
            has_choice = part == "keyframes" and not self._stores_doubles(part)
            dtype = model.encoding_dtype if has_choice else ENCODING_DTYPE
            # Apple's GPUs have no float64
            device = torch.device("cpu") if device.type == "mps" and dtype == torch.float64 else device
        if part == "detokenizer" and device.type == "mps" and not apple_gpu_rebuilds_frames():
            device = torch.device("cpu")
        if model.dtype != dtype or model.device != device:
            model.to(device=device, dtype=dtype)
