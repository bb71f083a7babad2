"""Judge by two pictures whether a new scene begins, compiled by numba: the same as `codec.optical_flow.is_scene_cut`.

Import this module through `codec.acceleration`; what a kernel may call is said in `codec.compilation`.
"""

import numpy as np
from numba import types

from codec.compilation import array_type, inner, kernel
from codec.optical_flow import (
    CORRELATION_WINDOW,
    MIN_SCENE_CORRELATION,
    MIN_TEXTURE_VARIANCE,
    MIN_TEXTURED_SHARE,
    PLAIN_CUT_DIFFERENCE,
    WINDOW_PIXELS,
)


@inner
def _mirrored(position, length):
    """Return a position beyond the border, mirrored at the outermost pixel."""
    if length == 1:
        return 0
    while position < 0 or position >= length:
        position = -position if position < 0 else 2 * length - 2 - position
    return position


@inner
def _add_row(picture, warped, y, sign, width, columns):
    """Add a row's values, squares and products to the sums of columns, or subtract them."""
    half, stride = CORRELATION_WINDOW // 2, len(columns) // 5
    for x in range(width):
        one, other = np.int32(picture[np.uintp(y * width + x)]), np.int32(warped[np.uintp(y * width + x)])
        columns[np.uintp(half + x)] += sign * one
        columns[np.uintp(half + x + stride)] += sign * other
        columns[np.uintp(half + x + 2 * stride)] += sign * one * one
        columns[np.uintp(half + x + 3 * stride)] += sign * other * other
        columns[np.uintp(half + x + 4 * stride)] += sign * one * other


@inner
def _sum_windows(columns, width, sums):
    """Write the sums of `CORRELATION_WINDOW` columns around each pixel; columns are mirrored at the border first."""
    half, stride = CORRELATION_WINDOW // 2, len(columns) // 5
    for begin in range(0, 5 * stride, stride):
        for x in range(half):
            columns[begin + x] = columns[begin + half + _mirrored(x - half, width)]
            columns[begin + half + width + x] = columns[begin + half + _mirrored(width + x, width)]
    for n in range(5 * stride):
        sums[n] = columns[n]
    # sums of 2, 4, 8, 16 columns, then of 17: integers are exact in any order
    step = 1
    while 2 * step < CORRELATION_WINDOW:
        for n in range(5 * stride - step):
            sums[np.uintp(n)] += sums[np.uintp(n + step)]
        step *= 2
    for n in range(5 * stride - CORRELATION_WINDOW + 1):
        sums[np.uintp(n)] += columns[np.uintp(n + CORRELATION_WINDOW - 1)]


@kernel(types.boolean(array_type(types.uint8, 2, readonly=True), array_type(types.uint8, 2, readonly=True)))
def is_scene_cut(picture, warped):
    """See `optical_flow.is_scene_cut`. Sums of columns are kept from row to row."""
    height, width = picture.shape
    half, pixels = CORRELATION_WINDOW // 2, np.float64(WINDOW_PIXELS)
    flat_picture, flat_warped = picture.reshape(-1), warped.reshape(-1)
    stride = width + 2 * half
    columns, sums = np.zeros(5 * stride, np.int32), np.zeros(5 * stride, np.int32)
    correlations = np.zeros(width)
    least, num_textured = MIN_TEXTURE_VARIANCE * pixels * pixels, 0
    for row in range(height):
        if row == 0:
            for y in range(-half, half + 1):
                _add_row(flat_picture, flat_warped, _mirrored(y, height), np.int32(1), width, columns)
        else:
            old, new = _mirrored(row - half - 1, height), _mirrored(row + half, height)
            _add_row(flat_picture, flat_warped, old, np.int32(-1), width, columns)
            _add_row(flat_picture, flat_warped, new, np.int32(1), width, columns)
        _sum_windows(columns, width, sums)
        for x in range(width):
            mean, other_mean = np.float64(sums[np.uintp(x)]), np.float64(sums[np.uintp(x + stride)])
            variance = sums[np.uintp(x + 2 * stride)] * pixels - mean * mean
            other = sums[np.uintp(x + 3 * stride)] * pixels - other_mean * other_mean
            covariance = sums[np.uintp(x + 4 * stride)] * pixels - mean * other_mean
            correlation = covariance / np.sqrt(max(variance * other, pixels * pixels * pixels * pixels))
            is_textured = max(variance, other) > least
            num_textured += is_textured
            correlations[x] += correlation if is_textured else 0.0
    if num_textured < MIN_TEXTURED_SHARE * (height * width):
        difference = 0
        for n in range(height * width):
            difference += abs(np.int32(flat_picture[n]) - np.int32(flat_warped[n]))
        return difference > PLAIN_CUT_DIFFERENCE * height * width
    total = 0.0
    for x in range(width):
        total += correlations[x]
    return total / num_textured < MIN_SCENE_CORRELATION
