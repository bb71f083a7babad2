"""benchmarks.language_model: context models are probabilities that learn, and optical flow tells what a camera does."""

import itertools
import math

import numpy as np
import pytest

from benchmarks.entropy import ContextModel
from benchmarks.language_model_videos import optical_flow
from videotok.virtual_camera import Layer, Scene, constant_speed, photograph

CAMERAS = {
    "left": constant_speed(pan=(-0.1, 0.01)),
    "right": constant_speed(pan=(0.1, 0.01)),
    "up": constant_speed(pan=(0.01, -0.1)),
    "down": constant_speed(pan=(0.01, 0.1)),
    "closer": constant_speed(zoom=1.2),
    "away": constant_speed(zoom=1 / 1.2),
}


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_context_model_is_a_probability(order):
    model = ContextModel(order, 3)
    assert model.bits([0, 1, 2]) == pytest.approx(3 * math.log2(3)), "nothing was learned yet"
    model.learn([0, 1, 2, 0, 1, 2, 0, 0])
    total = sum(2 ** -model.bits(ids) for ids in itertools.product(range(3), repeat=3))
    assert total == pytest.approx(1)


def test_longer_contexts_and_places_tell_more():
    sequence = [0, 0, 1] * 20
    bits = []
    for order in (0, 1, 2):
        model = ContextModel(order, 4)
        model.learn(sequence)
        bits.append(model.bits(sequence))
    assert bits[0] > bits[1] > bits[2]
    with_place = ContextModel(0, 4)
    places = [number % 3 for number in range(len(sequence))]
    with_place.learn(sequence, places)
    assert with_place.bits(sequence, places) < bits[0] / 10


@pytest.mark.parametrize("wanted", CAMERAS)
def test_optical_flow_tells_the_direction_of_a_camera(wanted):
    scene = Scene([Layer(photograph("coffee"), CAMERAS[wanted])], (128, 72))
    frames = np.stack(list(scene.frames(index / 12 for index in range(6))))
    assert optical_flow(frames).direction(wanted in ("closer", "away")) == wanted
