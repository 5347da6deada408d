"""The instrument against the truth: methods whose stages sleep for a known time.

Not part of the default tests, because a busy machine fails them rightly: ``pytest -m timing`` on a quiet one, five to
six minutes (at most twenty, by the budgets given here). Sleeping takes no core, so two cores are enough. Every claim is
judged over repetitions, never on one measurement, and against what the sleeps really took by the methods' own clocks.
"""

import dataclasses

import numpy as np
import pytest
import torch

from avtbench.bench.rows import Row, Status
from avtbench.bench.timing import speed
from avtbench.bench.timing.speed import Job, Plan, Result
from avtbench.bench.timing.statistics import noise_floors, speed_up, unattributed_share
from avtbench.datasets.contract import Clip

pytestmark = pytest.mark.timing

METHODS = '''
import time
import torch
from avtbench.methods.contract import Method, Tokens
from avtbench.methods.stages import stage

class Sleeping(Method):
    """Stages that last as long as told, in milliseconds; ``unmarked`` is spent in no stage."""
    name = "sleeping"
    def __init__(self, encoder=20.0, search=10.0, decoder=15.0, unmarked=0.0):
        self.milliseconds = {"encoder": encoder, "search": search, "decoder": decoder, "unmarked": unmarked}
        self.slept = {name: [] for name in self.milliseconds}
    def sleep(self, name):
        began = time.perf_counter()
        time.sleep(self.milliseconds[name] * 1e-3)
        self.slept[name].append(time.perf_counter() - began)
    def encode(self, video):
        with stage("encoder"):
            self.sleep("encoder")
        self.sleep("unmarked")
        return video
    def select(self, latents, setting):
        with stage("search"):
            self.sleep("search")
        return Tokens(torch.zeros(1, 4), torch.tensor([[[True]]]), tuple(latents.shape[:3]))
    def decode(self, tokens):
        with stage("decoder"):
            self.sleep("decoder")
        return torch.zeros(*tokens.video, 3)
'''
REPETITIONS = 20
LAUNCHES, BLOCKS, ROUNDS = 4, 5, 40
"""20 repetitions of 40 rounds: five in a row in each of four sets of fresh processes. With noise of 1 % and one call in
ten held up by 10 %, simulated sessions of that length find a difference of 5 % in 99.9 of 100 cases and call equal
methods different in fewer than one in 1000."""


@pytest.fixture(scope="module")
def sleeping(tmp_path_factory):
    path = tmp_path_factory.mktemp("methods") / "sleeping.py"
    path.write_text(METHODS)
    return lambda label, **milliseconds: Job(f"{path}:Sleeping", 0.5, milliseconds, label=label)


def rows(results: list[Result], label: str) -> list[Row]:
    return [
        Row(
            key=f"{label}/{r.job.alias}/{r.launch}", status=r.status, reason=r.reason, pass_="speed", method=label,
            alias=r.job.alias, tier="shared", family="bound", weights="none", dataset="made", clip=r.clip,
            timing=r.timing,
        )
        for r in results
        if r.job.label == label
    ]  # fmt: skip


def repetition(results: list[Result], launch: int, block: int) -> list[Result]:
    """The samples of one launch in the rounds of one block."""
    found = []
    for r in (r for r in results if r.launch == launch):
        inside = [i for i, number in enumerate(r.timing.rounds) if number // ROUNDS == block]
        cut = {name: [getattr(r.timing, name)[i] for i in inside] for name in ("rounds", "encode_side", "decode_side")}
        found.append(dataclasses.replace(r, timing=r.timing.model_copy(update={**cut, "stages": []})))
    return found


def clips(count: int) -> list[Clip]:
    chance = np.random.default_rng(0)
    return [Clip(f"clip{i}", "made", chance.integers(0, 256, (5, 16, 16, 3), np.uint8)) for i in range(count)]


def test_known_times_are_measured_within_3_percent_and_1_ms(sleeping):
    """The truth is what each sleep really took by the method's own clock: a system may wake a sleeper late."""
    video = torch.from_numpy(clips(1)[0].video)
    misses = 0
    for _ in range(REPETITIONS):
        method = sleeping("sleeping").build()
        found = speed.time_point(method, video, 0.5, budget_s=4, extras=False)
        slept = {name: np.asarray(seconds[-len(found.rounds) :]) for name, seconds in method.slept.items()}
        seconds = {s.path: s.seconds for s in found.stages}
        both = slept["encoder"] + slept["search"]
        misses += any(
            abs(np.median(measured) - np.median(truth)) > 0.03 * np.median(truth) + 1e-3
            for measured, truth in (
                (seconds["encode/encoder"], slept["encoder"]),
                (seconds["select/search"], slept["search"]),
                (seconds["decode/decoder"], slept["decoder"]),
                (found.encode_side, both),
                (found.decode_side, slept["decoder"]),
            )
        )
    assert misses <= 2


def test_a_planted_difference_is_found_and_equal_methods_are_not_called_different(sleeping):
    """Three configurations, one of them 5 % slower, two equal ones, and the A/A pair that gives the noise floor."""
    told = {"encoder": 20.0, "search": 15.0, "decoder": 20.0}  # long enough that no call is preceded by another
    jobs = [
        *speed.with_twin([sleeping("base", **told)]),
        sleeping("equal", **told, unmarked=0.0),
        sleeping("slower", **{**told, "encoder": 20.0 + 0.05 * 55.0}),
    ]
    plan = Plan(launches=LAUNCHES, max_rounds=BLOCKS * ROUNDS, precision=-1.0, budget_s=900, threads=1)
    results = list(speed.run(jobs, clips(1), plan))
    assert all(r.status is Status.DONE for r in results), sorted({r.reason for r in results})
    for result in (r for r in results if r.job.label == "base"):
        for measured, truth in ((result.timing.encode_side, 0.035), (result.timing.decode_side, 0.02)):
            assert np.median(measured) == pytest.approx(truth, abs=0.03 * truth + 1e-3), "in its own process, too"

    found, false_alarms = 0, 0
    for launch in range(LAUNCHES):
        for block in range(BLOCKS):
            here = repetition(results, launch, block)
            base = rows(here, "base")
            (floor,) = noise_floors(base).values()
            alone = [r for r in base if not r.alias]
            planted = speed_up(rows(here, "slower"), alone)
            same = speed_up(rows(here, "equal"), alone)
            verdicts = planted.verdict(floor), same.verdict(floor)
            print(f"floor {floor:.4f}, planted {planted.interval}, equal {same.interval}")
            found += planted.low > 1 and verdicts[0].startswith("faster")
            false_alarms += not verdicts[1].startswith("not distinguishable")
    print(f"found {found} of {REPETITIONS}, {false_alarms} false alarms")
    assert LAUNCHES * BLOCKS == REPETITIONS
    assert found >= REPETITIONS - 2
    assert false_alarms <= 2


def test_a_part_in_no_stage_shows_up_as_unattributed(sleeping):
    video = torch.from_numpy(clips(1)[0].video)
    errors = []
    for _ in range(REPETITIONS):
        method = sleeping("loose", unmarked=10.0).build()
        found = speed.time_point(method, video, 0.5, budget_s=4, extras=False)
        slept = [method.slept[name][-len(found.rounds) :] for name in ("encoder", "search", "decoder", "unmarked")]
        truth = np.median([loose / sum(parts) for *parts, loose in zip(*slept, slept[3], strict=True)])
        errors.append(unattributed_share(found) - truth)
    assert truth > 0.1
    assert abs(float(np.median(errors))) < 0.02
