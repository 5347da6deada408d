"""What stored samples of time say: medians with intervals, paired speed-ups, the noise floor, warnings in words.

Nothing here measures and nothing needs torch: everything follows from stored :class:`~avtbench.bench.rows.Row` s.
A speed-up is a log-ratio paired per clip and round, averaged over clips, with an interval by bootstrap over clips,
widened to Student's over launches where that reaches further: all clips of a launch share its processes, and one
process may be some percent faster than the next of the same method. "Faster" is said only where that interval excludes
both 1 and the noise floor, which is what the instrument finds between one method and itself under another name (A/A).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from avtbench.bench.rows import Row, Timing

LEVEL = 0.95
"""Confidence level of every interval."""
RESAMPLES = 9999
FEWEST_CLIPS = 5
"""Below this many clips a bootstrap over clips means nothing; the interval is then over rounds, and says so."""
FEWEST_ROUNDS = 6
"""Below this many paired rounds a bootstrap is too narrow; the interval is then Student's."""
QUOTED_LAUNCHES = 3

Side = Literal["end to end", "encode side", "decode side"]
Over = Literal["clips", "rounds", "launches"]
APART = "timed apart"
"""What is said of two that were timed, but never in one sitting."""


class Alike(NamedTuple):
    """What two timed rows must share to be compared."""

    size: str
    """``frames x height x width``."""
    scenario: str
    device: str
    dtype: str
    environment: str

    @property
    def at(self) -> str:
        """Size, dtype and scenario, as tables show them: ``17x128x128, float32, latency``."""
        return f"{self.size}, {self.dtype}, {self.scenario}"


SIDES: dict[Side, Callable[[Timing], list[float]]] = {
    "end to end": lambda t: [e + d for e, d in zip(t.encode_side, t.decode_side, strict=True)],
    "encode side": lambda t: t.encode_side,
    "decode side": lambda t: t.decode_side,
}


def in_words(seconds: float) -> str:
    """Three digits and a unit, e.g. ``12.3 ms``."""
    for scale, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * scale >= 1 or unit == "µs":
            break
    return f"{seconds * scale:.3g} {unit}" if seconds * scale < 1000 else f"{seconds * scale:.0f} {unit}"


def in_thousands(count: float) -> str:
    """Three digits and a prefix, e.g. ``1.56 G``."""
    scale, unit = next((s, u) for s, u in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1.0, "")) if count >= s or s == 1.0)
    return f"{count / scale:.3g} {unit}".strip()


def in_megabytes(size: int) -> str:
    """Bytes as ``403 MB``."""
    return f"{size / 2**20:.0f} MB"


@dataclass(frozen=True)
class Samples:
    """Seconds of repeated calls; prints as ``12.3 ms (12.1 ms - 12.9 ms)``: median, 20th and 80th percentile."""

    values: Sequence[float]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("no samples, expected at least one; the point was stopped before its first call")

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def spread(self) -> tuple[float, float]:
        """20th and 80th percentile."""
        low, high = np.percentile(self.values, (20, 80))
        return float(low), float(high)

    @property
    def iqr_share(self) -> float:
        """Interquartile range as a share of the median."""
        low, high = np.percentile(self.values, (25, 75))
        return float((high - low) / self.median) if self.median else math.inf

    @property
    def deviation_share(self) -> float:
        """Standard deviation as a share of the mean; 0 for a single sample."""
        mean = float(np.mean(self.values))
        return float(np.std(self.values, ddof=1) / mean) if len(self.values) > 1 and mean else 0.0

    def __str__(self) -> str:
        low, high = self.spread
        return f"{in_words(self.median)} ({in_words(low)} - {in_words(high)})"


def median_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Interval of the median from order statistics (binomial; no assumption on the shape of the distribution).

    (0, inf) where no pair of order statistics reaches ``level``: below six samples at 95 %.
    """
    ordered = sorted(values)
    rank = _rank(len(ordered), level)
    return (ordered[rank - 1], ordered[-rank]) if rank else (0.0, math.inf)


@lru_cache(maxsize=1024)
def _rank(n: int, level: float) -> int:
    """Rank of the order statistic that the median lies below with a chance of at most (1 - level) / 2; 0 if none."""
    tail = (1 - level) / 2
    rank = int(stats.binom.ppf(tail, n, 0.5)) if n else 0
    while rank > 0 and stats.binom.cdf(rank - 1, n, 0.5) > tail:
        rank -= 1
    return rank


def half_width(values: Sequence[float]) -> float:
    """Half the width of the median's interval relative to the median; inf where there are too few samples."""
    low, high = median_interval(values)
    centre = float(np.median(values)) if len(values) else 0.0
    return (high - low) / 2 / centre if centre > 0 else math.inf


