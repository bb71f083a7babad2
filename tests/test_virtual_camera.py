"""The virtual camera: sign, unit and size of its motion, and that its frames move accordingly."""

import cv2
import numpy as np
import pytest

from videotok.virtual_camera import (
    Layer,
    Pose,
    Scene,
    cell_centres,
    constant_speed,
    hand_held_path,
    photograph,
    sample_scene,
)

SIZE = (192, 108)


def scene(path, **oval):
    layers = [Layer(photograph("coffee"), path)]
    if oval:
        layers.append(Layer(photograph("chelsea"), constant_speed(pan=(-0.4, 0.1)), **oval))
    return Scene(layers, SIZE)


def warp_back(picture, vectors):
    """Return a picture warped along vectors: each pixel shows what was where its vector points."""
    height, width = picture.shape[:2]
    places = ((cell_centres(height, width) + vectors) * (width, height) - 0.5).astype(np.float32)
    return cv2.remap(picture, places[..., 0], places[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


def test_a_pan_is_its_own_vector():
    vectors, visible = scene(constant_speed(pan=(0.24, -0.12))).motion(1.0, 1.0 - 1 / 12, grid=(20, 36))
    np.testing.assert_allclose(vectors, np.broadcast_to([0.02, -0.01], (20, 36, 2)), atol=1e-6)
    assert visible[:, :-2].any()
    assert not visible[:, -1].any()  # what enters at the right was outside before


def test_zoom_and_turn_leave_the_middle():
    for path, sign in ((constant_speed(zoom=1.2), -1), (constant_speed(zoom=0.8), 1)):
        vectors, _ = scene(path).motion(0.5, 0.4, grid=(21, 37))
        np.testing.assert_allclose(vectors[10, 18], 0, atol=1e-6)
        assert np.sign(vectors[10, -1, 0]) == sign  # content that grows came from nearer the middle
    vectors, _ = scene(constant_speed(degrees=10)).motion(0.5, 0.4, grid=(21, 37))
    np.testing.assert_allclose(vectors[10, 18], 0, atol=1e-6)
    assert vectors[10, -1, 1] > 0  # the camera turns clockwise, content at the right rises: it was lower before


@pytest.mark.parametrize(
    "path",
    [
        constant_speed(pan=(0.3, 0.2)),
        constant_speed(zoom=1.5, degrees=20),
        hand_held_path(3),
        constant_speed(start=Pose(0.2, -0.1, 1.3, 30)),
    ],
)
def test_frames_move_along_the_vectors(path):
    it = scene(path, oval=(0.4, 0.6))
    vectors, visible = it.motion(0.5, 0.4)
    before, now = it.frame(0.4), it.frame(0.5)
    assert psnr(now[visible], warp_back(before, vectors)[visible]) > 33
    assert visible.mean() > 0.8


def test_content_hidden_by_a_layer_is_not_visible():
    it = scene(constant_speed(), oval=(0.4, 0.6))
    vectors, visible = it.motion(0.5, 0.25, grid=(54, 96))
    moving = np.abs(vectors).sum(-1) > 0
    assert visible[moving].all()  # the layer in front is never hidden here
    assert (~visible[~moving]).any()  # but it uncovers some of what lies behind it
    assert visible[~moving].mean() > 0.8


def test_motion_of_two_steps_composes():
    """Motion over two steps is the motion of one step after the other."""
    it = scene(hand_held_path(5, strength=0.5))
    whole, _ = it.motion(1.0, 0.0)
    second, _ = it.motion(1.0, 0.5)
    first, _ = it.motion(0.5, 0.0)
    places = ((cell_centres(SIZE[1], SIZE[0]) + second) * SIZE - 0.5).astype(np.float32)
    through = second + cv2.remap(
        first, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    inside = (slice(12, -12), slice(20, -20))
    np.testing.assert_allclose(through[inside], whole[inside], atol=1e-3)


def test_pictures_are_the_same_every_time():
    np.testing.assert_array_equal(sample_scene(SIZE).frame(1.5), sample_scene(SIZE).frame(1.5))
    assert hand_held_path(7)(2.0) == hand_held_path(7)(2.0)
    assert hand_held_path(7)(2.0) != hand_held_path(8)(2.0)


def test_wrong_scenes_are_refused():
    layer = Layer(photograph("coffee"), constant_speed(), oval=(0.5, 0.5))
    with pytest.raises(ValueError, match="fills the frame"):
        Scene((layer,), SIZE)
    with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]"):
        Layer(np.zeros((4, 4, 3)), constant_speed())
