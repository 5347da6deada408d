"""The speed instrument: how long encode side and end to end take, stage by stage, with every sample kept.

Two doors:

* :func:`time_point` times one (method, setting, clip) inside this process: for looking.
* :func:`run` times jobs against each other for numbers that are quoted. A :class:`Job` is one configuration (how to
  build a method, and a setting) and gets a fresh spawned process per launch. The processes of a launch stay alive
  together and are handed one call at a time: in each round every clip comes up once, in random order, and for each
  clip every job, in random order (``Plan.seed``), so that a pair of calls is close in time. Only one process computes
  at a time. A round ends for all; sampling ends when every median is precise or the budget is spent.

:func:`run` yields a :class:`Result` per (job, clip, launch), failed and skipped ones included, as soon as its launch
is over: that triple is the unit of resuming. A budget may end anywhere, and Ctrl-C too: what was measured is yielded
first. ``done`` tells which triples are stored already.

    jobs = [Job("mypackage.mymethod:MyMethod", 0.3), Job("other.py:Other", 0.003, {"width": 8})]
    for result in run(with_twin(jobs), clips, Plan(budget_s=600)):
        ...
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from avtbench.bench.rows import Extrapolation, Status, Timing
from avtbench.bench.timing.calls import (
    SETTLE_BELOW,
    WARMUP_CAP,
    Call,
    Extras,
    Instrument,
    Scenario,
    compiled,
    dtype_of,
)
from avtbench.bench.timing.clock import Nanoseconds, stage_costs
from avtbench.bench.timing.statistics import half_width
from avtbench.bench.timing.workers import Facts, Job, Worker, WorkerLost, forced_trace
from avtbench.datasets.contract import Clip
from avtbench.methods.contract import Method

__all__ = ["Job", "Plan", "Result", "StopRule", "round_order", "run", "time_point", "with_twin"]

PRECISION = 0.02
"""Relative half-width of the median's interval at which sampling stops."""
EXTRAS_COST, EXTRAS_START = 4.0, 1.5
"""What FLOPs and peak memory of one point are reckoned to cost: calls, and seconds for a process's first count."""


@dataclass(frozen=True)
class StopRule:
    """When to stop sampling: precise enough, budget spent, or enough samples; the reason is stored."""

    budget_s: float
    precision: float = PRECISION
    max_samples: int = 200
    purse: str = "budget"
    """What ``budget_s`` is called in the reason."""

    def reason(self, totals: Sequence[float], elapsed_s: float) -> str | None:
        """Why sampling stops after these end-to-end seconds, or None."""
        width = half_width(totals)
        reached = f"half-width of the median {width:.1%}" if width < float("inf") else f"{len(totals)} samples"
        if width <= self.precision:
            return f"precise: {reached} <= {self.precision:.0%}"
        if elapsed_s >= self.budget_s:
            return f"{self.purse} of {self.budget_s:.3g} s spent: {reached}"
        if len(totals) >= self.max_samples:
            return f"{self.max_samples} samples taken: {reached}"
        return None


def time_point(
    method: Method,
    video: Tensor,
    setting: float,
    *,
    budget_s: float,
    seed: int = 0,
    scenario: Scenario = "latency",
    launch: int = 0,
    precision: float = PRECISION,
    max_samples: int = 200,
    extras: bool = True,
    dtype: str | None = None,
    nanoseconds: Nanoseconds = time.perf_counter_ns,
) -> Timing:
    """Time one (method, setting, clip) in this process.

    video: uint8 ``[T, H, W, 3]`` on the device to measure. ``budget_s`` bounds warm-up and samples; whatever it is, one
    warm-up call and one sample are taken. With ``extras``, FLOPs and peak memory are measured in calls of their own
    where the budget has room for them. Raises ValueError with the reason where ``method`` does not take the clip or
    the scenario.
    """
    instrument = Instrument(method, method.check_setting(setting), scenario, nanoseconds)
    reason = instrument.skip((video.shape[0], video.shape[1], video.shape[2]))
    if reason is not None:
        raise ValueError(reason)
    began = nanoseconds()

    def elapsed() -> float:
        return (nanoseconds() - began) * 1e-9

    warmup = instrument.warm(video, min(WARMUP_CAP, 0.3 * budget_s))
    reserve = EXTRAS_COST * warmup[-1] if extras and warmup else 0.0
    rule = StopRule(max(budget_s - reserve, 0.0), precision, 1 if scenario == "cold" else max_samples)
    calls: list[Call] = []
    stopped: str | None = None
    while stopped is None:
        calls.append(instrument.call(video))
        stopped = rule.reason([c.total for c in calls], elapsed())
    measured = None
    if extras and elapsed() + EXTRAS_COST * calls[-1].total <= budget_s:
        measured = instrument.extras(video)
    return _timing(
        calls,
        list(range(len(calls))),
        measured,
        instrument.shortened,
        scenario=scenario,
        device=str(video.device),
        dtype=dtype or dtype_of(method),
        compiled=compiled(method),
        launch=launch,
        warmup=warmup,
        stop_reason=stopped,
        seed=seed,
        forced=forced_trace(method),
    )


