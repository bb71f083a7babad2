"""Global motion ids: known camera motion comes back from them."""

import torch
from motion_fields import PIXELS, pan

from motion_vq import GlobalMotionCodec


def centres(grid: tuple[int, int]) -> torch.Tensor:
    height, width = grid
    x = (torch.arange(width) * 2 + 1) / width - 1
    y = (torch.arange(height) * 2 + 1) / height - 1
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1)


def test_a_pan_comes_back_with_its_sign_and_size():
    codec = GlobalMotionCodec(24, (20, 36))
    vectors, valid = pan(1, 24, (20, 36), (3.0, -1.5))
    decoded = codec.decode(codec.encode(vectors, valid)) * PIXELS
    assert codec.num_ids == 24
    assert torch.allclose(decoded, torch.tensor((3.0, -1.5)).expand_as(decoded), atol=0.1)


def test_zero_motion_is_the_middle_id():
    codec = GlobalMotionCodec(24, (20, 36))
    vectors, valid = pan(2, 24, (20, 36), (0.0, 0.0))
    ids = codec.encode(vectors, valid)
    assert (ids == 127).all()
    assert (codec.decode(ids) == 0).all()


def test_zoom_and_roll_come_back():
    codec = GlobalMotionCodec(24, (20, 36))
    field = centres((20, 36))
    zoom_and_roll = torch.stack([2 * field[..., 0] - field[..., 1], 2 * field[..., 1] + field[..., 0]], -1)
    vectors = (zoom_and_roll / PIXELS).expand(1, 24, -1, -1, -1)
    decoded = codec.decode(codec.encode(vectors, torch.ones(1, 24, 20, 36, dtype=torch.bool))) * PIXELS
    assert torch.allclose(decoded, zoom_and_roll.expand_as(decoded), atol=0.1)


def test_independent_motion_does_not_pull_the_fit():
    codec = GlobalMotionCodec(24, (20, 36))
    vectors, valid = pan(1, 24, (20, 36), (2.0, 0.0))
    vectors[:, :, 4:14, 6:20] = torch.tensor((-9.0, 5.0)) / PIXELS
    valid[:, 5] = False
    vectors[:, 5] = 0.2
    decoded = codec.decode(codec.encode(vectors, valid)) * PIXELS
    assert (decoded - torch.tensor((2.0, 0.0))).abs().median() < 0.1


def test_motion_faster_than_the_largest_code_saturates():
    codec = GlobalMotionCodec(24, (20, 36))
    vectors, valid = pan(1, 24, (20, 36), (200.0, 0.0))
    ids = codec.encode(vectors, valid)
    assert ids.min() >= 0
    assert ids.max() == 254


def test_no_terms_no_ids():
    codec = GlobalMotionCodec(8, (4, 6), (0, 0, 0))
    vectors, valid = pan(3, 8, (4, 6), (2.0, 0.0))
    ids = codec.encode(vectors, valid)
    assert ids.shape == (3, 0)
    assert (codec.decode(ids) == 0).all()
