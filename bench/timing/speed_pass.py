"""The speed pass of a run: its points handed to the speed instrument, what it yields turned into rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from avtbench.bench import environment
from avtbench.bench.plugins import accepts, load
from avtbench.bench.rows import Status
from avtbench.bench.runner import Event, Finished, Job, Known, Machine, Point, Sight, Workbench
from avtbench.bench.timing import speed
from avtbench.datasets.contract import Clip

if TYPE_CHECKING:
    from avtbench.bench.runner import Entry

Place = tuple[int, str, int]
"""(index of the timed job, clip, launch): what the instrument yields one result for."""


def events(work: Workbench, jobs: Sequence[Job]) -> Iterator[Event]:
    """Time the jobs, data set by data set, each with its share of the budget; an event for every point."""
    datasets = sorted({job.dataset for job in jobs})
    for d in datasets:
        yield from _dataset(work, [job for job in jobs if job.dataset == d], work.spec.speed.budget / len(datasets))


def _dataset(work: Workbench, jobs: Sequence[Job], budget: float) -> Iterator[Event]:
    timed: list[speed.Job] = []
    index: dict[tuple[int, float], int] = {}
    sights: dict[str, Sight] = {}
    points: dict[Place, tuple[Job, Point]] = {}
    for job in sorted(jobs, key=lambda job: job.ref.name):  # a clip is read once
        sight = sights.setdefault(job.ref.name, work.sight(job))
        entry = work.entries[job.entry]
        keys = work.keys(job, sight.digest)
        for slot, setting, key in zip(job.slots, job.settings, keys, strict=True):
            point = Point(slot, setting, key)
            if sight.clip is None:
                yield Finished(slot, work.row(job, point, sight, status=Status.FAILED, reason=sight.error))
                continue
            if (job.entry, setting) not in index:
                index[job.entry, setting] = len(timed)
                timed.append(_timed(work, entry, setting))
            points[index[job.entry, setting], job.ref.name, job.launch] = job, point
    clips = [replace(s.clip, name=name) for name, s in sights.items() if s.clip is not None]
    if not clips:
        return
    wanted = work.spec.speed
    plan = speed.Plan(
        scenario=wanted.scenario,
        budget_s=budget,
        launches=wanted.launches,
        seed=work.spec.seed,
        max_rounds=wanted.rounds,
        resident=wanted.resident,
        device=str(work.device),
        threads=wanted.threads,
        warmup_s=wanted.warmup,
    )

    def stored(job: speed.Job, clip: Clip, launch: int) -> bool:
        return points[timed.index(job), clip.name, launch][1].key in work.finished

    left = dict(points)
    for result in speed.run(timed, clips, plan, stored):
        job, point = left.pop((timed.index(result.job), result.clip, result.launch))
        machine = Machine(environment.digest(result.environment), result.environment)
        given: dict[str, Any] = {}
        if result.environment:
            yield from work.tell(machine)
            given["environment"] = machine.digest
        sight, timing = sights[result.clip], result.timing
        if timing is not None:
            timing = timing.model_copy(update={"outside": {"read": [sight.seconds], **timing.outside}})
        row = work.row(
            job, point, sight, status=result.status, reason=result.reason, timing=timing,
            evaluations=dict(result.evaluations), seconds=result.seconds, **given,
        )  # fmt: skip
        yield Finished(point.slot, row)
    for _, point in left.values():
        if point.key in work.finished:
            yield Known(point.slot, point.key)


def _timed(work: Workbench, entry: Entry, setting: float) -> speed.Job:
    """The job that builds the same method in a process of its own."""
    knobs: dict[str, Any] = {"kind": "method", "name": entry.spec.name, "defaults": work.defaults, **entry.spec.knobs}
    if accepts(load(entry.plugin), "tokenizer"):
        told = entry.spec.tokenizer or work.spec.tokenizer
        knobs["tokenizer"] = {"name": told.name, **told.knobs}
    return speed.Job("avtbench.bench.plugins:create", setting, knobs, alias=entry.alias, label=entry.label)
