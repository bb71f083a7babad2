"""What a clip's motion becomes: a few ids for the camera, levels of ids for what moves by itself."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MotionTokens:
    """Motion of a batch of clips as plain integers from 0; nested: the first n levels are a valid coarser code."""

    ids: Tensor
    """int64 [B, levels, tokens_per_level], values 0..codebook_size - 1."""
    camera_ids: Tensor
    """int64 [B, num_camera_ids], values 0..camera_codebook_size - 1, one DCT coefficient of the camera's motion each;
    the middle value stands for a still camera. [B, 0] where the tokenizer does not code the camera by itself."""

    def __post_init__(self) -> None:
        if self.ids.ndim != 3 or self.camera_ids.ndim != 2 or len(self.ids) != len(self.camera_ids):
            raise ValueError(
                "`ids` must be [B, levels, tokens] and `camera_ids` [B, K] of the same clips, "
                f"got {tuple(self.ids.shape)} and {tuple(self.camera_ids.shape)}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        clips, levels, tokens = self.ids.shape
        return f"MotionTokens(clips={clips}, levels={levels}x{tokens}, camera_ids={self.camera_ids.shape[1]})"

    @property
    def num_levels(self) -> int:
        """Residual levels held; 0 leaves the camera alone."""
        return self.ids.shape[1]

    @property
    def tokens_per_clip(self) -> int:
        """Ids of one clip, the camera's included."""
        return self.ids.shape[1] * self.ids.shape[2] + self.camera_ids.shape[1]

    def first_levels(self, num_levels: int) -> "MotionTokens":
        """The same motion, coarser: the camera's ids and the first `num_levels` levels (0 = the camera alone).

        Raises:
            ValueError: more levels asked for than there are.
        """
        if not 0 <= num_levels <= self.num_levels:
            raise ValueError(
                f"`num_levels` (={num_levels}) must be 0 to {self.num_levels}, the levels these tokens hold; "
                "encode again with more levels for a finer motion"
            )
        return MotionTokens(self.ids[:, :num_levels], self.camera_ids)