def _timing(
    calls: Sequence[Call], rounds: list[int], extras: Extras | None, shortened: Mapping[str, float], **facts: Any
) -> Timing:
    extras = extras or Extras()
    peaks = [c.peak for c in calls if c.peak is not None]
    return Timing(
        rounds=rounds,
        encode_side=[c.encode_side for c in calls],
        decode_side=[c.decode_side for c in calls],
        stages=stage_costs([c.stages for c in calls], calls[-1].evaluations, extras.flops, extras.peaks),
        peak_bytes=extras.peak or max(peaks, default=None),
        lanes=calls[-1].lanes,
        extrapolated=_extrapolation(calls, shortened),
        chunks=[list(c.chunks) for c in calls] if facts["scenario"] == "stream" else [],
        outside={"copy": copies} if (copies := [c.copy for c in calls if c.copy is not None]) else {},
        **facts,
    )


def _extrapolation(calls: Sequence[Call], shortened: Mapping[str, float]) -> Extrapolation | None:
    ran = [call.ran for call in calls if call.ran is not None]
    if not ran:
        return None
    return Extrapolation(
        stages=dict(shortened),
        evaluations=sum(ran[-1].total_evaluations.values()),
        of=sum(calls[-1].total_evaluations.values()),
        measured=[call.total for call in ran],
    )


@dataclass(frozen=True)
class Plan:
    """How to time a list of jobs.

    budget_s:   wall seconds for everything; shared evenly by what is left of the launches.
    launches:   fresh processes per configuration; numbers that are quoted need 3.
    max_rounds: rounds per launch at most. precision: half-width of every median at which a launch ends early.
    resident:   processes alive at once, each with its method in memory; more jobs than that are split at random into
                groups, which are timed one after another: sittings of their own, across which nothing is a pair.
    threads:    torch threads of every process; None leaves the default.
    warmup_s:   seconds of warm-up calls at most, per process and clip size; 0 makes none.
    """

    scenario: Scenario = "latency"
    budget_s: float = 600.0
    launches: int = 3
    seed: int = 0
    precision: float = PRECISION
    max_rounds: int = 50
    resident: int = 12
    device: str = "cpu"
    threads: int | None = None
    warmup_s: float = WARMUP_CAP

    def __post_init__(self) -> None:
        for name in ("launches", "max_rounds", "resident"):
            if getattr(self, name) < 1:
                raise ValueError(f"speed plan: {name} is {getattr(self, name)}, expected at least 1")


@dataclass(frozen=True)
class Result:
    """One (job, clip, launch): the unit that is stored and resumed.

    ``described`` holds the columns of a row that follow from the method; ``environment`` its process's fingerprint.
    """

    job: Job
    clip: str
    launch: int
    status: Status
    reason: str = ""
    timing: Timing | None = None
    evaluations: Mapping[str, int] = field(default_factory=dict)
    described: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """Wall seconds spent computing this point, everything included."""


def with_twin(jobs: Sequence[Job], of: int = 0) -> list[Job]:
    """The jobs and one of them a second time under another name: the A/A pair whose spread is the noise floor."""
    return [*jobs, replace(jobs[of], alias=f"{jobs[of].label or jobs[of].factory.rpartition(':')[2]} (again)")]


def round_order(seed: int, launch: int, round_: int, clips: int, jobs: int) -> list[tuple[int, int]]:
    """(clip, job) pairs of one round: clips in random order, for each clip all jobs in random order."""
    chance = random.Random(f"{seed}/{launch}/{round_}")
    return [(c, j) for c in chance.sample(range(clips), clips) for j in chance.sample(range(jobs), jobs)]


@dataclass
class _Point:
    """What a (job, clip) has gathered in the running launch."""

    calls: list[Call] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    warmup: list[float] = field(default_factory=list)
    extras: Extras | None = None
    seconds: float = 0.0
    setup_seconds: float | None = None
    ended: tuple[Status, str] | None = None
    """Set when the point will not be called any more."""

    @property
    def totals(self) -> list[float]:
        return [call.total for call in self.calls]


