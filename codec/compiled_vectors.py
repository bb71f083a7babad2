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
def _lay_vectors(words, width, height, vectors, known):
    """Lay records, int32 [n, 10], on a lattice; see `motion_vectors.vectors_to_lattice`.

    Writes vectors float32 [lists, rows, columns, 2], and known uint8 [2, rows, columns]: 1 where a whole macroblock
    has a vector, 2 where a smaller block has one, which counts more. Both are zero before.
    """
    right = -(-width // MACROBLOCK_PIXELS) * MACROBLOCK_PIXELS
    bottom = -(-height // MACROBLOCK_PIXELS) * MACROBLOCK_PIXELS
    rows, columns = known.shape[1:]
    for n in range(len(words)):
        x, y = words[n, 2] >> 16, ((words[n, 3] & 0xFFFF) ^ 0x8000) - 0x8000
        which = 1 if words[n, 0] > 0 else 0
        if x < 0 or y < 0 or x >= right or y >= bottom:
            continue
        scale = F(max(words[n, 8] & 0xFFFF, 1))
        motion_x, motion_y = F(words[n, 6]) / scale, F(words[n, 7]) / scale
        wide = 1 + (words[n, 1] & 0xFF == MACROBLOCK_PIXELS)
        tall = 1 + ((words[n, 1] >> 8) & 0xFF == MACROBLOCK_PIXELS)
        is_whole = wide + tall == 4
        if is_whole:
            left, top = x // MACROBLOCK_PIXELS * 2, y // MACROBLOCK_PIXELS * 2
        else:
            left, top = max(x - 4 * wide, 0) // LATTICE_PIXELS, max(y - 4 * tall, 0) // LATTICE_PIXELS
        for row in range(top, min(top + tall, rows)):
            for column in range(left, min(left + wide, columns)):
                if is_whole and known[which, row, column] == 2:
                    continue
                known[which, row, column] = 1 if is_whole else 2
                if which < len(vectors):
                    vectors[which, row, column, 0], vectors[which, row, column, 1] = motion_x, motion_y


@inner
def _choose_references(vectors, expected, width, height, spans, bonus, chosen):
    """Write which of several references each vector most likely points to; see `motion_vectors.likely_reference`."""
    rows, columns = chosen.shape
    # loops over one row of plain arrays, without branches, become vector instructions
    x, y, expected_x, expected_y, tolerance, least = np.empty((6, columns), np.float32)
    best = np.empty(columns, np.int32)
    for row in range(rows):
        for column in range(columns):
            x[column], y[column] = vectors[row, column, 0], vectors[row, column, 1]
            expected_x[column] = expected[row, column, 0] * width
            expected_y[column] = expected[row, column, 1] * height
            tolerance[column] = ONE + F(MOTION_TOLERANCE) * (abs(x[column]) + abs(y[column]))
            error = abs(x[column] - expected_x[column] * spans[0]) + abs(y[column] - expected_y[column] * spans[0])
            least[column], best[column] = min(error / tolerance[column], F(np.inf)), 0
        for number in range(1, len(spans)):
            span, penalty = spans[number], bonus + F(FARTHER_REFERENCE_PENALTY) * F(number - 1)
            for column in range(columns):
                error = abs(x[column] - expected_x[column] * span) + abs(y[column] - expected_y[column] * span)
                error = error / tolerance[column] + penalty
                is_less = error < least[column]
                least[column] = error if is_less else least[column]
                best[column] = np.int32(number) if is_less else best[column]
        for column in range(columns):
            chosen[row, column] = best[column]


@inner
def _pool_cells(vectors, here, width, height, row_edges, row_shares, column_edges, column_shares, out, out_weight):
    """Write the means of vectors over the cells of a grid, and the share of each cell that has some.

    As in `motion_vectors.lattice_to_grid`, sums up to each edge are subtracted from each other: first of rows, over all
    columns at once, then of columns.
    """
    rows, columns = here.shape
    grid_rows, grid_columns = len(row_edges) - 1, len(column_edges) - 1
    values, sums, last = np.zeros((3, columns)), np.zeros((3, columns)), np.zeros((3, columns))
    pooled = np.empty((grid_rows, 3, columns))
    scale, edge = grid_rows * LATTICE_PIXELS / height, 0
    for row in range(rows):
        for column in range(columns):
            share = 1.0 if here[row, column] else 0.0
            values[0, column] = share
            values[1, column] = np.float64(vectors[row, column, 0]) * share
            values[2, column] = np.float64(vectors[row, column, 1]) * share
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
    for row in range(grid_rows):
        covered = x = y = covered_before = x_before = y_before = 0.0
        edge = 0
        for column in range(columns):
            new_covered, new_x, new_y = pooled[row, 0, column], pooled[row, 1, column], pooled[row, 2, column]
            while edge <= grid_columns and column_edges[edge] == column:
                share = column_shares[edge]
                covered_here, x_here, y_here = covered + share * new_covered, x + share * new_x, y + share * new_y
                if edge:
                    mean = (covered_here - covered_before) * scale
                    divisor = max(mean, 1e-6)
                    out[row, edge - 1, 0] = (x_here - x_before) * scale / (width * divisor)
                    out[row, edge - 1, 1] = (y_here - y_before) * scale / (height * divisor)
                    out_weight[row, edge - 1] = mean
                covered_before, x_before, y_before = covered_here, x_here, y_here
                edge += 1
            if column == 0:
                covered, x, y = new_covered, new_x, new_y
            else:
                covered, x, y = covered + new_covered, x + new_x, y + new_y


@kernel(
    types.Tuple((F4, F3, I1, types.int64, types.int64))(
        *(array_type(types.int32, 2, readonly=True), types.boolean, F3, F1, F1, types.boolean, types.boolean),
        *(types.float32, types.int64, types.int64, types.int64, types.int64, I1, D1, I1, D1),
    )
)
def _pool_vectors(
    words, may_be_direct, expected, first_spans, second_spans, is_first_exact, is_second_exact, bonus,
    width, height, rows, columns, row_edges, row_shares, column_edges, column_shares,
):  # fmt: skip
    """Pool the vectors in records, int32 [n, 10], to a grid, separately for each frame referred to.

    Returns:
        Vectors float32 [n, h, w, 2] and weights float32 [n, h, w] of the candidates of list 0, then list 1; how many
        lattice cells each has; how many cells point to a frame that the stream states, and how many have a vector.
    """
    num_lists = 2 if may_be_direct or len(second_spans) else 1
    vectors, known = np.zeros((num_lists, rows, columns, 2), np.float32), np.zeros((2, rows, columns), np.uint8)
    _lay_vectors(words, width, height, vectors, known)
    grid_rows, grid_columns = len(row_edges) - 1, len(column_edges) - 1
    total = len(first_spans) + len(second_spans)
    fields = np.empty((total, grid_rows, grid_columns, 2), np.float32)
    weights = np.empty((total, grid_rows, grid_columns), np.float32)
    num_cells = np.zeros(total, np.int64)
    chosen, here = np.empty((rows, columns), np.int32), np.empty((rows, columns), np.bool_)
    direct = np.zeros((rows, columns), np.bool_)
    frame_width, frame_height = F(width), F(height)
    if may_be_direct:
        for row in range(rows):
            for column in range(columns):
                is_zero = True
                for which in range(2):
                    cell = vectors[which, row, column]
                    is_zero = is_zero and known[which, row, column] > 0 and cell[0] == 0 and cell[1] == 0
                direct[row, column] = is_zero
    has_first, has_second = len(first_spans) > 0, len(second_spans) > 0
    num_exact, num_any, num_first, num_second = 0, 0, 0, 0
    for row in range(rows):
        for column in range(columns):
            in_first = has_first & (known[0, row, column] > 0)
            in_second = has_second & (known[1, row, column] > 0)
            is_exact = (in_first & is_first_exact) | (in_second & is_second_exact)
            num_first += in_first
            num_second += in_second
            num_exact += is_exact & (not direct[row, column])
            num_any += in_first | in_second
    for which in range(num_lists):
        spans = second_spans if which else first_spans
        if not (num_second if which else num_first):
            continue
        if may_be_direct:
            for row in range(rows):
                for column in range(columns):
                    if direct[row, column]:
                        vectors[which, row, column, 0] = expected[row, column, 0] * frame_width * spans[0]
                        vectors[which, row, column, 1] = expected[row, column, 1] * frame_height * spans[0]
        if len(spans) == 1:
            chosen[:] = 0
        else:
            _choose_references(vectors[which], expected, frame_width, frame_height, spans, bonus, chosen)
        for number in range(len(spans)):
            place, count = number + which * len(first_spans), 0
            for row in range(rows):
                for column in range(columns):
                    is_here = (known[which, row, column] > 0) & (chosen[row, column] == number)
                    here[row, column] = is_here
                    count += is_here
            num_cells[place] = count
            if count:
                _pool_cells(
                    vectors[which], here, width, height, row_edges, row_shares, column_edges, column_shares,
                    fields[place], weights[place],
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
    if may_be_direct or max(len(first.spans), len(second.spans)) > 1:
        expected = np.asarray(expected_on_lattice(velocity, shape))
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
