"""Pool a frame's vectors to a grid, compiled by numba: the same as `codec.motion_vectors`, bit by bit.

One kernel does all of it. Every sum is made in numpy's order and every product is rounded by itself; what a kernel may
call is said in `codec.compilation`.
"""

from collections.abc import Sequence

import numpy as np
from numba import types

from codec.compilation import D1, F1, F3, F4, I1, ONE, F, array_type, c_order, inner, kernel
from codec.field_operations import (
    ListCandidates,
    PooledReference,
    PooledVectors,
    expected_on_lattice,
    first_reference_bonus,
)
from codec.motion_fields import WeightedField
from codec.motion_vectors import (
    FARTHER_REFERENCE_PENALTY,
    LATTICE_PIXELS,
    MACROBLOCK_PIXELS,
    MOTION_TOLERANCE,
    lattice_shape,
    pooling_edges,
)

WORDS_PER_RECORD = 10
"""int32 words of FFmpeg's AVMotionVector."""


@inner
def _lay_vectors(words, width, height, x_plane, y_plane, known):
    """Lay records, int32 [n, 10], on a lattice; see `motion_vectors.vectors_to_lattice`.

    Args:
        words: the records.
        width, height: size of the picture in pixels.
        x_plane, y_plane: float32 [lists, rows, columns], where the vectors are written.
        known: uint8 [lists, rows, columns], zero before. 1 is written where a whole macroblock has a vector, 2 where a
            smaller block has one, which counts more.
    """
    right = -(-width // MACROBLOCK_PIXELS) * MACROBLOCK_PIXELS
    bottom = -(-height // MACROBLOCK_PIXELS) * MACROBLOCK_PIXELS
    num_lists, rows, columns = known.shape
    flat_x, flat_y, flat_known = x_plane.reshape(-1), y_plane.reshape(-1), known.reshape(-1)
    for n in range(len(words)):
        x, y = words[n, 2] >> 16, ((words[n, 3] & 0xFFFF) ^ 0x8000) - 0x8000
        which = np.int64(words[n, 0] > 0)
        if x < 0 or y < 0 or x >= right or y >= bottom or which >= num_lists:
            continue
        scale = F(max(words[n, 8] & 0xFFFF, 1))
        motion_x, motion_y = F(words[n, 6]) / scale, F(words[n, 7]) / scale
        wide = np.int64(words[n, 1] & 0xFF == MACROBLOCK_PIXELS)
        tall = np.int64((words[n, 1] >> 8) & 0xFF == MACROBLOCK_PIXELS)
        is_whole = wide + tall == 2
        left = x // MACROBLOCK_PIXELS * 2 if is_whole else max(x - 4 - 4 * wide, 0) // LATTICE_PIXELS
        top = y // MACROBLOCK_PIXELS * 2 if is_whole else max(y - 4 - 4 * tall, 0) // LATTICE_PIXELS
        if left >= columns or top >= rows:
            continue
        # each block is written to four cells, some of which are the same if it is small: loops would take twice as long
        upper = (which * rows + top) * columns
        lower = (which * rows + min(top + tall, rows - 1)) * columns
        beside = min(left + wide, columns - 1)
        kind = np.uint8(1 if is_whole else 2)
        for cell in (upper + left, upper + beside, lower + left, lower + beside):
            index = np.uintp(cell)
            if not (is_whole and flat_known[index] == 2):
                flat_known[index] = kind
                flat_x[index], flat_y[index] = motion_x, motion_y


@inner
def _count_known(known):
    """Return how many cells have a vector in list 0, in list 1, and in both."""
    num_lists, rows, columns = known.shape
    num_first, num_second, num_both = 0, 0, 0
    for row in range(rows):
        for column in range(columns):
            num_first += known[0, row, column] > 0
    if num_lists > 1:
        for row in range(rows):
            for column in range(columns):
                num_second += known[1, row, column] > 0
                num_both += (known[0, row, column] > 0) & (known[1, row, column] > 0)
    return num_first, num_second, num_both


@inner
def _resize(values, out):
    """Write values, float32 [h, w, 2], as planes, float32 [2, rows, columns], as `resize` with INTER_LINEAR does.

    That takes means instead if both sides are halved.
    """
    height, width = values.shape[:2]
    rows, columns = out.shape[1:]
    if rows == height and columns == width:
        for channel in range(2):
            for row in range(rows):
                for column in range(columns):
                    out[channel, row, column] = values[row, column, channel]
        return
    wide = np.empty((2, height, columns), np.float32)
    scale = 1.0 / (columns / width)
    for column in range(columns):
        position = F((column + 0.5) * scale - 0.5)
        left = int(np.floor(position))
        part = position - F(left)
        if left < 0:
            left, part = 0, F(0)
        if left >= width - 1:
            left, part = width - 1, F(0)
        right = min(left + 1, width - 1)
        for row in range(height):
            for channel in range(2):
                one, two = values[row, left, channel], values[row, right, channel]
                wide[channel, row, column] = one * (ONE - part) + two * part
    scale = 1.0 / (rows / height)
    for row in range(rows):
        position = F((row + 0.5) * scale - 0.5)
        whole = int(np.floor(position))
        part = position - F(whole)
        top, bottom = min(max(whole, 0), height - 1), min(max(whole + 1, 0), height - 1)
        for channel in range(2):
            for column in range(columns):
                one, two = wide[channel, top, column], wide[channel, bottom, column]
                out[channel, row, column] = one * (ONE - part) + two * part


@inner
def _choose_references(x_plane, y_plane, known, expected, width, height, spans, bonus, chosen):
    """Write which of several references each vector most likely points to; see `motion_vectors.likely_reference`.

    -1 where there is no vector.
    """
    # loops over flat arrays become vector instructions
    size, all_chosen, all_known, all_expected = chosen.size, chosen.reshape(-1), known.reshape(-1), expected.reshape(-1)
    x, y = x_plane.reshape(-1), y_plane.reshape(-1)
    tolerance, least = np.empty(size, F), np.empty(size, F)
    for cell in range(size):
        expected_x, expected_y = all_expected[np.uintp(cell)] * width, all_expected[np.uintp(cell + size)] * height
        tolerance[cell] = ONE + F(MOTION_TOLERANCE) * (abs(x[cell]) + abs(y[cell]))
        error = abs(x[cell] - expected_x * spans[0]) + abs(y[cell] - expected_y * spans[0])
        least[cell], all_chosen[cell] = min(error / tolerance[cell], F(np.inf)), np.int32(0)
    for number in range(1, len(spans)):
        span, penalty = spans[number], bonus + F(FARTHER_REFERENCE_PENALTY) * F(number - 1)
        for cell in range(size):
            expected_x, expected_y = all_expected[np.uintp(cell)] * width, all_expected[np.uintp(cell + size)] * height
            error = abs(x[cell] - expected_x * span) + abs(y[cell] - expected_y * span)
            error = error / tolerance[cell] + penalty
            is_less = error < least[cell]
            least[cell] = error if is_less else least[cell]
            all_chosen[cell] = np.int32(number) if is_less else all_chosen[cell]
    for cell in range(size):
        all_chosen[cell] = all_chosen[cell] if all_known[cell] > 0 else np.int32(-1)


@inner
def _pool_cells(
    x_plane, y_plane, chosen, number, width, height, row_edges, row_shares, column_edges, column_shares, out, out_weight
):
    """Write the means of the vectors of one reference over the cells of a grid, and the share that they cover.

    As in `motion_vectors.lattice_to_grid`, sums up to each edge are subtracted from each other: first of rows, over all
    columns at once, then of columns.
    """
    rows, columns = chosen.shape
    grid_rows, grid_columns = len(row_edges) - 1, len(column_edges) - 1
    values, sums, last = np.empty((3, columns)), np.zeros((3, columns)), np.zeros((3, columns))
    pooled = np.empty((grid_rows, 3, columns))
    scale, edge = grid_rows * LATTICE_PIXELS / height, 0
    for row in range(rows):
        here, x, y = chosen[row], x_plane[row], y_plane[row]
        for column in range(columns):
            share = 1.0 if here[column] == number else 0.0
            values[0, column] = share
            values[1, column] = np.float64(x[column]) * share
            values[2, column] = np.float64(y[column]) * share
        while edge <= grid_rows and row_edges[edge] == row:
            share = row_shares[edge]
            for channel in range(3):
                for column in range(columns):
                    at_edge = sums[channel, column] + share * values[channel, column]
                    pooled[max(edge - 1, 0), channel, column] = (at_edge - last[channel, column]) * scale
                    last[channel, column] = at_edge
            edge += 1
        for channel in range(3):
            for column in range(columns):
                # the first row is copied: 0 + -0.0 would lose its sign
                value = values[channel, column]
                sums[channel, column] = value if row == 0 else sums[channel, column] + value
    scale = grid_columns * LATTICE_PIXELS / width
    covered, sum_x, sum_y = np.empty((3, grid_columns + 1))
    for row in range(grid_rows):
        total = total_x = total_y = 0.0
        edge = 0
        for column in range(columns):
            new, new_x, new_y = pooled[row, 0, column], pooled[row, 1, column], pooled[row, 2, column]
            while edge <= grid_columns and column_edges[edge] == column:
                share = column_shares[edge]
                covered[edge] = total + share * new
                sum_x[edge], sum_y[edge] = total_x + share * new_x, total_y + share * new_y
                edge += 1
            if column == 0:
                total, total_x, total_y = new, new_x, new_y
            else:
                total, total_x, total_y = total + new, total_x + new_x, total_y + new_y
        # divisions of a whole row become vector instructions
        for cell in range(grid_columns):
            mean = (covered[cell + 1] - covered[cell]) * scale
            divisor = max(mean, 1e-6)
            out[row, cell, 0] = (sum_x[cell + 1] - sum_x[cell]) * scale / (width * divisor)
            out[row, cell, 1] = (sum_y[cell + 1] - sum_y[cell]) * scale / (height * divisor)
            out_weight[row, cell] = mean


@inner
def _fill_in_direct(x_plane, y_plane, known, expected, first_spans, second_spans, width, height):
    """Give direct blocks of MPEG-4, whose vectors are all zero, the expected motion.

    Returns:
        How many cells they cover.
    """
    rows, columns = known.shape[1:]
    has_first, has_second = len(first_spans) > 0, len(second_spans) > 0
    count = 0
    for row in range(rows):
        for column in range(columns):
            is_direct = known[0, row, column] > 0 and known[1, row, column] > 0
            for which in range(2):
                is_direct = is_direct and x_plane[which, row, column] == 0 and y_plane[which, row, column] == 0
            if not is_direct:
                continue
            count += 1
            if has_first:
                x_plane[0, row, column] = expected[0, row, column] * width * first_spans[0]
                y_plane[0, row, column] = expected[1, row, column] * height * first_spans[0]
            if has_second:
                x_plane[1, row, column] = expected[0, row, column] * width * second_spans[0]
                y_plane[1, row, column] = expected[1, row, column] * height * second_spans[0]
    return count


@kernel(
    types.Tuple((F4, F3, I1, types.int64, types.int64))(
        *(array_type(types.int32, 2, readonly=True), types.boolean, F3, F1, F1, types.boolean, types.boolean),
        *(types.float32, types.int64, types.int64, types.int64, types.int64, I1, D1, I1, D1),
    )
)
def _pool_vectors(
    words, may_be_direct, velocity, first_spans, second_spans, is_first_exact, is_second_exact, bonus,
    width, height, rows, columns, row_edges, row_shares, column_edges, column_shares,
):  # fmt: skip
    """Pool the vectors in records, int32 [n, 10], to a grid, separately for each frame referred to.

    `velocity` is on the grid, or on the lattice.

    Returns:
        Vectors float32 [n, h, w, 2] and weights float32 [n, h, w] of the candidates of list 0, then list 1; how many
        lattice cells each has; how many cells point to a frame that the stream states, and how many have a vector.
    """
    num_lists = 2 if may_be_direct or len(second_spans) else 1
    shape = num_lists, rows, columns
    x_plane, y_plane, known = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    _lay_vectors(words, width, height, x_plane, y_plane, known)
    num_first, num_second, num_both = _count_known(known)
    grid_rows, grid_columns = len(row_edges) - 1, len(column_edges) - 1
    total = len(first_spans) + len(second_spans)
    fields = np.empty((total, grid_rows, grid_columns, 2), np.float32)
    weights = np.empty((total, grid_rows, grid_columns), np.float32)
    num_cells = np.zeros(total, np.int64)
    chosen = np.empty((rows, columns), np.int32)
    frame_width, frame_height = F(width), F(height)
    needs_expected = may_be_direct or len(first_spans) > 1 or len(second_spans) > 1
    expected = np.empty((2, rows if needs_expected else 0, columns), np.float32)
    if needs_expected:
        _resize(velocity, expected)
    num_direct = 0
    if may_be_direct:
        num_direct = _fill_in_direct(
            x_plane, y_plane, known, expected, first_spans, second_spans, frame_width, frame_height
        )
    if not len(first_spans):
        num_first = num_both = 0
    if not len(second_spans):
        num_second = num_both = 0
    num_any = num_first + num_second - num_both
    num_exact = 0
    if is_first_exact and is_second_exact:
        num_exact = num_any
    elif is_first_exact:
        num_exact = num_first
    elif is_second_exact:
        num_exact = num_second
    # a direct block has a vector in both lists
    if (is_first_exact and len(first_spans)) or (is_second_exact and len(second_spans)):
        num_exact -= num_direct
    for which in range(num_lists):
        spans = second_spans if which else first_spans
        if not (num_second if which else num_first):
            continue
        if len(spans) == 1:
            for row in range(rows):
                for column in range(columns):
                    chosen[row, column] = 0 if known[which, row, column] > 0 else -1
        else:
            _choose_references(
                x_plane[which], y_plane[which], known[which], expected, frame_width, frame_height, spans, bonus, chosen
            )  # fmt: skip
        for number in range(len(spans)):
            place, count = number + which * len(first_spans), 0
            for row in range(rows):
                for column in range(columns):
                    count += chosen[row, column] == number
            num_cells[place] = count
            if count:
                _pool_cells(
                    x_plane[which], y_plane[which], chosen, number, width, height, row_edges, row_shares, column_edges,
                    column_shares, fields[place], weights[place],
                )  # fmt: skip
    return fields, weights, num_cells, num_exact, num_any


def pool_vectors(
    records: np.ndarray,
    size: tuple[int, int],
    candidates: Sequence[ListCandidates],
    velocity: np.ndarray,
    may_be_direct: bool,
) -> PooledVectors:
    """Pool a frame's vectors to a grid; see `FieldOperations.pool_vectors`."""
    (first, second), (width, height) = candidates, size
    words = c_order(records).view(np.int32).reshape(-1, WORDS_PER_RECORD)
    shape = lattice_shape(width, height)
    expected = velocity
    if velocity.shape[0] == 2 * shape[0] and velocity.shape[1] == 2 * shape[1]:
        expected = np.asarray(expected_on_lattice(velocity, shape))  # `resize` takes means of four cells here
    rows = pooling_edges(velocity.shape[0], height, shape[0])
    columns = pooling_edges(velocity.shape[1], width, shape[1])
    fields, weights, num_cells, num_exact, num_any = _pool_vectors(
        *(words, may_be_direct, c_order(expected), first.spans, second.spans, first.is_exact, second.is_exact),
        *(first_reference_bonus(width), width, height, *shape),
        *(rows.row, rows.fraction, columns.row, columns.fraction),
    )
    references: list[PooledReference] = []
    for place, count in enumerate(num_cells.tolist()):
        if count:
            which = int(place >= len(first.spans))
            motion = WeightedField(fields[place], weights[place])
            references.append(PooledReference(which, place - which * len(first.spans), motion))
    area = shape[0] * shape[1]
    return PooledVectors(tuple(references), num_exact / area, num_any / area)
