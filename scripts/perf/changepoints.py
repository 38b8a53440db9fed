"""Where a series changed its level: binary segmentation, each split held against chance by permutation.

The best split of a stretch is the one with the largest difference of the two means, scaled by how many
points are on either side (the CUSUM statistic). It counts when at most `ALPHA` of random orders of the
same points have as large a one. Then both sides are searched. Values are taken as logarithms, so that a
change is a ratio whatever the unit. Its blind spot is a level that comes back soon: then no single split
stands out, until more points follow.
"""

import math
import random

ALPHA = 0.01
SHUFFLES = 2_000
#: A level needs this many points; one odd run is not a change.
SEGMENT_MIN = 3


def best_split(values):
    """Index of the first point after the split, and the statistic."""
    count, total, left = len(values), sum(values), 0.0
    best, where = 0.0, None
    for index in range(1, count):
        left += values[index - 1]
        if index < SEGMENT_MIN or count - index < SEGMENT_MIN:
            continue
        difference = abs(left / index - (total - left) / (count - index))
        statistic = difference * math.sqrt(index * (count - index) / count)
        if statistic > best + 1e-12:
            best, where = statistic, index
    return where, best


def find(values, seed=1):
    """Indices at which a new level begins."""
    if any(value <= 0 for value in values):
        raise ValueError("a level is a positive number")
    logarithms, found = [math.log(value) for value in values], []
    generator = random.Random(seed)

    def search(first, last):
        stretch = logarithms[first:last]
        where, statistic = best_split(stretch)
        if where is None:
            return
        shuffled, as_large = list(stretch), 0
        for _ in range(SHUFFLES):
            generator.shuffle(shuffled)
            as_large += best_split(shuffled)[1] >= statistic - 1e-12
        if (as_large + 1) / (SHUFFLES + 1) <= ALPHA:
            found.append(first + where)
            search(first, first + where)
            search(first + where, last)

    search(0, len(values))
    return sorted(found)
