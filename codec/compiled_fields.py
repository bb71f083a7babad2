"""The operations of `codec.field_operations`, compiled by numba: the same results bit by bit, in less time.

Every sum is made in numpy's order and every product is rounded by itself (no fast-math, no contraction). `_sample_two`,
`_sample_three`, `_halve` and `_double` repeat what OpenCV's `remap` and `resize` compute; `codec.acceleration` compares
them with the installed OpenCV before they are used.

All kernels on fields are in this file, though it is long, because they share these four functions: see
`codec.compilation`. Import this module through `codec.acceleration`: importing numba takes 0.2 s.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from codec.compilation import B2, F2, F3, ONE, F, array_type, c_order, inner, kernel
from codec.compiled_vectors import pool_vectors
from codec.field_operations import (
    MIN_KNOWN_WEIGHT,
    NUM_INVERSE_ROUNDS,
    NUM_INVERSION_ROUNDS,
    PRIOR_TOLERANCE,
    FieldOperations,
    ListCandidates,
    MotionPrior,
    PooledVectors,
)
from codec.motion_fields import MIN_VALID_SHARE, StepField, WeightedField
from codec.optical_flow import (
    CORRELATION_WINDOW,
    MIN_SCENE_CORRELATION,
    MIN_TEXTURE_VARIANCE,
    MIN_TEXTURED_SHARE,
    PLAIN_CUT_DIFFERENCE,
    WINDOW_PIXELS,
)

LEAST_WEIGHT = F(1e-6)
KNOWN, VALID = F(MIN_KNOWN_WEIGHT), F(MIN_VALID_SHARE)
NEAREST, STEPS = F(32), F(1 / 32)
"""OpenCV's `remap` rounds positions to this part of a cell where values have two channels."""
FARTHEST = F(1e6)
"""Positions beyond this many cells are at the border anyway."""