@dataclass(frozen=True)
class SpeedUp:
    """How many times less time one method takes than another, with an interval and what it rests on."""

    ratio: float
    low: float
    high: float
    side: Side
    clips: int
    launches: int
    pairs: int
    where: str
    """Card or processor, and number format."""
    over: Over = "clips"
    """What the interval was taken over: the widest of those that there are enough of."""
    extrapolated: str = ""
    """How samples stand for more than was run, in words; empty where everything was run."""

    @property
    def interval(self) -> str:
        """``[29.8, 32.5]``, or that one pair gives none."""
        known = self.low > 0 and math.isfinite(self.high)
        return f"[{_times(self.low)}, {_times(self.high)}]" if known else "[no interval from one pair]"

    @property
    def counted(self) -> str:
        """``16 clips, 3 launches``."""
        return f"{_count(self.clips, 'clip')}, {_count(self.launches, 'launch', 'es')}"

    @property
    def basis(self) -> str:
        """What the interval was taken over, e.g. ``90 paired rounds``."""
        return {
            "clips": _count(self.clips, "clip"),
            "rounds": _count(self.pairs, "paired round"),
            "launches": _count(self.launches, "launch", "es"),
        }[self.over]

    def __str__(self) -> str:
        text = f"{_times(self.ratio)}x {self.interval}, {self.counted}, {self.where}"
        if self.over != "clips":
            text += f"; interval over {self.basis}, not clips"
        return f"{text}; {self.extrapolated}" if self.extrapolated else text

    def verdict(self, floor: float | None) -> str:
        """``faster``, ``slower`` or ``not distinguishable``, in words with the number that decides.

        floor: the noise floor as a factor >= 1 (see :func:`noise_floors`), None where no A/A pair was timed.
        """
        if floor is None:
            return "not distinguishable: no noise floor; time one method twice under two names"
        if self.low > floor:
            return f"faster: the interval starts at {_times(self.low)}x, above the noise floor of {floor:.3f}x"
        if self.high < 1 / floor:
            return f"slower: the interval ends at {_times(self.high)}x, below the noise floor of {1 / floor:.3f}x"
        if self.low > 1 or self.high < 1:
            return (
                f"not distinguishable: the interval [{_times(self.low)}, {_times(self.high)}] reaches into the noise "
                f"floor of {floor:.3f}x; use a quieter machine or more launches"
            )
        between = f"[{_times(self.low)}, {_times(self.high)}]"
        return f"not distinguishable: the interval {between} holds 1; take more clips or rounds"


def _times(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio < 2 else f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}"


def _count(n: int, noun: str, plural: str = "s") -> str:
    return f"{n} {noun}{'' if n == 1 else plural}"


def alike(row: Row) -> Alike:
    """What a speed row must share with another to be compared."""
    assert row.timing is not None
    size = f"{row.frames}x{row.height}x{row.width}"
    return Alike(size, row.timing.scenario, row.timing.device, row.timing.dtype, row.environment)


def telling(one: Alike, among: Iterable[Alike]) -> list[str]:
    """The parts of ``one`` in which ``among`` differ, e.g. ``["17x64x64", "bfloat16"]``; none where all are equal. The
    environment, a digest, is named only where nothing else tells them apart."""
    among = set(among)
    parts = [part for part, values in zip(one, zip(*among, strict=True), strict=True) if len(set(values)) > 1]
    clear = len({other[:-1] for other in among}) == len(among)
    return [part for part in parts if not (clear and part == one.environment)]


def by_clip(rows: Iterable[Row]) -> dict[str, list[Timing]]:
    """Timings of finished speed rows per clip (data set and name), one per launch."""
    timings: dict[str, list[Timing]] = {}
    for row in rows:
        if row.timing is not None and row.timing.encode_side:
            timings.setdefault(_clip(row), []).append(row.timing)
    return timings


def _clip(row: Row) -> str:
    return f"{row.dataset}/{row.clip}"


def with_sides(row: Row, encode_side: Sequence[float], decode_side: Sequence[float]) -> Row:
    """The row with other seconds on either side, such as those of a stage: a part of a call to be held against one."""
    assert row.timing is not None
    sides = {"encode_side": list(encode_side), "decode_side": list(decode_side)}
    return row.model_copy(update={"timing": row.timing.model_copy(update=sides)})


