"""The inner loops of error-feedback encoding, compiled by numba.

One row at a time. Its error e = w - q is judged by the quadratic form e^T H e, H being the
mean outer product of the inputs its weights are multiplied with. With H = U D U^T (U unit upper
triangular) the form is a sum over columns of D_j (e_j + sum over i<j of U_ij e_i)^2, so each
column is rounded to where the errors already made want it (Frantar et al., GPTQ, 2022; Chee
et al., QuIP, 2023: the two are one). Rows are coupled in the same way by the outputs' form
(Tseng et al., YAQA, 2025). Afterwards coordinate descent moves single codes and scales while
that lowers the form.

Everything here works on plain arrays, in float32 but for sums and what a code stands for; what a
format is, `formats` says.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

F16, UE4M3, E8M0, SUPER = 0, 1, 2, 3
"""How a group's scale is stored; SUPER is a small integer times the scale of a super-block."""

_COMPILED = {"nogil": True, "cache": True}
"""Without fast arithmetic: with it, a sum depends on what a function was compiled together with,
which is not the same when it comes from numba's cache, and a run that was resumed would end with
other bytes than one that compiled all by itself."""


@njit(**_COMPILED)
def round_f16(x):
    """`x` rounded to the nearest half-precision number, ties to even, clipped to their range."""
    magnitude = abs(x)
    if magnitude >= 65504.0:
        return math.copysign(65504.0, x)
    if magnitude < 2.0**-14:
        quantum = 2.0**-24
    else:
        quantum = 2.0 ** (math.frexp(magnitude)[1] - 11)
    return np.rint(x / quantum) * quantum


@njit(**_COMPILED)
def _nearest(x, levels, middles, uniform):
    """Index of the level nearest to `x`; levels ascend, by 1 if `uniform`."""
    if uniform:
        index = int(math.floor(x - levels[0] + 0.5))
        return min(max(index, 0), levels.size - 1)
    low, high = 0, middles.size
    while low < high:
        middle = (low + high) >> 1
        if middles[middle] < x:
            low = middle + 1
        else:
            high = middle
    return low


@njit(**_COMPILED)
def _nearest_scale(x, table):
    """The positive entry of an ascending table that is nearest to `x`."""
    low, high = 0, table.size - 1
    while low < high:
        middle = (low + high) >> 1
        if (table[middle] + table[middle + 1]) * 0.5 < x:
            low = middle + 1
        else:
            high = middle
    return table[low]


@njit(**_COMPILED)
def _stored(scale, kind, table):
    """A scale as its format can hold it."""
    if kind == F16:
        return round_f16(scale)
    return _nearest_scale(scale, table)


@njit(**_COMPILED)
def _scale_gain(target, weight, start, size, scale, levels, middles, uniform):
    """How much of the weighted square of a group one scale explains, and the best fit to it."""
    inverse = 1.0 / scale
    product = np.float32(0.0)
    square = np.float32(0.0)
    for j in range(start, start + size):
        level = levels[_nearest(target[j] * inverse, levels, middles, uniform)]
        product += weight[j] * target[j] * level
        square += weight[j] * level * level
    if square <= 0.0:
        return 0.0, 0.0
    return product * product / square, product / square


@njit(**_COMPILED)
def _choose_scale(target, weight, start, size, levels, middles, uniform, kind, table, factors):
    """The scale (as stored) that leaves the least weighted squared error in a group."""
    largest = np.float32(0.0)
    for j in range(start, start + size):
        if abs(target[j]) > abs(largest):
            largest = target[j]
    if largest == 0.0:
        return 0.0
    if kind != F16:
        largest = abs(largest)
        return _choose_listed(
            target, weight, start, size, levels, middles, uniform, table, largest / levels[-1]
        )
    best, chosen = -1.0, largest / levels[0]
    for end in (levels[0], levels[levels.size - 1]):
        for factor in factors:
            gain, fitted = _scale_gain(
                target, weight, start, size, largest / end * factor, levels, middles, uniform
            )
            if gain > best:
                best, chosen = gain, fitted
    return round_f16(chosen)


