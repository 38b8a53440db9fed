"""Paired comparison of two revisions, with a control that measures the machine's own noise.

A round runs three arms in random order: the base, the base once more (the control), the head. What the
machine does meanwhile hits all three, so differences are taken within a round. The control shows what
difference this machine, in this run, finds where there is none: its noise floor.
"""

import random
import statistics
from dataclasses import asdict, dataclass

RESAMPLES = 10_000
CONFIDENCE = 0.95

SLOWER = "slower"
FASTER = "faster"
NO_DIFFERENCE = "no difference"
CANNOT_TELL = "cannot tell"


def differences(base, head):
    """Per round, how much more `head` costs than `base`, in percent of `base`."""
    if len(base) != len(head):
        raise ValueError(f"{len(base)} runs of the base, {len(head)} of the head")
    return [100 * (b / a - 1) for a, b in zip(base, head)]


def bootstrap_interval(values, seed, resamples=RESAMPLES, confidence=CONFIDENCE):
    """Percentile interval of the median of `values`, whose rounds are drawn with replacement."""
    if not values:
        raise ValueError("no values")
    generator = random.Random(seed)
    medians = sorted(statistics.median(generator.choices(values, k=len(values))) for _ in range(resamples))
    tail = (1 - confidence) / 2
    return medians[int(tail * resamples)], medians[min(resamples - 1, int((1 - tail) * resamples))]


def noise_floor(control_interval):
    """The largest difference that the control's interval does not rule out between equals."""
    return max(abs(end) for end in control_interval)


def verdict(interval, floor, resolution):
    """An alarm needs the whole interval beyond zero and beyond the noise floor.

    "No difference" is a statement too: that the interval, and the floor, lie within `resolution`.
    """
    low, high = interval
    if low > 0 and low > floor:
        return SLOWER
    if high < 0 and high < -floor:
        return FASTER
    if low <= 0 <= high and max(-low, high, floor) <= resolution:
        return NO_DIFFERENCE
    return CANNOT_TELL


@dataclass
class Comparison:
    """One figure of one workload, base against head; percent, positive is dearer."""

    rounds: int
    base_median: float
    head_median: float
    difference: float
    interval: tuple
    control_difference: float
    control_interval: tuple
    floor: float
    verdict: str

    def as_dict(self):
        return asdict(self)


def compare(base, control, head, seed, resolution):
    """Head against the mean of the round's two base runs; the floor from the two base runs alone."""
    mean = [(a + b) / 2 for a, b in zip(base, control)]
    found, equal = differences(mean, head), differences(base, control)
    interval = bootstrap_interval(found, seed)
    control_interval = bootstrap_interval(equal, seed + 1)
    floor = noise_floor(control_interval)
    return Comparison(
        rounds=len(found),
        base_median=statistics.median(mean),
        head_median=statistics.median(head),
        difference=statistics.median(found),
        interval=interval,
        control_difference=statistics.median(equal),
        control_interval=control_interval,
        floor=floor,
        verdict=verdict(interval, floor, resolution),
    )