Key = tuple[str, int, int]
"""(sitting, launch, round): what two samples must share to be a pair."""


def log_ratios(slow: Sequence[Timing], fast: Sequence[Timing], side: Side = "end to end") -> dict[Key, float]:
    """log(slow / fast) per (sitting, launch, round) that both have, for one clip.

    ``throughput`` and ``cold`` samples pair the same way: by launch and by their number within it. Rows from before
    sittings were stored have an empty one, and pair among themselves.
    """

    def samples(timings: Sequence[Timing]) -> dict[Key, float]:
        return {
            (t.sitting, t.launch, r): s for t in timings for r, s in zip(t.rounds, SIDES[side](t), strict=True) if s > 0
        }

    a, b = samples(slow), samples(fast)
    return {key: math.log(a[key] / b[key]) for key in a if key in b}


def timed_apart(slow: Sequence[Row], fast: Sequence[Row]) -> bool:
    """Whether both were timed on a clip that they share, but never in one sitting."""
    a, b = by_clip(slow), by_clip(fast)

    def sittings(timings: Iterable[Timing]) -> set[str]:
        return {t.sitting for t in timings}

    shared = a.keys() & b.keys()
    return bool(shared) and all(sittings(a[clip]).isdisjoint(sittings(b[clip])) for clip in shared)


def speed_up(
    slow: Iterable[Row],
    fast: Iterable[Row],
    side: Side = "end to end",
    *,
    where: str = "",
    seed: int = 0,
    across_launches: bool = True,
) -> SpeedUp:
    """How many times ``fast`` is faster than ``slow``, from their stored rows on the same clips.

    With at least five clips, a clip's value is the median over its paired rounds, the ratio exp of the mean over clips,
    and the interval by bootstrap over clips. With fewer, a round's value is the mean over clips, the ratio exp of the
    median over rounds, and the interval that of a median by order statistics, which says nothing about other clips;
    with fewer than six rounds it is their mean and Student's interval, with one pair there is none. From three launches
    on, Student's interval over launches counts where it reaches further (``across_launches``). Raises ValueError where
    no clip and round were measured for both in one sitting.
    """
    slow, fast = list(slow), list(fast)
    a, b = by_clip(slow), by_clip(fast)
    pairs = {clip: log_ratios(a[clip], b[clip], side) for clip in a if clip in b}
    pairs = {clip: ratios for clip, ratios in pairs.items() if ratios}
    if not pairs:
        if timed_apart(slow, fast):
            raise ValueError(f"{APART}: both were timed, but never in one sitting; rerun them together with --fresh")
        raise ValueError(
            f"no clip was timed for both in the same round: {len(a)} against {len(b)} clips; rerun them together"
        )
    over: Over = "clips" if len(pairs) >= FEWEST_CLIPS else "rounds"
    if over == "clips":
        values = [float(np.median(list(ratios.values()))) for ratios in pairs.values()]
        centre = float(np.mean(values))
        low, high = bootstrap(values, np.mean, seed)
    else:
        values = _by_round(list(pairs.values()))
        few = len(values) < FEWEST_ROUNDS
        centre = float(np.mean(values) if few else np.median(values))
        low, high = student(values) if few else median_interval(values)
    effects = _by_launch(list(pairs.values()))
    if across_launches and len(effects) >= QUOTED_LAUNCHES:
        least, most = (centre + end for end in student(effects))
        if least < low or most > high:
            low, high, over = min(low, least), max(high, most), "launches"
    return SpeedUp(
        ratio=math.exp(centre),
        low=math.exp(low),
        high=math.exp(high),
        side=side,
        clips=len(pairs),
        launches=min(len({(sitting, launch) for sitting, launch, _ in ratios}) for ratios in pairs.values()),
        pairs=len({key for ratios in pairs.values() for key in ratios} if over == "clips" else values),
        where=where or _dtypes([*a.values(), *b.values()]),
        over=over,
        extrapolated=extrapolated([t for clip in pairs for t in (*a[clip], *b[clip])]),
    )


def extrapolated(timings: Iterable[Timing]) -> str:
    """How any of these samples stand for more than was run, in words; empty where everything was run."""
    return "; ".join(dict.fromkeys(str(t.extrapolated) for t in timings if t.extrapolated is not None))


