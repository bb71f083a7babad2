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

from codec.compilation import B2, F2, F3, ONE, F, c_order, inner, kernel
from codec.compiled_scene_cuts import is_scene_cut
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

LEAST_WEIGHT = F(1e-6)
KNOWN, VALID = F(MIN_KNOWN_WEIGHT), F(MIN_VALID_SHARE)
NEAREST, STEPS = F(32), F(1 / 32)
"""OpenCV's `remap` rounds positions to this part of a cell where values have two channels."""
UNIT, TWO = np.uintp(1), np.uintp(2)
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
def _flat(array):
    """Return an array in one dimension: LLVM makes vector instructions of loops over it, ten times as fast."""
    return array.reshape(-1)


@inner
def _channels(cell):
    """Return where both channels of a cell stand in a flat array [h, w, 2]."""
    return np.uintp(2 * cell), np.uintp(2 * cell + 1)


@inner
def _load_row(flat, row, width, x, y):
    """Write both channels of a row of a flat array [h, w, 2]."""
    for column in range(width):
        i, j = _channels(row * width + column)
        x[column], y[column] = flat[i], flat[j]


@inner
def _store_row(x, y, row, width, flat):
    """Write a row of a flat array [h, w, 2] from both channels."""
    for column in range(width):
        i, j = _channels(row * width + column)
        flat[i], flat[j] = x[column], y[column]


@inner
def _sample_two(flat, height, width, row, x, y, cells, shares, first, second):
    """Write both channels of a flat array [h, w, 2] at displacements (x, y) from the cells of a row.

    Positions first, then values: so the first loop becomes vector instructions; but only if `width` is an argument and
    callers allocate each array by itself (26 instead of 66 us for three rounds on 40 x 72 cells).

    Args:
        cells: int32 [4 * w], working memory: the cells around each position (top left, top right, bottom left, right).
        shares: float32 [4 * w], working memory: their shares.
    """
    for column in range(width):
        position_x = min(max(np.rint((x[column] * F(width) + F(column)) * NEAREST), -FARTHEST), FARTHEST)
        position_y = min(max(np.rint((y[column] * F(height) + F(row)) * NEAREST), -FARTHEST), FARTHEST)
        whole_x, whole_y = np.int32(position_x), np.int32(position_y)
        part_x, part_y = F(whole_x & 31) * STEPS, F(whole_y & 31) * STEPS
        left, top = whole_x >> 5, whole_y >> 5
        right, bottom = _clamp(left + 1, width), _clamp(top + 1, height)
        left, top = _clamp(left, width), _clamp(top, height)
        cells[column], cells[column + width] = top * width + left, top * width + right
        cells[column + 2 * width], cells[column + 3 * width] = bottom * width + left, bottom * width + right
        shares[column], shares[column + width] = (ONE - part_y) * (ONE - part_x), (ONE - part_y) * part_x
        shares[column + 2 * width], shares[column + 3 * width] = part_y * (ONE - part_x), part_y * part_x
    for column in range(width):
        a, b = TWO * np.uintp(cells[column]), TWO * np.uintp(cells[column + width])
        c, d = TWO * np.uintp(cells[column + 2 * width]), TWO * np.uintp(cells[column + 3 * width])
        one, two = shares[column], shares[column + width]
        three, four = shares[column + 2 * width], shares[column + 3 * width]
        first[column] = flat[a] * one + flat[b] * two + flat[c] * three + flat[d] * four
        a, b, c, d = a + UNIT, b + UNIT, c + UNIT, d + UNIT
        second[column] = flat[a] * one + flat[b] * two + flat[c] * three + flat[d] * four


@inner
def _mix(one, two, three, four, part_x, part_y):
    """Return the bilinear mean of four values: top left, top right, bottom left, bottom right."""
    top, bottom = _fma(two - one, part_x, one), _fma(four - three, part_x, three)
    return _fma(bottom - top, part_y, top)


