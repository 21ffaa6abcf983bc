"""Entities with the same M codes: move them apart at the last level, then number the rest (App. K).

Twins (same text, another colour) get the same codes from any quantiser. `separate` gives the surplus members of a
group their next best free code, so that M tokens are enough; what cannot be separated gets a suffix. There are only so
many suffixes: `bound` keeps groups within them.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from ed2rec.errors import ConfigError


def suffixes(codes: np.ndarray, limit: int) -> np.ndarray:
    """(K, M) codes -> (K,) int32: -1 where a row is unique, else 0, 1, … within its group by entity number.

    *Every* member of a group gets one, so no index is the beginning of another.
    limit: how many suffix tokens the vocabulary has. Raises ConfigError where a group is larger.
    """
    group, size = groups(codes)
    order = np.argsort(group, kind="stable")  # stable: entity numbers stay in order inside a group
    start = np.cumsum(size) - size
    position = np.empty(len(codes), dtype=np.int32)
    position[order] = np.arange(len(codes)) - np.repeat(start, size)
    if len(size) and size.max() > limit:
        raise ConfigError(
            f"{size.max()} entities share one index but the suffix has {limit} codes; "
            "give them distinct texts, larger codebooks, or separate collisions"
        )
    return np.where(size[group] > 1, position, -1).astype(np.int32)


def separate(codes: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Give surplus members of a group their next best free code of the last level; returns new (K, M) codes.

    codes   (K, M) what the quantiser chose
    logits  (K, N_M) its logits at the last level, along each entity's own first M-1 codes

    Within one prefix (the first M-1 codes) the member that fits best keeps a contested code, and the surplus is
    assigned to free codes so that the sum of logits is greatest. Where a prefix has more entities than codes, every
    code takes one more entity per round, so groups stay as small as they can be. Entities without a twin never move.
    """
    codes = np.array(codes)
    prefix, size = groups(codes[:, :-1])
    group, twins = groups(codes)
    members = np.split(np.argsort(prefix, kind="stable"), np.cumsum(size)[:-1])
    for index in np.unique(prefix[twins[group] > 1]):
        rows = members[index]
        codes[rows, -1] = _spread(codes[rows, -1], np.asarray(logits[rows], dtype=np.float64))
    return codes


def bound(codes: np.ndarray, logits: np.ndarray, limit: int) -> np.ndarray:
    """No more than `limit` entities on one index, as long as their prefix has room; returns new (K, M) codes.

    codes, logits: as in `separate`. Who fits best stays; the others, best fit first, take the last code with the
    greatest logit among those with fewer than `limit` entities. Smaller groups keep their members, and may get more.
    """
    codes = np.array(codes)
    group, size = groups(codes)
    if (size <= limit).all():
        return codes
    prefix, _ = groups(codes[:, :-1])
    for number in np.unique(prefix[size[group] > limit]):
        rows = np.flatnonzero(prefix == number)
        fit = logits[rows, codes[rows, -1]]
        carried = np.zeros(logits.shape[1], dtype=np.int64)
        surplus = []
        for row in rows[np.argsort(-fit, kind="stable")]:
            if carried[codes[row, -1]] < limit:
                carried[codes[row, -1]] += 1
            else:
                surplus.append(row)
        for row in surplus:
            room = np.flatnonzero(carried < limit)
            if not len(room):
                break  # `suffixes` says so
            codes[row, -1] = room[logits[row, room].argmax()]
            carried[codes[row, -1]] += 1
    return codes


def groups(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, M) codes -> group number of every row (K,) and size of every group (G,). M = 0 is one group of all."""
    if codes.shape[1] == 0:
        return np.zeros(len(codes), dtype=np.int64), np.array([len(codes)])
    _, group, size = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return group.reshape(-1), size


def _spread(last: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """last (R,) codes of the entities of one prefix, logits (R, N) -> (R,) codes, as distinct as they can be."""
    last = last.copy()
    fit = logits[np.arange(len(last)), last]
    order = np.lexsort((np.arange(len(last)), -fit, last))  # by code, best fit first, then entity number
    keeps = np.ones(len(last), dtype=bool)
    keeps[order[1:]] = last[order[1:]] != last[order[:-1]]
    surplus = np.flatnonzero(~keeps)
    open_codes = np.setdiff1d(np.arange(logits.shape[1]), last)
    while len(surplus):
        rows, columns = linear_sum_assignment(-logits[np.ix_(surplus, open_codes)])
        last[surplus[rows]] = open_codes[columns]
        surplus = np.delete(surplus, rows)
        open_codes = np.arange(logits.shape[1])  # all codes are taken: next round, each takes one more
    return last