@dataclass
class _Launch:
    """One launch of one group of jobs: their processes, the rounds, and what was gathered."""

    plan: Plan
    launch: int
    jobs: Sequence[Job]
    clips: Sequence[Clip]
    files: Sequence[str]
    points: dict[tuple[int, int], _Point]
    """By (clip, job)."""
    share_s: float
    """Seconds this launch should take."""
    deadline: float
    """On ``now``: where the whole budget ends; only a first round may run beyond its share up to there."""
    sitting: str
    grace_s: float
    """Seconds that a call under way at the deadline is waited for."""
    now: Callable[[], float]
    began: float
    tell: Callable[[str], None]
    facts: dict[int, Facts] = field(default_factory=dict)
    workers: dict[int, Worker] = field(default_factory=dict)
    warmed: set[tuple[tuple[int, ...], int]] = field(default_factory=set)
    """(clip size, job)."""
    sampling: bool = True
    setup_s: float = 0.0

    @property
    def _name(self) -> str:
        return f"launch {self.launch + 1} of {self.plan.launches}"

    @property
    def elapsed(self) -> float:
        return self.now() - self.began

    @property
    def patience(self) -> float:
        """Seconds that a request may take."""
        return self.deadline + self.grace_s - self.now()

    def is_open(self, c: int, j: int) -> bool:
        return (c, j) in self.points and self.points[c, j].ended is None

    def open(self) -> list[tuple[int, int]]:
        return [key for key in self.points if self.is_open(*key)]

    def run(self) -> None:
        """Build, admit, warm up, sample in rounds, and measure the extras where time is left."""
        if self.now() >= self.deadline:
            return
        if self.plan.scenario == "cold":
            return self._cold()
        jobs = sorted({j for _, j in self.points})
        self.tell(f"{self._name}: starting {len(jobs)} process{'es' * (len(jobs) > 1)}")
        self._start(jobs)
        for c, j in self.open():
            self._admit(c, j)
        self.tell(f"{self._name}: warming up")
        self._warm()
        if self.launch == 0:
            self.sampling = False  # a count that fails is no reason not to time
            self._extras(dry=True)
            self.sampling = True
        self._sample({j: point.warmup[-1] for (_, j), point in self.points.items() if point.warmup})
        if self.launch == 0:
            self.sampling = False  # what was sampled stays good when only the extras fail
            self._extras(dry=False)

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.stop()
        self.workers.clear()

    def _start(self, jobs: Sequence[int]) -> None:
        began = self.now()
        for j in jobs:
            self.workers[j] = Worker(self.jobs[j], self.plan.scenario, self.plan.device, self.plan.threads)
        for j in jobs:
            try:
                self.facts[j] = self.workers[j].ready(self.patience)
                for (_, other), point in self.points.items():
                    if other == j and not point.calls:
                        point.setup_seconds = self.workers[j].setup_seconds
            except WorkerLost as lost:
                self._lose(j, lost)
        self.setup_s += self.now() - began

    def _lose(self, j: int, lost: WorkerLost, clip: int | None = None) -> None:
        """Close one point, or every point of a job whose process is gone."""
        gone = lost.fatal or clip is None
        for (c, other), point in self.points.items():
            if self.sampling and other == j and point.ended is None and (gone or c == clip):
                point.ended = (lost.status, f"{self.jobs[j]}: {lost.reason}")
        if gone and j in self.workers:
            self.workers.pop(j).stop()

    def _ask(self, c: int, j: int, verb: str, *arguments: Any) -> Any:
        """A request about one point; None where it failed, which is then noted."""
        point, began = self.points[c, j], self.now()
        try:
            return self.workers[j].ask(verb, self.files[c], *arguments, timeout_s=self.patience)
        except WorkerLost as lost:
            self._lose(j, lost, c)
            return None
        finally:
            point.seconds += self.now() - began

    def _admit(self, c: int, j: int) -> None:
        if self.is_open(c, j):
            reason = self._ask(c, j, "skip")
            if reason:
                self.points[c, j].ended = (Status.SKIPPED, reason)

    def _warm(self) -> None:
        """Warm every process up on each clip size, within a third of the time."""
        sizes: dict[tuple[int, ...], list[int]] = {}
        for c, clip in enumerate(self.clips):
            sizes.setdefault(clip.video.shape, []).append(c)
        if not self.plan.warmup_s:
            return
        room, began = 0.3 * self.share_s, self.elapsed
        cap = min(self.plan.warmup_s, room / max(len(self.workers) * len(sizes), 1))
        for alike in sizes.values():
            for j in list(self.workers):
                first = next((c for c in alike if self.is_open(c, j)), None)
                if first is not None and self.elapsed - began < room:
                    warmup = self._ask(first, j, "warm", cap)
                    if warmup:
                        self.points[first, j].warmup += warmup
                        self.warmed.add((self.clips[first].video.shape, j))

    def _call(self, c: int, j: int, round_: int, settle: bool) -> float | None:
        answer = self._ask(c, j, "call", settle)
        if answer is None:
            return None
        settled, call = answer
        point = self.points[c, j]
        point.warmup += settled
        point.calls.append(call)
        point.rounds.append(round_)
        return call.total

    def _sample(self, recent: dict[int, float]) -> None:
        """recent: seconds of the last call of every job, where one was made."""
        rule = StopRule(float("inf"), self.plan.precision, self.plan.max_rounds)
        until_s = self.share_s
        for round_ in range(self.plan.max_rounds):
            if round_ == 1:  # what a call of every job takes is known from here on
                until_s = self._room_for_extras()
            for c, j in round_order(self.plan.seed, self.launch, round_, len(self.clips), len(self.jobs)):
                spent = self.elapsed >= until_s if round_ else self.now() >= self.deadline
                if spent:
                    return
                if self.is_open(c, j):
                    recent[j] = self._call(c, j, round_, recent.get(j, 1.0) < SETTLE_BELOW) or 1.0
            totals = [self.points[key].totals for key in self.open()]
            widest = max(map(half_width, totals), default=0.0)
            known = f"every median known to {widest:.1%}" if widest < float("inf") else "too few samples yet"
            self.tell(f"{self._name}: round {round_ + 1} done, {known}")
            if all(rule.reason(t, 0.0) is not None for t in totals):
                return

    def _room_for_extras(self) -> float:
        """Seconds of this launch at which sampling makes room, so that every job is counted on one clip at least.

        Half of what is left of the share goes to samples where later launches can spare the rest.
        """
        if self.launch > 0:
            return self.share_s
        slowest: dict[int, float] = {}
        for (_, j), point in self.points.items():
            if j in self.workers and not self._dry(j) and point.calls:
                slowest[j] = max(point.calls[-1].total, slowest.get(j, 0.0))
        reserve = sum(EXTRAS_START + EXTRAS_COST * call for call in slowest.values())
        share, budget = self.share_s - self.elapsed, self.deadline - self.now()
        return self.elapsed + max(min(max(share - reserve, share / 2), budget - reserve), 0.0)

    def _cold(self) -> None:
        """A fresh process for every (clip, job): its first call is the only sample."""
        for c, j in round_order(self.plan.seed, self.launch, 0, len(self.clips), len(self.jobs)):
            if self.now() >= self.deadline:
                return
            if not self.is_open(c, j):
                continue
            self.tell(f"{self._name}: {self.jobs[j]} on {self.clips[c].name}")
            self._start([j])
            if j in self.workers:
                self._admit(c, j)
                if self.is_open(c, j):
                    self._call(c, j, 0, settle=False)
            self.stop()

    def _dry(self, j: int) -> bool:
        return j in self.facts and self.facts[j].dry

    def _extras(self, dry: bool) -> None:
        """FLOPs and peak memory of every point of one kind: before the sampling where that is cheap, else after it.

        Every job is counted on one clip, if need be in the time of later launches, before any is on a second. Among
        those the slowest job comes first: it is the one that time runs out for.
        """
        turns: Counter[int] = Counter()
        due = []
        for c, j in sorted(self.open()):
            if self._dry(j) == dry and (dry or self.points[c, j].calls):
                due.append((turns[j], -sum(self.points[c, j].totals[-1:]), c, j))
                turns[j] += 1
        for turn, last, c, j in sorted(due):
            if j not in self.workers or not self.is_open(c, j):
                continue
            end = self.share_s if turn else self.deadline - self.began
            if dry or self.elapsed - EXTRAS_COST * last <= end:
                self.points[c, j].extras = self._ask(c, j, "extras")

    def results(self, interrupted: bool = False) -> Iterator[Result]:
        """Every point, whatever became of it; one with samples is done, even where it ended early."""
        for (c, j), point in self.points.items():
            facts = self.facts.get(j)
            status, reason = point.ended or (Status.TIMEOUT, f"{self.jobs[j]}: {self._unreached()}")
            result = Result(self.jobs[j], self.clips[c].name, self.launch, status, reason, seconds=point.seconds)
            if facts is not None:
                result = replace(result, described=facts.described, environment=facts.environment)
            if facts is not None and point.calls:
                timing = self._timing(c, j, point, interrupted)
                counted = point.calls[-1].total_evaluations
                yield replace(result, status=Status.DONE, reason="", timing=timing, evaluations=counted)
            elif point.ended is not None or not interrupted:
                yield result

    def _unreached(self) -> str:
        start = f" (starting the processes took {self.setup_s:.0f} s)" if self.setup_s else ""
        return f"the budget of {self.plan.budget_s:g} s was spent before its first call{start}; raise --budget"

    def _timing(self, c: int, j: int, point: _Point, interrupted: bool) -> Timing:
        facts = self.facts[j]
        rule = StopRule(self.share_s, self.plan.precision, self.plan.max_rounds, "the launch's share of the budget")
        if point.ended is not None:
            stopped = f"ended early: {point.ended[1]}"
        elif self.plan.scenario == "cold":
            stopped = "cold: a process has one first call"
        elif interrupted:
            stopped = f"interrupted after {len(point.calls)} samples"
        else:
            stopped = rule.reason(point.totals, 0.0) or rule.reason(point.totals, self.share_s) or ""
        return _timing(
            point.calls,
            point.rounds,
            point.extras,
            facts.shortened,
            scenario=self.plan.scenario,
            device=self.plan.device,
            dtype=facts.dtype,
            compiled=facts.compiled,
            launch=self.launch,
            sitting=self.sitting,
            warmup=point.warmup,
            warmed=(self.clips[c].video.shape, j) in self.warmed or self.plan.scenario == "cold",
            stop_reason=stopped,
            seed=self.plan.seed,
            setup_seconds=point.setup_seconds,
            forced=dict(facts.forced),
        )