@inner
def _sample_three(flat, weight, height, width, row, x, y, cells, shares, first, second, third):
    """Write both channels of a flat array [h, w, 2], and a weight [h, w], as `_sample_two` does."""
    for column in range(width):
        position_x = min(max(x[column] * F(width) + F(column), -FARTHEST), FARTHEST)
        position_y = min(max(y[column] * F(height) + F(row), -FARTHEST), FARTHEST)
        whole_x, whole_y = np.floor(position_x), np.floor(position_y)
        shares[column], shares[column + width] = position_x - whole_x, position_y - whole_y
        left, top = np.int32(whole_x), np.int32(whole_y)
        right, bottom = _clamp(left + 1, width), _clamp(top + 1, height)
        left, top = _clamp(left, width), _clamp(top, height)
        cells[column], cells[column + width] = top * width + left, top * width + right
        cells[column + 2 * width], cells[column + 3 * width] = bottom * width + left, bottom * width + right
    for column in range(width):
        a, b = np.uintp(cells[column]), np.uintp(cells[column + width])
        c, d = np.uintp(cells[column + 2 * width]), np.uintp(cells[column + 3 * width])
        part_x, part_y = shares[column], shares[column + width]
        third[column] = _mix(weight[a], weight[b], weight[c], weight[d], part_x, part_y)
        a, b, c, d = TWO * a, TWO * b, TWO * c, TWO * d
        first[column] = _mix(flat[a], flat[b], flat[c], flat[d], part_x, part_y)
        a, b, c, d = a + UNIT, b + UNIT, c + UNIT, d + UNIT
        second[column] = _mix(flat[a], flat[b], flat[c], flat[d], part_x, part_y)


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
        flat, flat_weight, out, out_weight = _flat(values), _flat(weight), _flat(new_values), _flat(new_weight)
        for row in range(new_rows):
            upper, lower, here = 2 * row * columns, (2 * row + 1) * columns, row * new_columns
            for column in range(new_columns):
                i, j = np.uintp(upper + 2 * column), np.uintp(lower + 2 * column)
                total = flat_weight[i] + flat_weight[i + UNIT] + flat_weight[j] + flat_weight[j + UNIT]
                out_weight[np.uintp(here + column)] = total * quarter
                i, j, n = TWO * i, TWO * j, np.uintp(2 * (here + column))
                out[n] = (flat[i] + flat[i + TWO] + flat[j] + flat[j + TWO]) * quarter
                i, j, n = i + UNIT, j + UNIT, n + UNIT
                out[n] = (flat[i] + flat[i + TWO] + flat[j] + flat[j + TWO]) * quarter
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
    wide = np.empty(2 * rows * new_columns, np.float32)
    flat, flat_out = _flat(values), _flat(out)
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
            i, j = np.uintp(2 * (row * columns + left)), np.uintp(2 * (row * columns + right))
            n = np.uintp(2 * (row * new_columns + column))
            wide[n] = flat[i] * (ONE - part) + flat[j] * part
            wide[n + UNIT] = flat[i + UNIT] * (ONE - part) + flat[j + UNIT] * part
    scale, length = rows / new_rows, 2 * new_columns
    for row in range(new_rows):
        position = F((row + 0.5) * scale - 0.5)
        whole = int(np.floor(position))
        part = position - F(whole)
        top, bottom = _clamp(whole, rows) * length, _clamp(whole + 1, rows) * length
        for n in range(length):
            one, two = wide[np.uintp(top + n)], wide[np.uintp(bottom + n)]
            flat_out[np.uintp(row * length + n)] = one * (ONE - part) + two * part


# --- operations on fields -----------------------------------------------------------------------------------------


@inner
def _level(all_values, all_weights, start, height, width):
    """Return the values [h, w, 2] and weights [h, w] that begin at a cell of a buffer."""
    end = start + height * width
    return all_values[2 * start : 2 * end].reshape(height, width, 2), all_weights[start:end].reshape(height, width)