def _by_round(pairs: Sequence[dict[Key, float]]) -> list[float]:
    """Mean log-ratio over clips, per key that has every clip (or, where none has, the most of them)."""
    rounds = {
        key: [ratios[key] for ratios in pairs if key in ratios] for key in {k for ratios in pairs for k in ratios}
    }
    most = max(len(values) for values in rounds.values())
    return [float(np.mean(values)) for _, values in sorted(rounds.items()) if len(values) == most]


def _by_launch(pairs: Sequence[dict[Key, float]]) -> list[float]:
    """How far each launch lies from all of them: the median of a clip there against its median, mean over clips."""
    effects: dict[tuple[str, int], list[float]] = {}
    for ratios in pairs:
        whole = float(np.median(list(ratios.values())))
        launches: dict[tuple[str, int], list[float]] = {}
        for (sitting, launch, _), ratio in ratios.items():
            launches.setdefault((sitting, launch), []).append(ratio)
        for which, found in launches.items():
            effects.setdefault(which, []).append(float(np.median(found)) - whole)
    return [float(np.mean(found)) for found in effects.values()]


def _dtypes(timings: Iterable[Sequence[Timing]]) -> str:
    return " against ".join(dict.fromkeys(f"{t.device}, {t.dtype}" for launches in timings for t in launches))


