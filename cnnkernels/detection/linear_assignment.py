"""The assignment problem: one column for each row, no column twice, at the lowest sum of costs.

Successive shortest augmenting paths with potentials: Jonker, Volgenant 1987; the form for rectangles is that of Crouse 2016,
"On implementing 2D rectangular assignment algorithms".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign_rows(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """cost: [rows, columns], finite, at least as many columns as rows.  Returns the column of each row, [rows].

    O(rows^2 * columns) at worst, rows * columns where nothing competes.
    """
    rows, columns = cost.shape
    if rows > columns:
        raise ValueError(f"assign_rows: cost must have at least as many columns as rows, got {rows} x {columns}")
    if not np.isfinite(cost).all():
        raise ValueError("assign_rows: cost must be finite")
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    column_of, row_of = np.full(rows, -1), np.full(columns, -1)
    for start in range(rows):
        length = np.full(columns, np.inf)  # of the shortest path from start to a column, in reduced costs
        before = np.full(columns, -1)
        visited, done = [start], np.zeros(columns, bool)
        row, reached = start, 0.0
        while True:
            through = reached + cost[row] - row_price[row] - column_price
            better = ~done & (through < length)
            length[better], before[better] = through[better], row
            column = int(np.where(done, np.inf, length).argmin())
            reached = float(length[column])
            done[column] = True
            row = int(row_of[column])
            if row < 0:
                break
            visited.append(row)
        row_price[start] += reached
        for row in visited[1:]:
            row_price[row] += reached - length[column_of[row]]
        column_price[done] -= reached - length[done]
        row = -1
        while row != start:  # along the path: every row takes the column that it came by
            row = int(before[column])
            row_of[column] = row
            column, column_of[row] = int(column_of[row]), column
    return column_of