@kernel(F3(F3, B2))
def _fill(vectors, known):
    """Return vectors with holes filled, level by level; see `motion_fields.fill_holes`."""
    rows, columns = known.shape
    flat_known, flat_vectors, num_known = _flat(known), _flat(vectors), 0
    for cell in range(known.size):
        num_known += flat_known[cell]
    if num_known == rows * columns:
        return vectors
    # values and weights of all levels, one after another
    size = 2 * (rows + 2) * (columns + 2)
    all_values, all_weights = np.empty(2 * size, np.float32), np.empty(size, np.float32)
    offsets, heights, widths = np.empty(20, np.int64), np.empty(20, np.int64), np.empty(20, np.int64)
    offsets[0], heights[0], widths[0] = 0, rows, columns
    for cell in range(known.size):
        i, j = _channels(cell)
        share = ONE if flat_known[cell] else F(0)
        all_weights[cell] = share
        all_values[i], all_values[j] = flat_vectors[i] * share, flat_vectors[j] * share
    level = 0
    while True:
        start, num_cells = offsets[level], heights[level] * widths[level]
        num_some, num_full = 0, 0
        for n in range(start, start + num_cells):
            num_some += all_weights[n] > F(0)
            num_full += all_weights[n] >= ONE
        if num_some == 0 or num_full == num_cells or num_cells == 1:
            break
        level += 1
        begin = start + num_cells
        offsets[level], heights[level], widths[level] = begin, -(-heights[level - 1] // 2), -(-widths[level - 1] // 2)
        values, weight = _level(all_values, all_weights, start, heights[level - 1], widths[level - 1])
        _halve(values, weight, *_level(all_values, all_weights, begin, heights[level], widths[level]))
        for n in range(begin, begin + heights[level] * widths[level]):
            i, j = _channels(n)
            share = all_weights[n]
            gain = min(ONE, share * F(4)) / max(share, LEAST_WEIGHT)
            all_values[i] *= gain
            all_values[j] *= gain
            all_weights[n] = share * gain
    for n in range(start, start + num_cells):
        i, j = _channels(n)
        share = max(all_weights[n], LEAST_WEIGHT)
        all_values[i] = F(0) if num_some == 0 else all_values[i] / share
        all_values[j] = F(0) if num_some == 0 else all_values[j] / share
    coarse, _ = _level(all_values, all_weights, start, heights[level], widths[level])
    while level:
        level -= 1
        start = offsets[level]
        values, weight = _level(all_values, all_weights, start, heights[level], widths[level])
        smooth = np.empty((heights[level], widths[level], 2), np.float32)
        _double(coarse, smooth)
        flat_smooth, flat_values, flat_weight = _flat(smooth), _flat(values), _flat(weight)
        for cell in range(weight.size):
            i, j = _channels(cell)
            divisor, share = max(flat_weight[cell], LEAST_WEIGHT), min(flat_weight[cell], ONE)
            flat_values[i] = flat_values[i] / divisor * share + flat_smooth[i] * (ONE - share)
            flat_values[j] = flat_values[j] / divisor * share + flat_smooth[j] * (ONE - share)
        coarse = values
    return coarse


@inner
def _length(x, y):
    y = y * F(9 / 16)
    return np.sqrt(x * x + y * y)


@inner
def _weigh(vectors, weight, expected, out):
    """Write weights multiplied by the likelihood of vectors; see `MotionPrior`."""
    flat_vectors, flat_weight, flat_expected, flat_out = _flat(vectors), _flat(weight), _flat(expected), _flat(out)
    for cell in range(weight.size):
        i, j = _channels(cell)
        x, y = flat_expected[i], flat_expected[j]
        error = _length(flat_vectors[i] - x, flat_vectors[j] - y)
        error /= F(PRIOR_TOLERANCE[0]) + F(PRIOR_TOLERANCE[1]) * _length(x, y)
        flat_out[cell] = flat_weight[cell] * (ONE / (error * error + ONE))


@kernel(F2(F3, F2, F3))
def _weighed(vectors, weight, expected):
    out = np.empty_like(weight)
    _weigh(vectors, weight, expected, out)
    return out


@kernel(F3(F3, F3))
def _add_step(total, vectors):
    out, (height, width) = np.empty_like(vectors), vectors.shape[:2]
    flat_total, flat_vectors, flat_out = _flat(total), _flat(vectors), _flat(out)
    x, y = np.empty(width, F), np.empty(width, F)
    first, second = np.empty(width, F), np.empty(width, F)
    cells, shares = np.empty(4 * width, np.int32), np.empty(4 * width, F)
    for row in range(height):
        _load_row(flat_vectors, row, width, x, y)
        _sample_two(flat_total, height, width, row, x, y, cells, shares, first, second)
        for column in range(width):
            x[column], y[column] = x[column] + first[column], y[column] + second[column]
        _store_row(x, y, row, width, flat_out)
    return out


@kernel(types.Tuple((F3, F2))(F3, F2, F3, F3))
def _over_earlier(vectors, weight, total, expected):
    out, (height, width) = np.empty_like(vectors), weight.shape
    flat_total, flat_vectors, flat_out = _flat(total), _flat(vectors), _flat(out)
    x, y = np.empty(width, F), np.empty(width, F)
    vector_x, vector_y = np.empty(width, F), np.empty(width, F)
    first, second = np.empty(width, F), np.empty(width, F)
    cells, shares = np.empty(4 * width, np.int32), np.empty(4 * width, F)
    for row in range(height):
        _load_row(flat_vectors, row, width, vector_x, vector_y)
        _load_row(flat_total, row, width, first, second)
        # each cell's iteration is its own
        for column in range(width):
            x[column], y[column] = vector_x[column] - first[column], vector_y[column] - second[column]
        for _ in range(NUM_INVERSION_ROUNDS):
            _sample_two(flat_total, height, width, row, x, y, cells, shares, first, second)
            for column in range(width):
                x[column], y[column] = vector_x[column] - first[column], vector_y[column] - second[column]
        _store_row(x, y, row, width, flat_out)
    likely = np.empty_like(weight)
    _weigh(out, weight, expected, likely)
    return out, likely


@kernel(types.Tuple((F3, F2))(F3, F2, F3, F2, F3))
def _over_later(vectors, weight, remaining, remaining_weight, expected):
    # two arrays of weights: a loop that reads what it writes is no vector instruction
    out, covered, likely = np.empty_like(vectors), np.empty_like(weight), np.empty_like(weight)
    height, width = weight.shape
    flat_vectors, flat_weight, flat_out, flat_covered = _flat(vectors), _flat(weight), _flat(out), _flat(covered)
    flat_remaining, flat_remaining_weight = _flat(remaining), _flat(remaining_weight)
    x, y = np.empty(width, F), np.empty(width, F)
    first, second = np.empty(width, F), np.empty(width, F)
    third = np.empty(width, F)
    cells, shares = np.empty(4 * width, np.int32), np.empty(4 * width, F)
    for row in range(height):
        _load_row(flat_vectors, row, width, x, y)
        _sample_three(
            flat_remaining, flat_remaining_weight, height, width, row, x, y, cells, shares, first, second, third
        )
        for column in range(width):
            x[column], y[column] = x[column] + first[column], y[column] + second[column]
            cell = np.uintp(row * width + column)
            flat_covered[cell] = flat_weight[cell] * third[column]
        _store_row(x, y, row, width, flat_out)
    _weigh(out, covered, expected, likely)
    return out, likely


@kernel(types.Tuple((F3, B2))(F3, F2))
def _negated(vectors, weight):
    """Return the negated vectors, and where they are known."""
    out, known = np.empty_like(vectors), np.empty(weight.shape, np.bool_)
    flat_vectors, flat_weight, flat_out, flat_known = _flat(vectors), _flat(weight), _flat(out), _flat(known)
    for n in range(vectors.size):
        flat_out[n] = -flat_vectors[n]
    for cell in range(weight.size):
        flat_known[cell] = flat_weight[cell] >= KNOWN
    return out, known


@inner
def _multiply(vectors, weight, out):
    """Write vectors times weights."""
    flat_vectors, flat_weight, flat_out = _flat(vectors), _flat(weight), _flat(out)
    for cell in range(weight.size):
        i, j = _channels(cell)
        share = flat_weight[cell]
        flat_out[i], flat_out[j] = flat_vectors[i] * share, flat_vectors[j] * share


@kernel(types.Tuple((F3, F2))(F3, F2, F3, F3, F2, F3))
def _inverse(backward, backward_weight, filled, mean, mean_weight, expected):
    """Return the inverse, looked up first along `mean`, or along `filled` where `mean` has no weight."""
    motion, weighted = np.empty_like(backward), np.empty_like(backward)
    weight, likely = np.empty_like(backward_weight), np.empty_like(backward_weight)
    _multiply(backward, backward_weight, weighted)
    height, width = weight.shape
    flat_weighted, flat_backward_weight, flat_motion = _flat(weighted), _flat(backward_weight), _flat(motion)
    flat_filled, flat_mean, flat_mean_weight, flat_weight = (
        _flat(filled),
        _flat(mean),
        _flat(mean_weight),
        _flat(weight),
    )
    x, y = np.empty(width, F), np.empty(width, F)
    first, second = np.empty(width, F), np.empty(width, F)
    third = np.empty(width, F)
    cells, shares = np.empty(4 * width, np.int32), np.empty(4 * width, F)
    for row in range(height):
        _load_row(flat_filled, row, width, first, second)
        _load_row(flat_mean, row, width, x, y)
        for column in range(width):
            has_mean = flat_mean_weight[np.uintp(row * width + column)] > 0
            x[column] = x[column] if has_mean else first[column]
            y[column] = y[column] if has_mean else second[column]
        for _ in range(NUM_INVERSE_ROUNDS):
            _sample_three(
                flat_weighted, flat_backward_weight, height, width, row, x, y, cells, shares, first, second, third
            )
            for column in range(width):
                is_known, divisor = third[column] >= KNOWN, max(third[column], LEAST_WEIGHT)
                x[column] = first[column] / divisor if is_known else x[column]
                y[column] = second[column] / divisor if is_known else y[column]
        for column in range(width):
            share = third[column]
            flat_weight[np.uintp(row * width + column)] = share if share >= KNOWN else F(0)
        _store_row(x, y, row, width, flat_motion)
    _weigh(motion, weight, expected, likely)
    return motion, likely


@kernel(types.void(F3, F2, F3, F2, types.boolean))
def _accumulate(total, total_weight, vectors, weight, is_first):
    if is_first:
        _multiply(vectors, weight, total)
        total_weight[:] = weight
        return
    flat_vectors, flat_weight, flat_total, flat_sum = _flat(vectors), _flat(weight), _flat(total), _flat(total_weight)
    for cell in range(weight.size):
        i, j = _channels(cell)
        share = flat_weight[cell]
        flat_total[i] += flat_vectors[i] * share
        flat_total[j] += flat_vectors[j] * share
        flat_sum[cell] += share


@kernel(types.void(F3, F2))
def _divide(total, weight):
    flat_total, flat_weight = _flat(total), _flat(weight)
    for cell in range(weight.size):
        i, j = _channels(cell)
        divisor = max(flat_weight[cell], LEAST_WEIGHT)
        flat_total[i] /= divisor
        flat_total[j] /= divisor


@kernel(types.Tuple((types.int64, B2, F2))(F2))
def _known_cells(weight):
    """Return how many cells are known, which, and weights of at most 1."""
    known, out, count = np.empty(weight.shape, np.bool_), np.empty_like(weight), 0
    flat_weight, flat_known, flat_out = _flat(weight), _flat(known), _flat(out)
    for cell in range(weight.size):
        flat_known[cell] = flat_weight[cell] >= KNOWN
        count += flat_weight[cell] >= KNOWN
        flat_out[cell] = min(flat_weight[cell], ONE)
    return count, known, out


@kernel(types.Tuple((types.int64, F3, B2, F2))(F3, F2))
def _mean_of_one(vectors, weight):
    """Return how many cells of a single candidate are known, its weighted mean, known cells, weights of at most 1."""
    out, known, limited = np.empty_like(vectors), np.empty(weight.shape, np.bool_), np.empty_like(weight)
    flat_vectors, flat_weight, flat_out = _flat(vectors), _flat(weight), _flat(out)
    flat_known, flat_limited, count = _flat(known), _flat(limited), 0
    for cell in range(weight.size):
        i, j = _channels(cell)
        share = flat_weight[cell]
        divisor = max(share, LEAST_WEIGHT)
        flat_out[i], flat_out[j] = flat_vectors[i] * share / divisor, flat_vectors[j] * share / divisor
    for cell in range(weight.size):
        flat_known[cell] = flat_weight[cell] >= KNOWN
        count += flat_weight[cell] >= KNOWN
        flat_limited[cell] = min(flat_weight[cell], ONE)
    return count, out, known, limited


@kernel(types.Tuple((F3, B2))(F3, B2, F3, B2))
def _compose(later, later_valid, earlier, earlier_valid):
    out, valid, weight = np.empty_like(later), np.empty_like(later_valid), np.empty(later_valid.size, np.float32)
    flat_earlier_valid, flat_valid, flat_later_valid = _flat(earlier_valid), _flat(valid), _flat(later_valid)
    for cell in range(valid.size):
        weight[cell] = ONE if flat_earlier_valid[cell] else F(0)
    height, width = valid.shape
    flat_later, flat_earlier, flat_out = _flat(later), _flat(earlier), _flat(out)
    x, y = np.empty(width, F), np.empty(width, F)
    first, second = np.empty(width, F), np.empty(width, F)
    third = np.empty(width, F)
    cells, shares = np.empty(4 * width, np.int32), np.empty(4 * width, F)
    for row in range(height):
        _load_row(flat_later, row, width, x, y)
        _sample_three(flat_earlier, weight, height, width, row, x, y, cells, shares, first, second, third)
        for column in range(width):
            x[column], y[column] = x[column] + first[column], y[column] + second[column]
            cell = np.uintp(row * width + column)
            flat_valid[cell] = flat_later_valid[cell] and third[column] >= VALID
        _store_row(x, y, row, width, flat_out)
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

    def filled_mean(self, candidates: Sequence[WeightedField]) -> WeightedField | None:
        if len(candidates) > 1:
            return super().filled_mean(candidates)
        (only,) = candidates
        count, mean, known, weight = _mean_of_one(c_order(only.vectors), c_order(only.weight))
        return WeightedField(_fill(mean, known), weight) if count else None

    def filled(self, motion: WeightedField) -> WeightedField | None:
        count, known, weight = _known_cells(c_order(motion.weight))
        return WeightedField(_fill(c_order(motion.vectors), known), weight) if count else None

    def is_scene_cut(self, picture: np.ndarray, warped: np.ndarray) -> bool:
        return bool(is_scene_cut(c_order(picture), c_order(warped)))

    def compose(self, later: StepField, earlier: StepField) -> StepField:
        if not (later.vectors.flags.c_contiguous and earlier.vectors.flags.c_contiguous):
            return super().compose(later, earlier)  # transposed for display; the order of sums depends on it
        valid, earlier_valid = c_order(later.valid), c_order(earlier.valid)
        return StepField(*_compose(later.vectors, valid, earlier.vectors, earlier_valid))

    def pool(self, field: StepField, factor: int) -> StepField:
        if not field.vectors.flags.c_contiguous:
            return super().pool(field, factor)
        return StepField(*_pool(field.vectors, c_order(field.valid), factor))