@njit(**_COMPILED)
def _choose_listed(target, weight, start, size, levels, middles, uniform, table, top):
    """The same among the scales of a table."""
    low = np.searchsorted(table, top * 0.55)
    high = min(np.searchsorted(table, top * 1.6) + 1, table.size)
    low = max(0, min(low, high - 1))
    best, chosen = np.inf, table[low]
    for index in range(low, high):
        scale = table[index]
        inverse = 1.0 / scale
        loss = np.float32(0.0)
        for j in range(start, start + size):
            level = levels[_nearest(target[j] * inverse, levels, middles, uniform)]
            error = target[j] - scale * level
            loss += weight[j] * error * error
        if loss < best:
            best, chosen = loss, scale
    return chosen


@njit(**_COMPILED)
def _choose_affine(target, weight, start, size, top):
    """Scale and minimum (as f16) of codes 0..top that leave the least weighted squared error."""
    low, high = target[start], target[start]
    w_sum = t_sum = np.float32(0.0)
    for j in range(start, start + size):
        low, high = min(low, target[j]), max(high, target[j])
        w_sum += weight[j]
        t_sum += weight[j] * target[j]
    if high <= low or w_sum <= 0.0:
        return 0.0, round_f16(low)
    best = np.inf
    scale, minimum = (high - low) / top, low
    for step in range(-8, 11):
        inverse = (top + 0.12 * step * top / 15.0) / (high - low)
        c_sum = cc_sum = ct_sum = np.float32(0.0)
        for j in range(start, start + size):
            code = min(max(np.rint((target[j] - low) * inverse), 0.0), top)
            c_sum += weight[j] * code
            cc_sum += weight[j] * code * code
            ct_sum += weight[j] * code * target[j]
        determinant = w_sum * cc_sum - c_sum * c_sum
        if determinant <= 0.0:
            continue
        s = (w_sum * ct_sum - c_sum * t_sum) / determinant
        m = (cc_sum * t_sum - c_sum * ct_sum) / determinant
        loss = np.float32(0.0)
        for j in range(start, start + size):
            code = min(max(np.rint((target[j] - low) * inverse), 0.0), top)
            error = target[j] - s * code - m
            loss += weight[j] * error * error
        if loss < best and s > 0.0:
            best, scale, minimum = loss, s, m
    return round_f16(scale), round_f16(minimum)


@njit(**_COMPILED)
def _value(scale, minimum, level):
    """What ggml decodes: one rounding of the whole expression, as a fused operation has."""
    return np.float32(np.float64(scale) * np.float64(level) + np.float64(minimum))


@njit(**_COMPILED)
def _axpy(target, factor, row, start):
    for k in range(start, target.size):
        target[k] += factor * row[k]


@njit(**_COMPILED)
def _dot(a, b, start, stop):
    total = np.float32(0.0)
    for k in range(start, stop):
        total += a[k] * b[k]
    return total


@njit(**_COMPILED)
def _feed(wanted, target, upper, curvature, size, fmt, table, factors, row, index):
    """Round a row column by column, each to where the errors before it want it."""
    levels, middles, uniform, affine, kind = fmt
    scales, minima, codes, values = row
    n = wanted.size
    for j in range(n):
        group = j // size
        if j % size == 0 and kind != SUPER:
            if affine:
                scales[index, group], minima[index, group] = _choose_affine(
                    target, curvature, j, size, levels[levels.size - 1]
                )
            else:
                scales[index, group] = _choose_scale(
                    target, curvature, j, size, levels, middles, uniform, kind, table, factors
                )
        scale, minimum = scales[index, group], minima[index, group]
        code = 0
        if scale != 0.0:
            code = _nearest((target[j] - minimum) / scale, levels, middles, uniform)
        else:
            code = _nearest(0.0, levels, middles, uniform)
        codes[index, j] = code
        value = _value(scale, minimum, levels[code])
        values[j] = value
        _axpy(target, wanted[j] - value, upper[j], j + 1)


@njit(**_COMPILED)
def _move_codes(gradient, hessian, size, fmt, row, index):
    """One sweep of coordinate descent over the codes; how many moved."""
    levels, middles, uniform, _, _ = fmt
    scales, minima, codes, values = row
    moved = 0
    for j in range(values.size):
        group = j // size
        scale = scales[index, group]
        if scale == 0.0:
            continue
        ideal = values[j] + gradient[j] / hessian[j, j]
        code = _nearest((ideal - minima[index, group]) / scale, levels, middles, uniform)
        if code == codes[index, j]:
            continue
        value = _value(scale, minima[index, group], levels[code])
        change = value - values[j]
        if change * (change * hessian[j, j] - 2.0 * gradient[j]) >= 0.0:
            continue
        codes[index, j] = code
        values[j] = value
        _axpy(gradient, -change, hessian[j], 0)
        moved += 1
    return moved


