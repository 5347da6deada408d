"""The claims ledger: what was published, and what the stored rows say about it.

``claims.yaml`` has one entry per published claim: where it stands, what it says, how its numbers are defined, on which
hardware, and how far a reproduction may be off. :func:`judge` answers each from stored rows alone: no verdict is
written by hand, and a claim without rows gets what is missing and the command that would measure it.

An interval inside the tolerated band reproduces a claim, one outside it does not, one across its edge decides nothing.
A mean over clips decides nothing on fewer of them than are due; clips of one source count once, resampled together.
Where the source leaves its comparison open, every reading that was listed is judged by itself, and the claim is
reproduced (or not) only if all of them were measured and agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from avtbench.bench import environment
from avtbench.bench.errors import UserError, did_you_mean
from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.rows import Row, Status
from avtbench.bench.timing import statistics
from avtbench.bench.timing.statistics import APART
from avtbench.reports import computed_claims, ratios
from avtbench.reports.intervals import Estimate, mean_estimate
from avtbench.reports.selectors import Selector, select, words

LEDGER = Path(__file__).parent / "claims.yaml"
FLOORLESS = "no noise floor"
TOO_FEW = "too few clips"
RATE_WITHIN = 0.02
"""How far a mean kept fraction may be from the one a table states."""


class Outcome(str, Enum):
    """Closed vocabulary of verdicts."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"
    UNDER_SPECIFIED = "under-specified"
    NOT_TESTABLE = "not testable here"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Entry):
    """Where a claim stands."""

    paper: str
    where: str
    """Table, row or section."""

    def __str__(self) -> str:
        return f"{self.paper}, {self.where}"


class Tolerance(_Entry):
    """How far off a reproduction may be: a factor, or a distance in the metric's own unit; exactly one of them."""

    relative: float | None = None
    absolute: dict[str, float] = Field(default_factory=dict)
    """By metric."""

    def band(self, metric: str, published: float) -> tuple[float, float]:
        """Values that count as reproduced."""
        if metric in self.absolute:
            return published - self.absolute[metric], published + self.absolute[metric]
        if self.relative is None:
            raise ValueError(f"no tolerance for {metric}; add tolerance.relative or tolerance.absolute.{metric}")
        return published / (1 + self.relative), published * (1 + self.relative)


class Reading(_Entry):
    """One way of understanding a claim: refines the selectors of its test."""

    name: str
    slow: Selector = Field(default_factory=dict)
    fast: Selector = Field(default_factory=dict)
    rows: Selector = Field(default_factory=dict)
    side: statistics.Side = "end to end"
    kept_fraction: float | None = None
    """Instead of that of the test, where it is open which fraction of a method's tokens the stated rate is."""
    beside: bool = False
    """Not how the source measured: printed to compare with, decides nothing."""


class SpeedUpTest(_Entry):
    """Paired ratio of the time of ``slow`` to that of ``fast``, metric ``speed_up``."""

    kind: Literal["speed_up"]
    slow: Selector
    fast: Selector
    readings: list[Reading] = Field(default_factory=lambda: [Reading(name="end to end")])


class ComputedTest(_Entry):
    """A computation of :mod:`avtbench.reports.computed_claims` on the inputs declared here, or on stored rows too."""

    kind: Literal["computed"]
    computation: str
    inputs: dict[str, Any] = Field(default_factory=dict)

    @property
    def from_rows(self) -> bool:
        """Whether stored rows can change the outcome."""
        return self.computation in computed_claims.FROM_ROWS

    def run(self, rows: Sequence[Row]) -> list[computed_claims.Computed]:
        if self.from_rows:
            return computed_claims.FROM_ROWS[self.computation](rows, self.inputs)
        return computed_claims.FROM_DEFINITIONS[self.computation](self.inputs)


class MeasureTest(_Entry):
    """Mean over clips of measures (``psnr``, ``ssim``, ``total_ms``, ...) of the rows that match."""

    kind: Literal["measure"]
    rows: Selector
    kept_fraction: float | None = None
    """Only settings that keep this fraction on average; a reading may have another."""
    clips: int | None = None
    """Number of clips of the published data set, where it is known: all of them are due."""
    fewest: int = statistics.FEWEST_CLIPS
    """Clips below which nothing is decided, where it is not."""
    per_frame: bool = False
    """Divide by the number of frames."""
    computed: ComputedTest | None = None
    """What follows from the published definitions alone: printed beside what is measured, decides nothing."""
    readings: list[Reading] = Field(default_factory=lambda: [Reading(name="mean over clips")])