def bootstrap(values: Sequence[float], statistic: Callable[..., np.floating], seed: int = 0) -> tuple[float, float]:
    """95 % interval, BCa (plain percentiles where that is undefined); (-inf, inf) for fewer than two values."""
    if len(values) < 2:
        return -math.inf, math.inf
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    for method in ("BCa", "percentile"):
        with np.errstate(all="ignore"):
            interval = stats.bootstrap(
                (np.asarray(values),),
                statistic,
                confidence_level=LEVEL,
                n_resamples=RESAMPLES,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if math.isfinite(interval.low) and math.isfinite(interval.high):
            break
    return float(interval.low), float(interval.high)


def student(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of a few values, taken as normal; (-inf, inf) for fewer than two."""
    n = len(values)
    if n < 2:
        return -math.inf, math.inf
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def noise_floors(rows: Iterable[Row], side: Side = "end to end") -> dict[Alike, float]:
    """What the instrument finds between a method and itself, as a factor >= 1: the far end of the A/A interval.

    Pairs rows with an ``alias`` with those of the same configuration without, among rows that are alike, and holds for
    comparisons among such rows alone; the widest pair counts. Nothing where there is no pair.
    """
    named: dict[tuple[str, str, Alike], list[Row]] = {}
    for row in rows:
        if row.timing is not None:
            named.setdefault((row.alias, _configuration(row), alike(row)), []).append(row)
    floors: dict[Alike, float] = {}
    for (alias, configuration, group), twin in named.items():
        first = named.get(("", configuration, group), [])
        if not alias:
            continue
        try:
            # what these processes differ by; how far others might is in the interval that is held against it
            found = speed_up(first, twin, side, across_launches=False)
        except ValueError:  # never timed in one round
            continue
        floor = max(found.high, 1 / found.low) if found.low > 0 else math.inf
        floors[group] = max(floor, floors.get(group, 1.0))
    return floors


def told(floor: float | None) -> str:
    """What :func:`noise_floors` found, in words."""
    if floor is None:
        return "no noise floor: no method was timed against itself, so nothing can be called faster"
    if math.isinf(floor):
        return "noise floor unknown: one method was timed against itself on a single pair, which tells no interval"
    return f"noise floor {floor:.3f}x: one method timed against itself differs by up to this"


def _configuration(row: Row) -> str:
    return repr((row.method, row.tokenizer, row.weights, row.setting, sorted(row.parameters.items())))


@dataclass(frozen=True)
class Decomposition:
    """A speed-up as evaluations x cost per evaluation x rest; factors are None where FLOPs were not counted.

    ``rest`` is what FLOPs do not explain: memory traffic, precision, kernels, overhead, waiting. ``ratio`` and factors
    are those of the ``clips``, out of ``of``, on which both sides were counted.
    """

    ratio: float
    evaluations: float | None
    cost_per_evaluation: float | None
    rest: float | None
    clips: int
    of: int

    @property
    def part(self) -> str:
        """``split on 1 of 6 clips, where it is 0.951x``; empty where it is split on all of them."""
        return f"split on {self.clips} of {self.of} clips, where it is {_times(self.ratio)}x" * (self.clips < self.of)

    def __str__(self) -> str:
        return self._split() + f" (on {self.clips} of {self.of} clips)" * (self.clips < self.of)

    def _split(self) -> str:
        if self.evaluations is None:
            return f"{_times(self.ratio)}x; not decomposed, because network evaluations were not counted for both"
        if self.cost_per_evaluation is None or self.rest is None:
            rest = self.ratio / self.evaluations
            return (
                f"{_times(self.ratio)}x = {_times(self.evaluations)}x evaluations x {_times(rest)}x time per evaluation"
            )
        return (
            f"{_times(self.ratio)}x = {_times(self.evaluations)}x evaluations x {_times(self.cost_per_evaluation)}x "
            f"FLOPs per evaluation x {_times(self.rest)}x rest"
        )


def decompose(slow: Sequence[Row], fast: Sequence[Row], side: Side = "end to end") -> Decomposition:
    """Split a speed-up, clip by clip: geometric means over the clips where FLOPs of both were counted or, where they
    were on none, over those where their evaluations were. Raises ValueError as :func:`speed_up` does."""
    mine, other = by_clip(slow), by_clip(fast)
    clips = sorted(c for c in mine.keys() & other.keys() if log_ratios(mine[c], other[c], side))

    def costs(rows: Sequence[Row]) -> dict[str, tuple[int | None, int | None]]:
        known: dict[str, tuple[int | None, int | None]] = {}
        for row in rows:
            if row.timing is not None:
                evaluations, flops = cost(row.timing, side)
                before = known.get(_clip(row), (None, None))
                known[_clip(row)] = (before[0] or evaluations, before[1] or flops)
        return known

    a, b = costs(slow), costs(fast)

    def counted(part: int) -> list[str]:
        return [c for c in clips if a[c][part] and b[c][part]]

    def factor(part: int) -> float | None:
        logs = [math.log(x / y) for c in split if (x := a[c][part]) and (y := b[c][part])]
        return math.exp(float(np.mean(logs))) if logs else None

    split = counted(1) or counted(0) or clips
    if split != clips:
        slow, fast = ([row for row in rows if _clip(row) in split] for rows in (slow, fast))
    ratio = speed_up(slow, fast, side).ratio
    evaluations, flops = factor(0), factor(1)
    per_evaluation = flops / evaluations if flops and evaluations else None
    return Decomposition(ratio, evaluations, per_evaluation, ratio / flops if flops else None, len(split), len(clips))


UNCOUNTED = ("dtype", "weights")
"""Parameters that change no operation count."""


def traits(row: Row) -> str:
    """What of a configuration decides how many operations it takes, besides method, setting and size of the clip."""
    parameters = {k: v for k, v in row.parameters.items() if k not in UNCOUNTED}
    return repr((row.tokenizer, sorted(parameters.items())))


def with_flops(rows: Sequence[Row]) -> list[Row]:
    """Rows in which stages without FLOPs have those that another launch or number format counted.

    A configuration that was counted once on a clip is known for every row that differs from it in launch, machine or
    number format, and where the search length is the same; under a forced trace on every clip of the size, since what
    is kept does not follow from the content there. Times are never carried over.
    """

    def place(row: Row) -> tuple[object, ...]:
        clip = () if row.timing is not None and row.timing.forced else (row.dataset, row.clip)
        length = repr([(s.path, sorted(s.evaluations.items())) for s in row.timing.stages]) if row.timing else ""
        return row.method, traits(row), row.setting, row.frames, row.height, row.width, clip, length

    known: dict[tuple[object, ...], dict[str, int]] = {}
    for row in rows:
        counted = {s.path: s.flops for s in row.timing.stages if s.flops is not None} if row.timing else {}
        if counted:
            known.setdefault(place(row), counted)
    found = []
    for row in rows:
        there = known.get(place(row), {})
        if row.timing is not None and there and all(s.flops is None for s in row.timing.stages):
            stages = [s.model_copy(update={"flops": there.get(s.path)}) for s in row.timing.stages]
            row = row.model_copy(update={"timing": row.timing.model_copy(update={"stages": stages})})
        found.append(row)
    return found


def cost(timing: Timing, side: Side = "end to end") -> tuple[int | None, int | None]:
    """(network evaluations, FLOPs) of one call; None where not counted."""
    verbs = {"end to end": None, "encode side": ("encode", "select"), "decode side": ("decode",)}[side]
    stages = [s for s in timing.stages if "/" not in s.path and (verbs is None or s.path in verbs)]
    evaluations = sum(n for s in stages for n in s.evaluations.values())
    counted = [s.flops for s in stages if s.flops is not None]
    return evaluations or None, sum(counted) or None


def unattributed_share(timing: Timing) -> float:
    """Share of end-to-end time in no named stage, median over samples (0 where stages are not told apart)."""
    loose = [s.seconds for s in timing.stages if s.path.rpartition("/")[2] == "unattributed"]
    totals = SIDES["end to end"](timing)
    return float(np.median([sum(parts) / t for *parts, t in zip(*loose, totals, strict=True)])) if loose else 0.0


@dataclass(frozen=True)
class Chunks:
    """The ``stream`` scenario: seconds to the first chunk (median), and per later chunk (median, 95th percentile)."""

    first: float
    median: float
    p95: float

    def __str__(self) -> str:
        return f"first chunk {in_words(self.first)}, then {in_words(self.median)} each, p95 {in_words(self.p95)}"


def chunks(timings: Sequence[Timing]) -> Chunks | None:
    """Chunk times over all samples; None where nothing was streamed."""
    samples = [sample for timing in timings for sample in timing.chunks if sample]
    if not samples:
        return None
    later = [seconds for sample in samples for seconds in sample[1:]] or [sample[0] for sample in samples]
    p95 = float(np.percentile(later, 95))
    return Chunks(float(np.median([sample[0] for sample in samples])), float(np.median(later)), p95)


def warnings(timings: Sequence[Timing], side: Side = "end to end") -> list[str]:
    """What speaks against quoting a point, given its launches on one clip: the number and the next step, in words."""
    samples = [SIDES[side](t) for t in timings if t.encode_side]
    if not samples:
        return ["no samples: the budget was spent before the first call; raise --budget"]
    found = []
    pooled = Samples([s for launch in samples for s in launch])
    cold = timings[0].scenario == "cold"
    if pooled.deviation_share >= 0.10:
        found.append(
            f"the standard deviation is {pooled.deviation_share:.0%} of the mean; single calls were disturbed. "
            "Quote median and p20-p80, or free the machine and rerun with --fresh."
        )
    if pooled.iqr_share > 0.25:
        found.append(
            f"the interquartile range is {pooled.iqr_share:.0%} of the median; do not quote this number. "
            "Another process uses the device: free it and rerun with --fresh."
        )
    elif pooled.iqr_share > 0.10:
        found.append(
            f"the interquartile range is {pooled.iqr_share:.0%} of the median; be careful. "
            "Free the machine and rerun with --fresh, or quote p20-p80 with it."
        )
    if pooled.median < 1e-3:
        found.append(
            f"a call takes {in_words(pooled.median)}, less than 1 ms; clock and launch overhead weigh in. "
            "Use longer or larger clips."
        )
    if text := extrapolated(timings):
        found.append(f"{text}: not measured in full. Quote it with these words, or run the whole trace.")
    if not cold and not all(t.warmed for t in timings):
        found.append("no call was made to warm up, the first call is a sample; set speed.warmup and give --fresh.")
    apart, within = _launch_spread(samples)
    if apart > within > 0:
        found.append(
            f"launches disagree by {apart:.1%} of the median, samples within a launch only by {within:.1%}; "
            "the number depends on the process. Take more launches."
        )
    if len(samples) < QUOTED_LAUNCHES:
        found.append(
            f"{_count(len(samples), 'launch', 'es')}, and {QUOTED_LAUNCHES} are due for a quoted number; "
            "raise --launches."
        )
    loose = max(unattributed_share(t) for t in timings if t.encode_side)
    if loose > 0.05:
        found.append(
            f"{loose:.0%} of the time is in no named stage; the breakdown is incomplete. "
            "Mark the missing parts with `with stage(...)`."
        )
    widest = max(half_width(launch) for launch in samples)
    if widest > 0.02 and not cold:
        reached = f"only to {widest:.1%}" if math.isfinite(widest) else "not at all (fewer than 6 samples in a launch)"
        found.append(f"the median is known {reached}, and 2 % is due; raise --budget and give --fresh.")
    return found


def _launch_spread(samples: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Range of the launches' medians, and p20-p80 within a launch (median over launches), as shares of the median."""
    if len(samples) < 2:
        return 0.0, 0.0
    medians = [float(np.median(launch)) for launch in samples]
    widths = [Samples(launch).spread for launch in samples]
    centre = float(np.median(medians))
    return (max(medians) - min(medians)) / centre, float(np.median([high - low for low, high in widths])) / centre