def run(
    jobs: Sequence[Job],
    clips: Sequence[Clip],
    plan: Plan,
    done: Callable[[Job, Clip, int], bool] = lambda job, clip, launch: False,
    tell: Callable[[str], None] = lambda message: None,
    now: Callable[[], float] = time.perf_counter,
) -> Iterator[Result]:
    """Time every job on every clip, launch by launch; see the module's first lines.

    ``done(job, clip, launch)`` says what is stored already. A clip is left out of a launch where that holds for every
    job; otherwise all jobs are timed on it again, because a pair of samples is only a pair within one sitting. Yields a
    :class:`Result` for everything timed; a point that the budget did not reach comes as a timeout. After Ctrl-C, what
    was measured is yielded before KeyboardInterrupt goes on its way. ``tell`` hears what is going on, in short lines.
    Raises ValueError when a job is listed twice.
    """
    for i, job in enumerate(jobs):
        if job in jobs[:i]:
            raise ValueError(f"{job} is listed twice; give one of them an alias to time it against itself")
    deadline = now() + plan.budget_s
    started = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    groups = [(f"{started} {g}", group) for g, group in enumerate(_groups(jobs, plan))]
    units = [(launch, sitting, group) for launch in range(plan.launches) for sitting, group in groups]
    with tempfile.TemporaryDirectory(prefix="avtbench-speed-") as folder:
        files = [str(Path(folder) / f"{c}.npy") for c in range(len(clips))]
        for file, clip in zip(files, clips, strict=True):
            np.save(file, clip.video)
        for n, (launch, sitting, group) in enumerate(units):
            due = [c for c, clip in enumerate(clips) if not all(done(jobs[j], clip, launch) for j in group)]
            if not due:
                continue
            wanted = {(c, k): _Point() for c in due for k in range(len(group))}
            share = max(deadline - now(), 0.0) / (len(units) - n)
            running = _Launch(
                plan, launch, [jobs[j] for j in group], clips, files, wanted, share, deadline, sitting,
                grace_s=max(5.0, 0.1 * plan.budget_s), now=now, began=now(), tell=tell,
            )  # fmt: skip
            try:
                running.run()
            except KeyboardInterrupt:
                running.stop()
                yield from running.results(interrupted=True)
                raise
            finally:
                running.stop()
            yield from running.results()


def _groups(jobs: Sequence[Job], plan: Plan) -> list[list[int]]:
    """Job indices in groups of at most ``plan.resident``, split at random where there are more; a job under two names
    stays in one, where it tells the noise floor."""
    if len(jobs) <= plan.resident:
        return [list(range(len(jobs)))] if jobs else []
    twins: dict[str, list[int]] = {}
    for j in random.Random(plan.seed).sample(range(len(jobs)), len(jobs)):
        twins.setdefault(repr(replace(jobs[j], alias="", label="")), []).append(j)
    groups: list[list[int]] = []
    for together in sorted(twins.values(), key=len, reverse=True):
        for i in range(0, len(together), plan.resident):
            part = together[i : i + plan.resident]
            room = next((group for group in groups if len(group) + len(part) <= plan.resident), None)
            if room is None:
                groups.append(part)
            else:
                room += part
    return groups