Test = Annotated[SpeedUpTest | MeasureTest | ComputedTest, Field(discriminator="kind")]


class Claim(_Entry):
    """One published claim."""

    id: str
    source: Source
    statement: str
    published: dict[str, float]
    """By metric."""
    comparator: str
    """How the number is defined, in words."""
    hardware: str = ""
    """As published; empty where the source does not say."""
    needs_hardware: str = ""
    """Part of the card's name without which an absolute time says nothing."""
    tolerance: Tolerance
    open: list[str] = Field(default_factory=list)
    """What the source does not say and the number depends on."""
    ambiguous: str = ""
    """Why rows that match may still be something else than what was published; a miss then decides nothing."""
    substitute: str = ""
    """What runs here in place of something that the source does not describe; neither a hit nor a miss decides."""
    needs: str = ""
    """What has to be had before the command can run, e.g. official weights."""
    left_out: str = ""
    """What the same row of the source states besides and is not judged, and why."""
    test: Test
    command: str = ""
    """What would measure it; empty where no stored row can change the verdict."""

    @model_validator(mode="after")
    def _commanded(self) -> Claim:
        settled = isinstance(self.test, ComputedTest) and not self.test.from_rows
        if settled == bool(self.command):
            raise ValueError(
                f"{self.id}: {'no row enters its computation: leave out' if settled else 'give'} a command"
            )
        return self


@dataclass(frozen=True)
class Measurement:
    """One measured value of a claim under one reading, with its interval and what it rests on."""

    reading: str
    metric: str
    published: float
    value: float
    low: float
    high: float
    n: str
    where: str
    outcome: Outcome
    floor: float = 1.0
    """The noise floor, a factor >= 1 by which the interval is widened before it decides; 1 where none is due."""
    decomposition: str = ""
    note: str = ""

    def __str__(self) -> str:
        known = self.low > 0 and math.isfinite(self.high)
        interval = f" [{_number(self.low)}, {_number(self.high)}]" if known else " (no interval from one value)"
        if known and self.floor > 1 and math.isfinite(self.floor):
            low, high = _widened(self.low, self.high, self.floor)
            interval += f", with the noise floor [{_number(low)}, {_number(high)}]"
        elif self.low == self.high:
            interval = ""
        parts = [f"{self.reading}: {self.metric} {_number(self.value)}{interval}, published {_number(self.published)}"]
        parts += [part for part in (self.n, self.where, self.decomposition, self.note) if part]
        return "; ".join(parts)


@dataclass(frozen=True)
class Verdict:
    """What the rows say about one claim."""

    claim: Claim
    outcome: Outcome
    why: str
    measurements: tuple[Measurement, ...] = ()

    @property
    def hardware(self) -> str:
        """Published and measured hardware, one line."""
        here = ", ".join(dict.fromkeys(m.where for m in self.measurements if m.where)) or "nothing measured"
        return f"published on {self.claim.hardware or 'unknown hardware'}; here {here}"

    def __str__(self) -> str:
        lines = [f"{self.claim.id}: {self.outcome.value}. {self.claim.statement}", f"  {self.claim.source}"]
        lines.append(f"  {self.why}")
        lines += [f"  {m}" for m in self.measurements]
        lines.append(f"  {self.hardware}")
        if self.claim.left_out:
            lines.append(f"  left out: {self.claim.left_out}")
        if not self.claim.command:
            lines.append("  computed from the published definitions; no stored row can change it")
        elif self.outcome is not Outcome.REPRODUCED:
            lines.append(f"  {self.claim.command}")
        return "\n".join(lines)