@njit(**_COMPILED)
def _group_form(direction, hessian, start, size):
    """direction^T H direction over one group of columns."""
    total = np.float32(0.0)
    for j in range(start, start + size):
        total += direction[j] * _dot(hessian[j], direction, start, start + size)
    return total


@njit(**_COMPILED)
def _apply(gradient, hessian, values, fresh, start, size):
    """Replace the values of some columns, and keep the gradient true."""
    for j in range(start, start + size):
        change = fresh[j] - values[j]
        if change != 0.0:
            values[j] = fresh[j]
            _axpy(gradient, -change, hessian[j], 0)


@njit(**_COMPILED)
def _gain(gradient, hessian, values, fresh, work, start, size):
    """How much the form falls when the values of some columns are replaced."""
    linear = np.float32(0.0)
    for j in range(start, start + size):
        work[j] = fresh[j] - values[j]
        linear += work[j] * gradient[j]
    return 2.0 * linear - _group_form(work, hessian, start, size)


@njit(**_COMPILED)
def _refit_groups(gradient, hessian, size, fmt, table, row, index, work, fresh):
    """Fit each group's own scale, and minimum, to its codes."""
    levels, _, _, affine, kind = fmt
    scales, minima, codes, values = row
    for group in range(values.size // size):
        start = group * size
        scale, minimum = scales[index, group], minima[index, group]
        if scale == 0.0:
            continue
        for j in range(start, start + size):
            work[j] = levels[codes[index, j]]
        form = _group_form(work, hessian, start, size)
        if form <= 0.0:
            continue
        slope = _dot(work, gradient, start, start + size)
        lift = 0.0
        if affine:
            ones_form = cross = ones_slope = np.float32(0.0)
            for j in range(start, start + size):
                ones_slope += gradient[j]
                for k in range(start, start + size):
                    ones_form += hessian[j, k]
                    cross += hessian[j, k] * work[k]
            determinant = form * ones_form - cross * cross
            if determinant > 1e-6 * form * ones_form:
                lift = (form * ones_slope - cross * slope) / determinant
                step = (ones_form * slope - cross * ones_slope) / determinant
            else:
                step = slope / form
        else:
            step = slope / form
        new_scale = _stored(scale + step, kind, table)
        new_minimum = round_f16(minimum + lift)
        if new_scale == 0.0 or (new_scale == scale and new_minimum == minimum):
            continue
        for j in range(start, start + size):
            fresh[j] = _value(new_scale, new_minimum, levels[codes[index, j]])
        if _gain(gradient, hessian, values, fresh, work, start, size) > 0.0:
            scales[index, group], minima[index, group] = new_scale, new_minimum
            _apply(gradient, hessian, values, fresh, start, size)


@njit(**_COMPILED)
def _refit_super(gradient, hessian, size, fmt, row, index, supers, work, fresh):
    """Fit the integer scales of groups, then the scales of super-blocks, to the codes."""
    levels, _, _, affine, _ = fmt
    scales, minima, codes, values = row
    big, big_minimum, small, small_minimum, per, low, high, top_minimum = supers
    for group in range(values.size // size):
        block, start = group // per, group * size
        d, dmin = big[index, block], big_minimum[index, block]
        for part in range(2 if affine else 1):
            unit = d if part == 0 else -dmin
            if unit == 0.0:
                continue
            for j in range(start, start + size):
                work[j] = unit * (levels[codes[index, j]] if part == 0 else 1.0)
            form = _group_form(work, hessian, start, size)
            if form <= 0.0:
                continue
            step = np.rint(_dot(work, gradient, start, start + size) / form)
            sc, mn = small[index, group], small_minimum[index, group]
            if part == 0:
                sc = min(max(sc + step, low), high)
            else:
                mn = min(max(mn + step, 0.0), top_minimum)
            if sc == small[index, group] and mn == small_minimum[index, group]:
                continue
            scale, minimum = np.float32(d * sc), np.float32(-dmin * mn)
            for j in range(start, start + size):
                fresh[j] = _value(scale, minimum, levels[codes[index, j]])
            if _gain(gradient, hessian, values, fresh, work, start, size) > 0.0:
                small[index, group], small_minimum[index, group] = sc, mn
                scales[index, group], minima[index, group] = scale, minimum
                _apply(gradient, hessian, values, fresh, start, size)
    span = size * per
    for block in range(values.size // span):
        _refit_block(gradient, hessian, size, fmt, row, index, supers, work, fresh, block, span)


@njit(**_COMPILED)
def _refit_block(gradient, hessian, size, fmt, row, index, supers, work, fresh, block, span):
    """Fit one super-block's scale, and its scale of minima, to everything below them."""
    levels, _, _, affine, _ = fmt
    scales, minima, codes, values = row
    big, big_minimum, small, small_minimum, per, _, _, _ = supers
    start = block * span
    for part in range(2 if affine else 1):
        d, dmin = big[index, block], big_minimum[index, block]
        for j in range(start, start + span):
            group = j // size
            if part == 0:
                work[j] = small[index, group] * levels[codes[index, j]]
            else:
                work[j] = -small_minimum[index, group]
        form = _group_form(work, hessian, start, span)
        if form <= 0.0:
            continue
        step = _dot(work, gradient, start, start + span) / form
        if part == 0:
            d = np.float32(round_f16(d + step))
        else:
            dmin = np.float32(round_f16(dmin + step))
        if d == big[index, block] and dmin == big_minimum[index, block]:
            continue
        for j in range(start, start + span):
            group = j // size
            scale = np.float32(d * np.float32(small[index, group]))
            minimum = np.float32(-dmin * np.float32(small_minimum[index, group]))
            fresh[j] = _value(scale, minimum, levels[codes[index, j]])
        if _gain(gradient, hessian, values, fresh, work, start, span) > 0.0:
            big[index, block], big_minimum[index, block] = d, dmin
            for group in range(block * per, (block + 1) * per):
                scales[index, group] = np.float32(d * np.float32(small[index, group]))
                minima[index, group] = np.float32(-dmin * np.float32(small_minimum[index, group]))
            _apply(gradient, hessian, values, fresh, start, span)


@njit(**_COMPILED)
def encode_rows(
    weights,
    wanted,
    coupling,
    upper,
    curvature,
    hessian,
    size,
    fmt,
    table,
    factors,
    scales,
    minima,
    codes,
    supers,
    sweeps,
    errors,
    losses,
):
    """Encode a block of rows, in their order; see `feedback` for what the arguments are."""
    rows, n = weights.shape
    kind = fmt[4]
    target = np.empty(n, np.float32)
    values = np.empty(n, np.float32)
    gradient = np.empty(n, np.float32)
    work = np.empty(n, np.float32)
    fresh = np.empty(n, np.float32)
    for index in range(rows):
        goal = wanted[index]
        for before in range(index):
            if coupling[before, index] != 0.0:
                _axpy(goal, coupling[before, index], errors[before], 0)
        target[:] = goal
        row = (scales, minima, codes, values)
        _feed(goal, target, upper, curvature, size, fmt, table, factors, row, index)
        _gradient(goal, values, hessian, gradient)
        for sweep in range(sweeps):
            moved = _move_codes(gradient, hessian, size, fmt, row, index)
            if moved == 0 and sweep > 0:
                break
            if kind == SUPER:
                _refit_super(gradient, hessian, size, fmt, row, index, supers, work, fresh)
            elif kind != E8M0:
                _refit_groups(gradient, hessian, size, fmt, table, row, index, work, fresh)
        _gradient(goal, values, hessian, gradient)
        loss = 0.0
        for j in range(n):
            loss += np.float64(goal[j] - values[j]) * np.float64(gradient[j])
            errors[index, j] = weights[index, j] - values[j]
        losses[index] = loss


@njit(**_COMPILED)
def _gradient(goal, values, hessian, gradient):
    """Gradient = H (goal - values)."""
    n = goal.size
    gradient[:] = 0.0
    for j in range(n):
        error = goal[j] - values[j]
        if error != 0.0:
            for k in range(n):
                gradient[k] += error * hessian[j, k]