def _fused(typing_context: Any, a: Any, b: Any, c: Any) -> Any:  # pragma: no cover, compiled
    """Return a * b + c, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


_fma: Any = intrinsic(_fused)


# --- sampling and resizing as OpenCV does it ----------------------------------------------------------------------


@inner
def _clamp(value, limit):
    return min(max(value, 0), limit - 1)


@inner
def _sample_two(values, x, y, column, row):
    """Return both channels of `values`, float32 [h, w, 2], at a displacement (x, y) from a cell."""
    height, width = values.shape[:2]
    position_x = min(max(np.rint((x * F(width) + F(column)) * NEAREST), -FARTHEST), FARTHEST)
    position_y = min(max(np.rint((y * F(height) + F(row)) * NEAREST), -FARTHEST), FARTHEST)
    whole_x, whole_y = np.int32(position_x), np.int32(position_y)
    part_x, part_y = F(whole_x & 31) * STEPS, F(whole_y & 31) * STEPS
    left, top = whole_x >> 5, whole_y >> 5
    right, bottom = _clamp(left + 1, width), _clamp(top + 1, height)
    left, top = _clamp(left, width), _clamp(top, height)
    one, two = (ONE - part_y) * (ONE - part_x), (ONE - part_y) * part_x
    three, four = part_y * (ONE - part_x), part_y * part_x
    first = values[top, left, 0] * one + values[top, right, 0] * two
    second = values[top, left, 1] * one + values[top, right, 1] * two
    first = first + values[bottom, left, 0] * three + values[bottom, right, 0] * four
    second = second + values[bottom, left, 1] * three + values[bottom, right, 1] * four
    return first, second


@inner
def _mix(one, two, three, four, part_x, part_y):
    """Return the bilinear mean of four values: top left, top right, bottom left, bottom right."""
    top, bottom = _fma(two - one, part_x, one), _fma(four - three, part_x, three)
    return _fma(bottom - top, part_y, top)


@inner
def _sample_three(values, weight, x, y, column, row):
    """Return (x, y, weight) of `values`, float32 [h, w, 2], and `weight`, float32 [h, w], at a displacement."""
    height, width = weight.shape
    position_x = min(max(x * F(width) + F(column), -FARTHEST), FARTHEST)
    position_y = min(max(y * F(height) + F(row), -FARTHEST), FARTHEST)
    whole_x, whole_y = np.floor(position_x), np.floor(position_y)
    part_x, part_y = position_x - whole_x, position_y - whole_y
    left, top = np.int32(whole_x), np.int32(whole_y)
    right, bottom = _clamp(left + 1, width), _clamp(top + 1, height)
    left, top = _clamp(left, width), _clamp(top, height)
    first = _mix(
        values[top, left, 0], values[top, right, 0], values[bottom, left, 0], values[bottom, right, 0], part_x, part_y
    )
    second = _mix(
        values[top, left, 1], values[top, right, 1], values[bottom, left, 1], values[bottom, right, 1], part_x, part_y
    )
    third = _mix(weight[top, left], weight[top, right], weight[bottom, left], weight[bottom, right], part_x, part_y)
    return first, second, third


@inner
def _area_taps(length, new_length, sources, shares, begins):
    """Write which cells each of fewer cells covers, and by which share, as `resize` with INTER_AREA does.

    Cell n covers `sources[begins[n] : begins[n + 1]]`.
    """
    scale, count = length / new_length, 0
    for cell in range(new_length):
        begins[cell] = count
        begin = cell * scale
        end, size = begin + scale, min(scale, length - begin)
        last = min(int(np.floor(end)), length - 1)
        first = min(int(np.ceil(begin)), last)
        if first - begin > 1e-3:
            sources[count], shares[count] = first - 1, F((first - begin) / size)
            count += 1
        for source in range(first, last):
            sources[count], shares[count] = source, F(1.0 / size)
            count += 1
        if end - last > 1e-3:
            sources[count], shares[count] = last, F(min(min(end - last, 1.0), size) / size)
            count += 1
    begins[new_length] = count


@inner
def _halve(values, weight, new_values, new_weight):
    """Write values and weights on half as many rows and columns, as `resize` with INTER_AREA does."""
    rows, columns = weight.shape
    new_rows, new_columns = new_weight.shape
    if rows == 2 * new_rows and columns == 2 * new_columns:
        quarter = F(0.25)
        for row in range(new_rows):
            for column in range(new_columns):
                y, x = 2 * row, 2 * column
                for channel in range(2):
                    top = values[y, x, channel] + values[y, x + 1, channel]
                    total = top + values[y + 1, x, channel] + values[y + 1, x + 1, channel]
                    new_values[row, column, channel] = total * quarter
                total = weight[y, x] + weight[y, x + 1] + weight[y + 1, x] + weight[y + 1, x + 1]
                new_weight[row, column] = total * quarter
        return
    x_sources, x_shares = np.empty(2 * columns + 2, np.int64), np.empty(2 * columns + 2, np.float32)
    y_sources, y_shares = np.empty(2 * rows + 2, np.int64), np.empty(2 * rows + 2, np.float32)
    x_begins, y_begins = np.empty(new_columns + 1, np.int64), np.empty(new_rows + 1, np.int64)
    _area_taps(columns, new_columns, x_sources, x_shares, x_begins)
    _area_taps(rows, new_rows, y_sources, y_shares, y_begins)
    for row in range(new_rows):
        for column in range(new_columns):
            total_x = total_y = total_weight = F(0)
            for j in range(y_begins[row], y_begins[row + 1]):
                y, share = y_sources[j], y_shares[j]
                row_x = row_y = row_weight = F(0)
                for i in range(x_begins[column], x_begins[column + 1]):
                    x = x_sources[i]
                    row_x += values[y, x, 0] * x_shares[i]
                    row_y += values[y, x, 1] * x_shares[i]
                    row_weight += weight[y, x] * x_shares[i]
                total_x += row_x * share
                total_y += row_y * share
                total_weight += row_weight * share
            new_values[row, column, 0], new_values[row, column, 1] = total_x, total_y
            new_weight[row, column] = total_weight


@inner
def _double(values, out):
    """Write values, float32 [h, w, 2], on about twice as many rows and columns, as `resize` with INTER_LINEAR does."""
    rows, columns = values.shape[:2]
    new_rows, new_columns = out.shape[:2]
    wide = np.empty((rows, new_columns, 2), np.float32)
    scale = columns / new_columns
    for column in range(new_columns):
        position = F((column + 0.5) * scale - 0.5)
        left = int(np.floor(position))
        part = position - F(left)
        if left < 0:
            left, part = 0, F(0)
        if left >= columns - 1:
            left, part = columns - 1, F(0)
        right = min(left + 1, columns - 1)
        for row in range(rows):
            for channel in range(2):
                one, two = values[row, left, channel], values[row, right, channel]
                wide[row, column, channel] = one * (ONE - part) + two * part
    scale = rows / new_rows
    for row in range(new_rows):
        position = F((row + 0.5) * scale - 0.5)
        whole = int(np.floor(position))
        part = position - F(whole)
        top, bottom = _clamp(whole, rows), _clamp(whole + 1, rows)
        for column in range(new_columns):
            for channel in range(2):
                one, two = wide[top, column, channel], wide[bottom, column, channel]
                out[row, column, channel] = one * (ONE - part) + two * part


# --- operations on fields -----------------------------------------------------------------------------------------


@kernel(F3(F3, B2))
def _fill(vectors, known):
    """Return vectors with holes filled, level by level; see `motion_fields.fill_holes`."""
    rows, columns = known.shape
    num_known = 0
    for row in range(rows):
        for column in range(columns):
            num_known += known[row, column]
    if num_known == rows * columns:
        return vectors
    size = 2 * (rows + 2) * (columns + 2)
    all_values, all_weights = np.empty(2 * size, np.float32), np.empty(size, np.float32)
    offsets, heights, widths = np.empty(20, np.int64), np.empty(20, np.int64), np.empty(20, np.int64)
    offsets[0], heights[0], widths[0] = 0, rows, columns
    values = all_values[: 2 * rows * columns].reshape(rows, columns, 2)
    weight = all_weights[: rows * columns].reshape(rows, columns)
    for row in range(rows):
        for column in range(columns):
            share = ONE if known[row, column] else F(0)
            weight[row, column] = share
            for channel in range(2):
                values[row, column, channel] = vectors[row, column, channel] * share
    level = 0
    while True:
        height, width = heights[level], widths[level]
        least, most = F(np.inf), F(-np.inf)
        for row in range(height):
            for column in range(width):
                least, most = min(least, weight[row, column]), max(most, weight[row, column])
        if most == 0 or least >= 1 or height == width == 1:
            break
        start = offsets[level] + height * width
        half_height, half_width = max(1, -(-height // 2)), max(1, -(-width // 2))
        half_values = all_values[2 * start : 2 * (start + half_height * half_width)].reshape(half_height, half_width, 2)
        half_weight = all_weights[start : start + half_height * half_width].reshape(half_height, half_width)
        _halve(values, weight, half_values, half_weight)
        for row in range(half_height):
            for column in range(half_width):
                share = half_weight[row, column]
                gain = min(ONE, share * F(4)) / max(share, LEAST_WEIGHT)
                half_values[row, column, 0] *= gain
                half_values[row, column, 1] *= gain
                half_weight[row, column] = share * gain
        level += 1
        offsets[level], heights[level], widths[level] = start, half_height, half_width
        values, weight = half_values, half_weight
    for row in range(heights[level]):
        for column in range(widths[level]):
            share = max(weight[row, column], LEAST_WEIGHT)
            values[row, column, 0] = F(0) if most == 0 else values[row, column, 0] / share
            values[row, column, 1] = F(0) if most == 0 else values[row, column, 1] / share
    coarse = values
    while level:
        level -= 1
        height, width, start = heights[level], widths[level], offsets[level]
        values = all_values[2 * start : 2 * (start + height * width)].reshape(height, width, 2)
        weight = all_weights[start : start + height * width].reshape(height, width)
        smooth = np.empty((height, width, 2), np.float32)
        _double(coarse, smooth)
        for row in range(height):
            for column in range(width):
                divisor, share = max(weight[row, column], LEAST_WEIGHT), min(weight[row, column], ONE)
                for channel in range(2):
                    mean = values[row, column, channel] / divisor
                    values[row, column, channel] = mean * share + smooth[row, column, channel] * (ONE - share)
        coarse = values
    return coarse


@inner
def _length(x, y):
    y = y * F(9 / 16)
    return np.sqrt(x * x + y * y)


@inner
def _weigh(vectors, weight, expected, out):
    """Write weights multiplied by the likelihood of vectors; see `MotionPrior`."""
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            x, y = expected[row, column, 0], expected[row, column, 1]
            error = _length(vectors[row, column, 0] - x, vectors[row, column, 1] - y)
            error /= F(PRIOR_TOLERANCE[0]) + F(PRIOR_TOLERANCE[1]) * _length(x, y)
            out[row, column] = weight[row, column] * (ONE / (error * error + ONE))


@kernel(F2(F3, F2, F3))
def _weighed(vectors, weight, expected):
    out = np.empty_like(weight)
    _weigh(vectors, weight, expected, out)
    return out


@kernel(F3(F3, F3))
def _add_step(total, vectors):
    out = np.empty_like(vectors)
    for row in range(vectors.shape[0]):
        for column in range(vectors.shape[1]):
            x, y = vectors[row, column, 0], vectors[row, column, 1]
            first, second = _sample_two(total, x, y, column, row)
            out[row, column, 0], out[row, column, 1] = x + first, y + second
    return out


@kernel(types.Tuple((F3, F2))(F3, F2, F3, F3))
def _over_earlier(vectors, weight, total, expected):
    out = np.empty_like(vectors)
    for row in range(vectors.shape[0]):
        for column in range(vectors.shape[1]):
            # each cell's iteration is its own
            x, y = vectors[row, column, 0] - total[row, column, 0], vectors[row, column, 1] - total[row, column, 1]
            for _ in range(NUM_INVERSION_ROUNDS):
                first, second = _sample_two(total, x, y, column, row)
                x, y = vectors[row, column, 0] - first, vectors[row, column, 1] - second
            out[row, column, 0], out[row, column, 1] = x, y
    likely = np.empty_like(weight)
    _weigh(out, weight, expected, likely)
    return out, likely


@kernel(types.Tuple((F3, F2))(F3, F2, F3, F2, F3))
def _over_later(vectors, weight, remaining, remaining_weight, expected):
    out, likely = np.empty_like(vectors), np.empty_like(weight)
    for row in range(vectors.shape[0]):
        for column in range(vectors.shape[1]):
            x, y = vectors[row, column, 0], vectors[row, column, 1]
            first, second, share = _sample_three(remaining, remaining_weight, x, y, column, row)
            out[row, column, 0], out[row, column, 1] = x + first, y + second
            likely[row, column] = weight[row, column] * share
    _weigh(out, likely, expected, likely)
    return out, likely


@kernel(types.Tuple((F3, B2))(F3, F2))
def _negated(vectors, weight):
    """Return the negated vectors, and where they are known."""
    out, known = np.empty_like(vectors), np.empty(weight.shape, np.bool_)
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            known[row, column] = weight[row, column] >= KNOWN
            out[row, column, 0], out[row, column, 1] = -vectors[row, column, 0], -vectors[row, column, 1]
    return out, known


@kernel(types.Tuple((F3, F2))(F3, F2, F3, F3, F2, F3))
def _inverse(backward, backward_weight, filled, mean, mean_weight, expected):
    """Return the inverse, looked up first along `mean`, or along `filled` where `mean` has no weight."""
    motion, weighted = np.empty_like(backward), np.empty_like(backward)
    weight = np.empty_like(backward_weight)
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            for channel in range(2):
                weighted[row, column, channel] = backward[row, column, channel] * backward_weight[row, column]
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            start = mean if mean_weight[row, column] > 0 else filled
            x, y, share = start[row, column, 0], start[row, column, 1], F(0)
            for _ in range(NUM_INVERSE_ROUNDS):
                first, second, share = _sample_three(weighted, backward_weight, x, y, column, row)
                if share >= KNOWN:
                    divisor = max(share, LEAST_WEIGHT)
                    x, y = first / divisor, second / divisor
            motion[row, column, 0], motion[row, column, 1] = x, y
            weight[row, column] = share if share >= KNOWN else F(0)
    _weigh(motion, weight, expected, weight)
    return motion, weight


@kernel(types.void(F3, F2, F3, F2, types.boolean))
def _accumulate(total, total_weight, vectors, weight, is_first):
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            share = weight[row, column]
            x, y = vectors[row, column, 0] * share, vectors[row, column, 1] * share
            if is_first:
                total[row, column, 0], total[row, column, 1], total_weight[row, column] = x, y, share
            else:
                total[row, column, 0] += x
                total[row, column, 1] += y
                total_weight[row, column] += share


@kernel(types.void(F3, F2))
def _divide(total, weight):
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            divisor = max(weight[row, column], LEAST_WEIGHT)
            total[row, column, 0] /= divisor
            total[row, column, 1] /= divisor


@kernel(types.Tuple((types.int64, B2, F2))(F2))
def _known_cells(weight):
    """Return how many cells are known, which, and weights of at most 1."""
    known, out, count = np.empty(weight.shape, np.bool_), np.empty_like(weight), 0
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            known[row, column] = weight[row, column] >= KNOWN
            count += known[row, column]
            out[row, column] = min(weight[row, column], ONE)
    return count, known, out


@kernel(types.Tuple((F3, B2))(F3, B2, F3, B2))
def _compose(later, later_valid, earlier, earlier_valid):
    out, valid, shares = np.empty_like(later), np.empty_like(later_valid), np.empty(later_valid.shape, np.float32)
    for row in range(valid.shape[0]):
        for column in range(valid.shape[1]):
            shares[row, column] = ONE if earlier_valid[row, column] else F(0)
    for row in range(valid.shape[0]):
        for column in range(valid.shape[1]):
            x, y = later[row, column, 0], later[row, column, 1]
            first, second, share = _sample_three(earlier, shares, x, y, column, row)
            out[row, column, 0], out[row, column, 1] = x + first, y + second
            valid[row, column] = later_valid[row, column] and share >= VALID
    return out, valid


@kernel(types.Tuple((F3, B2))(F3, B2, types.int64))
def _pool(vectors, valid, factor):
    rows, columns = valid.shape[0] // factor, valid.shape[1] // factor
    out, out_valid = np.empty((rows, columns, 2), np.float32), np.empty((rows, columns), np.bool_)
    for row in range(rows):
        for column in range(columns):
            x, y, count = F(0), F(0), 0
            for i in range(factor):
                for j in range(factor):
                    # the first value is copied: 0 + -0.0 would lose its sign
                    cell = vectors[row * factor + i, column * factor + j]
                    x, y = (cell[0], cell[1]) if i == j == 0 else (x + cell[0], y + cell[1])
                    count += valid[row * factor + i, column * factor + j]
            out[row, column, 0], out[row, column, 1] = x / F(factor * factor), y / F(factor * factor)
            out_valid[row, column] = count / (factor * factor) >= MIN_VALID_SHARE
    return out, out_valid


# --- scene cuts ---------------------------------------------------------------------------------------------------


@inner
def _mirrored(position, length):
    """Return a position beyond the border, mirrored at the outermost pixel."""
    if length == 1:
        return 0
    while position < 0 or position >= length:
        position = -position if position < 0 else 2 * length - 2 - position
    return position


@kernel(types.boolean(array_type(types.uint8, 2, readonly=True), array_type(types.uint8, 2, readonly=True)))
def _is_scene_cut(picture, warped):
    """See `optical_flow.is_scene_cut`. Sums of columns are kept from row to row, and sums of windows along a row."""
    height, width = picture.shape
    half, pixels = CORRELATION_WINDOW // 2, np.float64(WINDOW_PIXELS)
    columns = np.zeros((5, width + 2 * half), np.int32)
    windows = np.empty((5, width), np.int32)
    variances, others, covariances = np.empty(width), np.empty(width), np.empty(width)
    num_textured, correlations = 0, 0.0
    for row in range(height):
        first_new = -half if row == 0 else row + half
        for source in range(first_new - (row > 0), row + half + 1):
            is_old = row > 0 and source == first_new - 1
            y = _mirrored(row - half - 1 if is_old else source, height)
            sign = np.int32(-1 if is_old else 1)
            for x in range(width):
                one, other = np.int32(picture[y, x]), np.int32(warped[y, x])
                columns[0, x + half] += sign * one
                columns[1, x + half] += sign * other
                columns[2, x + half] += sign * one * one
                columns[3, x + half] += sign * other * other
                columns[4, x + half] += sign * one * other
        for n in range(5):
            for x in range(half):
                columns[n, x] = columns[n, half + _mirrored(x - half, width)]
                columns[n, half + width + x] = columns[n, half + _mirrored(width + x, width)]
            total = np.int32(0)
            for x in range(2 * half):
                total += columns[n, x]
            for x in range(width):
                total += columns[n, x + 2 * half]
                windows[n, x] = total
                total -= columns[n, x]
        for x in range(width):
            mean, other_mean = np.float64(windows[0, x]), np.float64(windows[1, x])
            variances[x] = windows[2, x] * pixels - mean * mean
            others[x] = windows[3, x] * pixels - other_mean * other_mean
            covariances[x] = windows[4, x] * pixels - mean * other_mean
        for x in range(width):
            product = max(variances[x] * others[x], pixels * pixels * pixels * pixels)
            covariances[x] /= np.sqrt(product)
        for x in range(width):
            if max(variances[x], others[x]) > MIN_TEXTURE_VARIANCE * pixels * pixels:
                num_textured += 1
                correlations += covariances[x]
    if num_textured < MIN_TEXTURED_SHARE * (height * width):
        difference = 0
        for row in range(height):
            for x in range(width):
                difference += abs(np.int32(picture[row, x]) - np.int32(warped[row, x]))
        return difference > PLAIN_CUT_DIFFERENCE * height * width
    return correlations / num_textured < MIN_SCENE_CORRELATION


class CompiledOperations(FieldOperations):
    """The operations, compiled; each method as in `FieldOperations`."""

    def pool_vectors(
        self,
        records: np.ndarray,
        size: tuple[int, int],
        candidates: Sequence[ListCandidates],
        velocity: np.ndarray,
        may_be_direct: bool,
    ) -> PooledVectors:
        return pool_vectors(records, size, candidates, velocity, may_be_direct)

    def add_step(self, total: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        return _add_step(c_order(total), c_order(vectors))

    def weigh(self, candidate: WeightedField, prior: MotionPrior) -> WeightedField:
        return WeightedField(
            candidate.vectors, _weighed(c_order(candidate.vectors), c_order(candidate.weight), c_order(prior.expected))
        )

    def over_earlier(self, motion: WeightedField, total: np.ndarray, prior: MotionPrior) -> WeightedField:
        return WeightedField(
            *_over_earlier(c_order(motion.vectors), c_order(motion.weight), c_order(total), c_order(prior.expected))
        )

    def over_later(self, motion: WeightedField, remaining: WeightedField, prior: MotionPrior) -> WeightedField:
        moved, rest = (
            (c_order(motion.vectors), c_order(motion.weight)),
            (c_order(remaining.vectors), c_order(remaining.weight)),
        )
        return WeightedField(*_over_later(*moved, *rest, c_order(prior.expected)))

    def inverse(self, forward: WeightedField, mean: WeightedField | None, prior: MotionPrior) -> WeightedField:
        weight = c_order(forward.weight)
        backward, known = _negated(c_order(forward.vectors), weight)
        mean = mean or WeightedField(backward, np.zeros_like(weight))
        filled = backward if mean.weight.all() else _fill(backward, known)
        return WeightedField(
            *_inverse(backward, weight, filled, c_order(mean.vectors), c_order(mean.weight), c_order(prior.expected))
        )

    def weighted_mean(self, candidates: Sequence[WeightedField]) -> WeightedField:
        shape = candidates[0].weight.shape
        total, weight = np.empty((*shape, 2), np.float32), np.empty(shape, np.float32)
        for number, candidate in enumerate(candidates):
            _accumulate(total, weight, c_order(candidate.vectors), c_order(candidate.weight), number == 0)
        _divide(total, weight)
        return WeightedField(total, weight)

    def filled(self, motion: WeightedField) -> WeightedField | None:
        count, known, weight = _known_cells(c_order(motion.weight))
        return WeightedField(_fill(c_order(motion.vectors), known), weight) if count else None

    def is_scene_cut(self, picture: np.ndarray, warped: np.ndarray) -> bool:
        return bool(_is_scene_cut(c_order(picture), c_order(warped)))

    def compose(self, later: StepField, earlier: StepField) -> StepField:
        if not (later.vectors.flags.c_contiguous and earlier.vectors.flags.c_contiguous):
            return super().compose(later, earlier)  # transposed for display; the order of sums depends on it
        valid, earlier_valid = c_order(later.valid), c_order(earlier.valid)
        return StepField(*_compose(later.vectors, valid, earlier.vectors, earlier_valid))

    def pool(self, field: StepField, factor: int) -> StepField:
        if not field.vectors.flags.c_contiguous:
            return super().pool(field, factor)
        return StepField(*_pool(field.vectors, c_order(field.valid), factor))