def load(path: Path = LEDGER) -> list[Claim]:
    """Read a ledger; raises ValueError where an entry is wrong or an id is used twice."""
    claims = [Claim.model_validate(entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["claims"]]
    twice = {c.id for i, c in enumerate(claims) if c.id in [d.id for d in claims[:i]]}
    if twice:
        raise ValueError(f"{path.name}: claim ids used twice: {', '.join(sorted(twice))}; give every claim its own id")
    return claims


def find(given: str, claims: Sequence[Claim]) -> list[Claim]:
    """The claim of that id, or all whose ids begin so; raises :class:`UserError` in one line."""
    exact = [claim for claim in claims if claim.id == given]
    found = exact or [claim for claim in claims if claim.id.startswith(given)]
    if not found:
        hint = did_you_mean(given, [claim.id for claim in claims], "avtbench claims")
        raise UserError(f"there is no claim {given}; {hint}")
    return found


def judge(
    rows: Sequence[Row],
    environments: Mapping[str, environment.Fingerprint] | None = None,
    claims: Iterable[Claim] | None = None,
) -> list[Verdict]:
    """Judge every claim from stored rows.

    environments: fingerprints by digest (as rows refer to them), for the hardware beside each number.
    """
    usable = statistics.with_flops([row for row in rows if row.status is Status.DONE])
    return [_judge(claim, usable, environments or {}) for claim in (load() if claims is None else claims)]


def _judge(claim: Claim, rows: Sequence[Row], environments: Mapping[str, environment.Fingerprint]) -> Verdict:
    test = claim.test
    if isinstance(test, ComputedTest):
        measured = _computed(claim, test, rows)
        return _combine(claim, measured, [(m.reading, m.metric) for m in measured], [])
    measured, missing = [], []
    for reading in test.readings:
        if isinstance(test, SpeedUpTest):
            found, absent = _speed_up(claim, test, reading, rows, environments)
        else:
            found, absent = _measure(claim, test, reading, rows, environments)
        measured += found
        missing += absent
    due = [(r.name, metric) for r in test.readings if not r.beside for metric in claim.published]
    verdict = _combine(claim, measured, due, missing)
    beside = _computed(claim, test.computed, rows) if isinstance(test, MeasureTest) and test.computed else []
    return replace(verdict, measurements=(*verdict.measurements, *beside))


def _computed(claim: Claim, test: ComputedTest, rows: Sequence[Row]) -> list[Measurement]:
    return [
        _measurement(claim, m.reading, m.metric, m.value, m.low, m.high, m.n, "computed", note=m.note)
        for m in test.run(rows)
    ]


def _combine(claim: Claim, measured: list[Measurement], due: list[tuple[str, str]], missing: list[str]) -> Verdict:
    """One verdict from the outcomes of all measurements.

    due: (reading, metric) of everything that decides; the claim is decided only where each of them was measured.
    """
    deciding = [m for m in measured if (m.reading, m.metric) in due]
    if claim.needs_hardware and deciding:
        deciding = [m for m in deciding if claim.needs_hardware.lower() in m.where.lower()]
        if not deciding:
            why = f"an absolute time, published on {claim.hardware}; measured on other hardware only"
            return Verdict(claim, Outcome.NOT_TESTABLE, why, tuple(measured))
    shown = tuple(deciding) if claim.needs_hardware else tuple(measured)
    if not measured:
        needs = f" Needs {claim.needs}." if claim.needs else ""
        absent = "; ".join(dict.fromkeys(missing)) or "stored rows"
        return Verdict(claim, Outcome.NOT_TESTABLE, f"Missing: {absent}.{needs}")
    unsaid = f"; the source does not say {'; '.join(claim.open)}" if claim.open else ""
    found = {(m.reading, m.metric) for m in deciding}
    readings = {reading for reading, _ in found}
    left = [reading if reading not in readings else f"{metric} of {reading}" for reading, metric in due
            if (reading, metric) not in found]  # fmt: skip
    tally = _tally(deciding) or "measured as the source did not"
    if left:
        why = f"{tally}; not measured: {', '.join(dict.fromkeys(left))}{unsaid}"
        return Verdict(claim, Outcome.UNDER_SPECIFIED if claim.open else Outcome.INCONCLUSIVE, why, shown)
    outcomes = {m.outcome for m in deciding}
    agreed = outcomes.pop() if len(outcomes) == 1 else None
    doubt = claim.substitute or (claim.ambiguous if agreed is Outcome.NOT_REPRODUCED else "")
    if doubt and agreed is not None:
        return Verdict(claim, Outcome.INCONCLUSIVE, f"{tally}; {doubt}", shown)
    several = len(readings) > 1
    if claim.open and agreed is None:
        contrary = several and {Outcome.REPRODUCED, Outcome.NOT_REPRODUCED} <= outcomes
        told = f"readings disagree: {tally}" if contrary else tally
        return Verdict(claim, Outcome.UNDER_SPECIFIED, f"{told}{unsaid}", shown)
    told = f"all readings agree: {tally}" if claim.open and several else tally
    return Verdict(claim, agreed or Outcome.INCONCLUSIVE, told, shown)


def _tally(measured: Sequence[Measurement]) -> str:
    """How many came out how, e.g. ``2 of 3 reproduced (1 timed apart), 1 of 3 inconclusive (1 no noise floor)``."""
    parts = []
    for outcome in Outcome:
        mine = [m for m in measured if m.outcome is outcome]
        counts = {word: sum(word in m.note for m in mine) for word in (APART, FLOORLESS, TOO_FEW)}
        marks = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
        if mine:
            parts.append(f"{len(mine)} of {len(measured)} {outcome.value}{f' ({marks})' if marks else ''}")
    return ", ".join(parts)


def _measurement(
    claim: Claim,
    reading: str,
    metric: str,
    value: float,
    low: float,
    high: float,
    n: str,
    where: str,
    *,
    floor: float = 1.0,
    undecided: bool = False,
    decomposition: str = "",
    note: str = "",
) -> Measurement:
    """A value with the outcome that its interval, widened by the noise floor, has in the tolerated band."""
    published = claim.published[metric]
    least, most = claim.tolerance.band(metric, published)
    bottom, top = _widened(low, high, floor)
    if undecided:
        outcome = Outcome.INCONCLUSIVE
    elif least <= bottom and top <= most:
        outcome = Outcome.REPRODUCED
    elif top < least or bottom > most:
        outcome = Outcome.NOT_REPRODUCED
    else:
        outcome = Outcome.INCONCLUSIVE
    return Measurement(reading, metric, published, value, low, high, n, where, outcome, floor, decomposition, note)


def _widened(low: float, high: float, floor: float) -> tuple[float, float]:
    """An interval of a ratio by the factor that the instrument finds between a method and itself."""
    return (low, high) if floor == 1 else (low / floor, high * floor)


def _speed_up(
    claim: Claim,
    test: SpeedUpTest,
    reading: Reading,
    rows: Sequence[Row],
    environments: Mapping[str, environment.Fingerprint],
) -> tuple[list[Measurement], list[str]]:
    """Measurements of one reading, one per pair of configurations that were timed alike, and what was missing."""
    selectors = [{"pass_": "speed", **test.slow, **reading.slow}, {"pass_": "speed", **test.fast, **reading.fast}]
    sides = [_configurations(select(rows, s)) for s in selectors]
    missing = [
        f"speed rows of {words(base if not select(rows, base) else refined)}"
        for base, refined, found in zip((test.slow, test.fast), selectors, sides, strict=True)
        if not found
    ]
    floors = statistics.noise_floors(rows, reading.side)
    found, apart = [], False
    for slow in sides[0]:
        for fast in sides[1]:
            if not _alike(slow[0], fast[0], reading):
                continue
            try:
                ratio = statistics.speed_up(slow, fast, reading.side)
            except ValueError:  # never timed in one round
                apart = apart or statistics.timed_apart(slow, fast)
                continue
            floor = _floor(floors, slow[0], fast[0])
            where = _where(fast[0], environments)
            found.append(
                _measurement(
                    claim, reading.name, "speed_up", ratio.ratio, ratio.low, ratio.high, _basis(ratio), where,
                    floor=floor or 1.0, undecided=floor is None,
                    decomposition=str(statistics.decompose(slow, fast, reading.side)),
                    note="; ".join([
                        f"{_configuration(slow)} against {_configuration(fast)}",
                        statistics.told(floor), *_partly(ratio), *_formats(slow, fast),
                    ]),
                )
            )  # fmt: skip
    if not found and not missing:
        both = f"{words(selectors[0])} and {words(selectors[1])} timed together, on the same clips"
        missing.append(f"{both} (stored ones were {APART}, never in one sitting)" if apart else both)
    return found, missing


def _floor(floors: Mapping[statistics.Alike, float], slow: Row, fast: Row) -> float | None:
    """The wider noise floor of two rows, which differ where a reading compares number formats; None without both."""
    a, b = floors.get(statistics.alike(slow)), floors.get(statistics.alike(fast))
    return None if a is None or b is None else max(a, b)


def _formats(slow: Sequence[Row], fast: Sequence[Row]) -> list[str]:
    """What stands beside two number formats where no stored sitting proves that they were timed in turns."""
    timings = [row.timing for row in (*slow, *fast) if row.timing]
    unproven = len({t.dtype for t in timings}) > 1 and not all(t.sitting for t in timings)
    return [f"{APART}: rows from before sittings were stored"] if unproven else []


def _partly(ratio: statistics.SpeedUp) -> list[str]:
    """What stands beside a ratio whose samples stand for more than was run."""
    return [f"not measured in full: {ratio.extrapolated}"] if ratio.extrapolated else []


def _basis(ratio: statistics.SpeedUp) -> str:
    return ratio.counted if ratio.over == "clips" else f"{ratio.counted}, interval over {ratio.over}"


def _measure(
    claim: Claim,
    test: MeasureTest,
    reading: Reading,
    rows: Sequence[Row],
    environments: Mapping[str, environment.Fingerprint],
) -> tuple[list[Measurement], list[str]]:
    selector = {**test.rows, **reading.rows}
    groups = _configurations(select(rows, selector))
    wanted = test.kept_fraction if reading.kept_fraction is None else reading.kept_fraction
    missing = [] if groups else [f"rows of {words(selector if select(rows, test.rows) else test.rows)}"]
    found = []
    for group in groups:
        kept = [k for row in group if (k := MEASURES["kept_fraction"].value(row)) is not None]
        if wanted is not None and (not kept or abs(fmean(kept) - wanted) > RATE_WITHIN):
            missing.append(f"a setting of {words(selector)} that keeps {wanted:.0%}")
            continue
        for metric in claim.published:
            values, sources = _by_clip(group, metric, test.per_frame)
            if not values:
                missing.append(f"{metric} of {words(selector)}")
                continue
            mean = mean_estimate(np.array(values), sources, of=test.clips or len(values))
            few = _too_few(test, mean)
            note = "; ".join(part for part in (_configuration(group), few, mean.note) if part)
            if metric == "psnr" and (ceilings := [c for row in group if (c := MEASURES["psnr_ceiling"].value(row))]):
                note += f"; the codec alone reaches {fmean(ceilings):.2f} dB"
            n = mean.clips if test.clips else f"{mean.n} clip{'' if mean.n == 1 else 's'}"
            found.append(
                _measurement(
                    claim, reading.name, metric, mean.value, mean.low, mean.high, n, _where(group[0], environments),
                    undecided=bool(few), note=note,
                )
            )  # fmt: skip
    return found, missing


def _by_clip(rows: Iterable[Row], metric: str, per_frame: bool) -> tuple[list[float], list[str]]:
    """The metric of every clip that has it, mean over its rows, and the source that each clip was cut from."""
    values: dict[str, list[float]] = {}
    sources: dict[str, str] = {}
    for row in rows:
        value = MEASURES[metric].value(row)
        if value is not None and math.isfinite(value):
            clip = f"{row.dataset}/{row.clip}"
            values.setdefault(clip, []).append(value / (row.frames if per_frame else 1))
            sources[clip] = f"{row.dataset}/{row.source or row.clip}"
    return [fmean(of_clip) for of_clip in values.values()], list(sources.values())


def _too_few(test: MeasureTest, mean: Estimate) -> str:
    """Why a mean decides nothing: it stands on too few clips, those of one source counted once. Empty where enough."""
    due = max(test.clips or 0, test.fewest)
    if mean.sources >= due:
        return ""
    had = f"{mean.sources}" if mean.sources == mean.n else f"{mean.n} from {mean.sources} sources"
    return f"{TOO_FEW}: {had}, {'all' if due == test.clips else 'at least'} {due} are due"


def _configurations(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows grouped by everything but clip and launch."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        timing = row.timing
        how = (timing.scenario, timing.device, timing.dtype) if timing else ()
        # clips taken as they are differ in size: it is the cut that they share
        size = repr(sorted(row.view.items())) if row.quality and row.view else (row.frames, row.height, row.width)
        key = (row.method, row.tokenizer, row.setting, repr(sorted(row.parameters.items())), row.weights, size, how)
        groups.setdefault((*key, row.dataset if row.quality else "", row.environment if timing else ""), []).append(row)
    return list(groups.values())


def _alike(slow: Row, fast: Row, reading: Reading) -> bool:
    """Whether two timed configurations compare: same size, scenario, machine; same dtype unless the reading says."""
    a, b = statistics.alike(slow), statistics.alike(fast)
    if "timing.dtype" in reading.slow and "timing.dtype" in reading.fast:
        b = b._replace(dtype=a.dtype)
    return a == b


def _where(row: Row, environments: Mapping[str, environment.Fingerprint]) -> str:
    record = environments.get(row.environment)
    machine = environment.headline(record) if record else "unknown machine"
    return f"{machine}, {row.timing.dtype}" if row.timing else machine


def _configuration(rows: Sequence[Row]) -> str:
    row, sizes = rows[0], {f"{row.frames}x{row.height}x{row.width}" for row in rows}
    none = row.setting is None or row.setting_name == "none"
    setting = "" if none else f" at {row.setting_name or 'setting'} {row.setting:g}"
    size = next(iter(sizes)) if len(sizes) == 1 else f"clips of {len(sizes)} sizes"
    return f"{ratios.named(row)}{setting}, {size}, weights {row.weights}"


def _number(value: float) -> str:
    return f"{value:.4g}"
