"""The speed instrument, everything but time itself: what is called when, what is kept, and why it stops."""

import io
import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from avtbench.bench.commands.stage_chart import stage_chart
from avtbench.bench.openmp import WAITING
from avtbench.bench.rows import Status
from avtbench.bench.timing import speed, statistics
from avtbench.bench.timing.calls import Instrument, compiled, dtype_of
from avtbench.bench.timing.speed import Job, Plan, StopRule, round_order, time_point, with_twin
from avtbench.bench.timing.workers import Server, WorkerLost
from avtbench.datasets.contract import Clip
from avtbench.methods.contract import Method, Tokens
from avtbench.methods.stages import evaluated, stage


class HandClock:
    """A clock that moves only when told; read in nanoseconds."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, milliseconds: float) -> None:
        self.now += int(milliseconds * 1e6)


class Paced(Method):
    """encode 10 ms (1 ms of it in no stage), select 3 probes of 2 ms, decode 4 ms, on a clock of its own."""

    name = "paced"

    def __init__(self, jitter=lambda call: 1.0) -> None:
        self.clock = HandClock()
        self.jitter = jitter
        self.calls = 0

    def skip(self, video):
        return "paced takes at most 64 frames" if video[0] > 64 else None

    def encode(self, video):
        self.calls += 1
        with stage("network"):
            evaluated("encoder")
            self.clock.pass_ms(9 * self.jitter(self.calls))
        self.clock.pass_ms(1 * self.jitter(self.calls))
        return video

    def select(self, latents, setting):
        with stage("search"):
            for _ in range(3):
                evaluated("decoder")
                self.clock.pass_ms(2 * self.jitter(self.calls))
        t, h, w, _ = latents.shape
        return Tokens(torch.zeros(1, 4), torch.tensor([[[True, False]]]), (t, h, w))

    def decode(self, tokens):
        evaluated("decoder")
        self.clock.pass_ms(4 * self.jitter(self.calls))
        return torch.zeros(*tokens.video, 3)


class Streamed(Paced):
    """Four frames a chunk: 5 ms to their tokens, 2 ms back to pixels."""

    name = "streamed"

    def stream(self, video, setting):
        for chunk in video.split(4):
            with stage("chunk encoder"):
                self.clock.pass_ms(5)
            yield Tokens(torch.zeros(1, 4), torch.tensor([[[True]]]), tuple(chunk.shape[:3]))
            with stage("chunk decoder"):
                self.clock.pass_ms(2)
            yield torch.zeros(*chunk.shape)


VIDEO = torch.zeros(8, 16, 16, 3, dtype=torch.uint8)


def point(method: Paced, **options):
    return time_point(method, VIDEO, 0.5, nanoseconds=method.clock, **{"budget_s": 60.0, **options})


# One point, in this process


def test_both_sides_and_every_stage_are_told_apart():
    found = point(Paced())
    assert found.encode_side == pytest.approx([0.016] * len(found.rounds))
    assert found.decode_side == pytest.approx([0.004] * len(found.rounds))
    assert {s.path: s.seconds[0] for s in found.stages} == pytest.approx(
        {
            "encode": 0.010,
            "encode/network": 0.009,
            "encode/unattributed": 0.001,
            "select": 0.006,
            "select/search": 0.006,
            "select/unattributed": 0.0,
            "decode": 0.004,
            "unattributed": 0.0,
        }
    )
    assert all(len(s.seconds) == len(found.encode_side) for s in found.stages)


def test_network_evaluations_are_counted_per_stage_and_per_call():
    found = point(Paced())
    assert {s.path: s.evaluations for s in found.stages if s.evaluations} == {
        "encode": {"encoder": 1},
        "encode/network": {"encoder": 1},
        "select": {"decoder": 3},
        "select/search": {"decoder": 3},
        "decode": {"decoder": 1},
    }
    assert statistics.cost(found)[0] == 1 + 4


def test_warm_up_lasts_three_calls_and_a_second_and_is_kept():
    found = point(Paced())
    assert len(found.warmup) == 50  # of 20 ms
    slow = point(Paced(jitter=lambda call: 100))
    assert len(slow.warmup) == 3  # of 2 s


def test_warm_up_is_capped():
    assert len(point(Paced(jitter=lambda call: 1000), budget_s=3600).warmup) == 1  # 20 s, beyond the cap of 10 s
    assert len(point(Paced(jitter=lambda call: 10), budget_s=1.0).warmup) == 2  # 0.2 s, capped at 0.3 s


def test_it_stops_when_the_median_is_precise():
    found = point(Paced())
    assert len(found.encode_side) == 6
    assert found.stop_reason == "precise: half-width of the median 0.0% <= 2%"


def test_it_stops_when_the_budget_is_spent():
    found = point(Paced(jitter=lambda call: 1 + call * 7919 % 101 / 50), budget_s=4.0)
    assert found.stop_reason.startswith("budget of ")
    assert " s spent: half-width of the median " in found.stop_reason


def test_a_budget_of_nothing_still_gives_one_sample():
    found = point(Paced(), budget_s=0.0)
    assert (len(found.warmup), len(found.encode_side), found.peak_bytes) == (1, 1, None)
    assert found.stop_reason == "budget of 0 s spent: 1 samples"


def test_it_stops_at_the_largest_number_of_samples():
    found = point(Paced(jitter=lambda call: 1 + call % 3), max_samples=20)
    assert len(found.encode_side) == 20
    assert found.stop_reason.startswith("20 samples taken")


def test_the_stop_rule_gives_precision_before_budget_before_number():
    steady, wild = [1.0] * 6, [1.0, 2.0, 3.0] * 2
    rule = StopRule(budget_s=10, max_samples=6)
    assert str(rule.reason(steady, 11)).startswith("precise")
    assert str(rule.reason(wild, 11)).startswith("budget")
    assert str(rule.reason(wild, 1)).startswith("6 samples taken")
    assert rule.reason(wild[:5], 1) is None


def test_a_cold_start_is_one_call_without_warm_up():
    found = point(Paced(), scenario="cold")
    assert (found.warmup, len(found.encode_side)) == ([], 1)


def test_a_clip_that_the_method_does_not_take_is_refused_with_its_reason():
    with pytest.raises(ValueError, match="at most 64 frames"):
        time_point(Paced(), torch.zeros(65, 8, 8, 3, dtype=torch.uint8), 0.5, budget_s=1)


def test_peak_memory_comes_from_a_call_of_its_own():
    found = point(Paced())
    assert found.peak_bytes
    assert {s.path for s in found.stages if s.peak_bytes} == {
        "encode", "encode/network", "select", "select/search", "decode",
    }  # fmt: skip


# A declared trace of which only a part is run


class Shortened(Paced):
    """Runs three of the twelve probes that its trace declares."""

    name = "shortened"
    forced: ClassVar = {"probes": 12, "run": 3}
    shortened: ClassVar = {"select/search": 4.0}


def test_what_was_not_run_is_added_and_the_sample_says_so():
    found = point(Shortened())
    assert found.encode_side == pytest.approx([0.010 + 4 * 0.006] * len(found.rounds))
    assert found.decode_side == pytest.approx([0.004] * len(found.rounds))
    assert {s.path: s.seconds[0] for s in found.stages if s.path.startswith("select")} == pytest.approx(
        {"select": 0.024, "select/search": 0.024, "select/unattributed": 0.0}
    )
    assert {s.path: s.evaluations for s in found.stages if s.path.startswith("select")} == {
        "select": {"decoder": 12}, "select/search": {"decoder": 12}, "select/unattributed": {},
    }  # fmt: skip
    assert statistics.cost(found)[0] == 1 + 13
    assert str(found.extrapolated) == "extrapolated from 5 of 14 evaluations (select/search x 4)"
    assert found.extrapolated.measured == pytest.approx([0.020] * len(found.rounds))
    assert point(Paced()).extrapolated is None


def test_a_shortened_trace_has_no_throughput():
    with pytest.raises(ValueError, match="a part of its declared trace: take the scenario latency"):
        point(Shortened(), scenario="throughput")


# FLOPs


class Attending(Method):
    """A linear layer while encoding, fused attention while selecting, multi-head attention while decoding."""

    name = "attending"

    def __init__(self) -> None:
        self.linear = nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()

    def encode(self, video):
        return self.linear(video.float()).reshape(1, 1, -1, 8)

    def select(self, latents, setting):
        with stage("attention"):
            F.scaled_dot_product_attention(latents, latents, latents)
        n = latents.shape[2]
        return Tokens(latents[0, 0], torch.ones(1, 1, n, dtype=torch.bool), (2, 4, 4))

    def decode(self, tokens):
        self.attention(tokens.values[None], tokens.values[None], tokens.values[None])
        return torch.zeros(*tokens.video, 3)


def test_flops_count_fused_attention_on_the_cpu_too():
    n, d = 2 * 4 * 4, 8
    found = Instrument(Attending(), 0.5).extras(torch.zeros(2, 4, 4, 3, dtype=torch.uint8)).flops
    attention = 2 * 2 * n * n * d
    assert found == {
        "encode": 2 * n * 3 * d,
        "select": attention,
        "select/attention": attention,
        "decode": 4 * 2 * n * d * d + attention,
    }
    assert torch.backends.mha.get_fastpath_enabled()


def test_flops_under_random_weights_are_counted_without_multiplying_where_the_trace_is_forced():
    video = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    computed = Instrument(Attending(), 0.5).extras(video)
    method = Attending()
    method.weights = "random"
    assert not Instrument(method, 0.5).dry, "what its threshold keeps decides the cost"
    method.forced = {"kept": 0.5}
    seen = []
    method.linear.register_forward_hook(lambda _module, _inputs, out: seen.append(bool(out.any())))
    counted = Instrument(method, 0.5).extras(video)
    assert counted.flops == computed.flops
    assert seen == [False]
    assert counted.peak is None


def test_flops_of_a_point_are_the_sum_over_its_verbs():
    found = time_point(Attending(), torch.zeros(2, 4, 4, 3, dtype=torch.uint8), 0.5, budget_s=20, max_samples=6)
    n, d = 2 * 4 * 4, 8
    assert statistics.cost(found)[1] == 2 * n * 3 * d + 2 * (2 * 2 * n * n * d) + 4 * 2 * n * d * d


def test_the_number_format_is_the_methods_own():
    assert dtype_of(Attending()) == "float32"
    half = Attending()
    half.linear.to(torch.bfloat16)
    assert dtype_of(half) == "bfloat16"
    assert dtype_of(Paced()) == "float32"


def test_a_network_that_was_compiled_is_told():
    plain, wrapped, inside = Attending(), Attending(), Attending()
    name, network = next((k, v) for k, v in vars(plain).items() if isinstance(v, nn.Module))
    setattr(wrapped, name, torch.compile(network))
    next(getattr(inside, name).children(), getattr(inside, name)).compile()
    assert [compiled(m) for m in (plain, wrapped, inside, Paced())] == [False, True, True, False]


# Other scenarios


def test_a_stream_is_timed_chunk_by_chunk():
    found = point(Streamed(), scenario="stream")
    assert found.chunks[0] == pytest.approx([0.007, 0.007])
    assert found.encode_side[0] == pytest.approx(0.010)
    assert found.decode_side[0] == pytest.approx(0.004)
    assert {s.path: s.seconds[0] for s in found.stages} == pytest.approx(
        {"chunk encoder": 0.010, "chunk decoder": 0.004, "unattributed": 0.0}
    )


def test_a_method_that_does_not_stream_is_skipped_with_a_reason():
    with pytest.raises(ValueError, match="paced has no stream"):
        point(Paced(), scenario="stream")


def test_throughput_is_seconds_per_clip_with_the_clips_in_flight_stated():
    method = Paced()
    found = point(method, scenario="throughput")
    assert found.lanes == 1  # the hand clock adds the lanes up, so two at once take twice as long
    assert found.encode_side == pytest.approx([0.016] * len(found.rounds))
    assert found.stages == []


def test_more_clips_go_in_flight_while_that_pays():
    method = Paced()
    instrument = Instrument(method, 0.5, "throughput", method.clock)
    cost = {1: 0.010, 2: 0.006, 4: 0.0059, 8: 0.001}
    instrument._in_flight = lambda video, lanes: speed.Call(cost[lanes], 0.0, lanes=lanes)
    instrument.warm(VIDEO)
    assert instrument.lanes == 2


def test_clips_in_flight_stop_where_memory_does():
    method = Paced()
    instrument = Instrument(method, 0.5, "throughput", method.clock)

    def in_flight(video, lanes):
        if lanes > 4:
            raise RuntimeError("CUDA out of memory")
        return speed.Call(1.0 / lanes, 0.0, lanes=lanes)

    instrument._in_flight = in_flight
    instrument.warm(VIDEO)
    assert instrument.lanes == 4


# Several jobs against each other


class Nearby:
    """A worker that answers in this process, on the job's own clock, and notes who was asked."""

    log: ClassVar[list[tuple[str, str, str]]] = []
    seconds = 0.0
    alive = 0

    def __init__(self, job, scenario, device, threads) -> None:
        self.job, self.server, self.setup_seconds = job, None, 1.5
        self.scenario, self.device = scenario, device
        Nearby.seconds += 1.5
        Nearby.alive += 1

    def ready(self, timeout_s):
        try:
            self.server = Server(self.job, self.scenario, self.device)
        except ImportError as error:
            raise WorkerLost(Status.FAILED, str(error), fatal=False) from None
        self.server.instrument.nanoseconds = self.server.instrument.method.clock
        return self.server.facts

    def ask(self, verb, file, *arguments, timeout_s):
        Nearby.log.append((str(self.job), verb, Path(file).stem))
        clock = self.server.instrument.method.clock
        before = clock.now
        try:
            return getattr(self.server, verb)(file, *arguments)
        except ArithmeticError as error:
            raise WorkerLost(Status.FAILED, str(error), fatal=False) from None
        except SystemExit:
            raise WorkerLost(Status.OUT_OF_MEMORY, "its process ended with exit code -9", fatal=True) from None
        finally:
            Nearby.seconds += (clock.now - before) * 1e-9

    def stop(self):
        Nearby.alive -= 1


@pytest.fixture
def nearby(monkeypatch):
    monkeypatch.setattr(speed, "Worker", Nearby)
    monkeypatch.setattr(Nearby, "log", [])
    monkeypatch.setattr(Nearby, "seconds", 0.0)
    monkeypatch.setattr(Nearby, "alive", 0)

    def run(jobs, count=2, done=lambda job, clip, launch: False, tell=lambda message: None, **plan):
        clips = [Clip(f"clip{i}", "made", np.full((8, 4, 4, 3), i, np.uint8)) for i in range(count)]
        return speed.run(jobs, clips, Plan(**plan), done, tell, now=lambda: Nearby.seconds)

    yield run
    assert Nearby.alive == 0, "a process was left running"


METHODS = """
import torch
from avtbench.methods.contract import Method, Tokens
from avtbench.methods.stages import evaluated

class Clock:
    now = 0
    def __call__(self):
        return self.now

class Steady(Method):
    name = "steady"
    def __init__(self, milliseconds=100, fails=None, dies=None, missing="", interrupt=None):
        if missing:
            raise ImportError(missing)
        self.clock, self.milliseconds, self.calls = Clock(), milliseconds, 0
        self.fails, self.dies, self.interrupt = fails, dies, interrupt
    def skip(self, video):
        return "too many frames" if self.milliseconds > 1e6 else None
    def encode(self, video):
        self.calls += 1
        clip = int(video[0, 0, 0, 0])
        if self.fails == clip:
            raise ArithmeticError("no convergence")
        if self.dies == self.calls:
            raise SystemExit
        if self.interrupt == self.calls:
            raise KeyboardInterrupt
        evaluated("net", 2)
        self.clock.now += int(self.milliseconds * 1e6)
        return video
    def select(self, latents, setting):
        return Tokens(torch.zeros(1, 4), torch.tensor([[[True]]]), (8, 4, 4))
    def decode(self, tokens):
        return torch.zeros(8, 4, 4, 3)
"""


@pytest.fixture
def steady(tmp_path):
    path = tmp_path / "steady_methods.py"
    path.write_text(METHODS)
    return lambda label="steady", **knobs: Job(f"{path}:Steady", 0.5, knobs, label=label)


def test_every_job_clip_and_launch_gives_one_result_with_what_a_row_needs(nearby, steady):
    results = list(nearby([steady("a"), steady("b", milliseconds=50)], launches=3))
    assert len(results) == 2 * 2 * 3
    assert {r.status for r in results} == {Status.DONE}
    first = results[0]
    assert (first.job.label, first.clip, first.launch, first.timing.launch) == ("a", "clip0", 0, 0)
    assert first.evaluations == {"net": 2}
    assert first.described["method"] == "steady"
    assert first.environment["software"]["torch"] == torch.__version__
    assert first.timing.encode_side == pytest.approx([0.1] * 6)
    assert first.timing.rounds == [0, 1, 2, 3, 4, 5]
    assert first.timing.stop_reason == "precise: half-width of the median 0.0% <= 2%"
    assert first.timing.setup_seconds == 1.5
    assert len(first.timing.outside["copy"]) == 6, "the pixels come to the device before every sample"
    assert first.seconds > 0.6


def test_a_round_is_every_clip_once_with_all_jobs_side_by_side():
    order = round_order(seed=7, launch=0, round_=0, clips=5, jobs=3)
    assert sorted(order) == list(itertools.product(range(5), range(3)))
    assert all(len({c for c, _ in order[i : i + 3]}) == 1 for i in range(0, 15, 3))


def test_the_order_follows_from_the_seed_alone_and_changes_from_round_to_round():
    assert round_order(7, 0, 0, 5, 3) == round_order(7, 0, 0, 5, 3)
    assert len({tuple(round_order(s, k, r, 5, 3)) for s in (7, 8) for k in (0, 1) for r in (0, 1)}) == 8


def test_no_place_in_the_order_is_favoured():
    first = [round_order(0, 0, r, 1, 2)[0][1] for r in range(400)]
    assert 160 < sum(first) < 240


def test_what_is_timed_in_turns_shares_a_sitting(nearby, steady):
    jobs = [steady(f"job{i}") for i in range(4)]
    (sitting,) = {r.timing.sitting for r in nearby(jobs, launches=2)}
    groups = {(r.timing.sitting, r.job.label) for r in nearby(jobs, launches=2, resident=2)}
    assert len(groups) == 4, "a job keeps its group in every launch"
    assert len({group for group, _ in groups}) == 2
    assert sitting not in {group for group, _ in groups}, "another run is another sitting"


def test_a_run_that_takes_all_its_rounds_says_so(nearby, steady):
    found = [r.timing.stop_reason for r in nearby([steady()], launches=1, max_rounds=8, precision=-1.0)]
    assert found == ["8 samples taken: half-width of the median 0.0%"] * 2


def test_a_plan_may_do_without_warming_up(nearby, steady):
    found = [r.timing for r in nearby([steady(milliseconds=60)], launches=1, max_rounds=2, warmup_s=0)]
    assert [(t.warmup, t.warmed) for t in found] == [([], False)] * 2


def test_slow_calls_warm_up_in_a_third_of_the_time_so_that_every_method_is_sampled(nearby, steady):
    jobs = [steady(name, milliseconds=20_000) for name in "abcd"]
    found = [r.timing for r in nearby(jobs, count=1, launches=1, budget_s=200)]
    assert [t.warmed for t in found] == [True, True, True, False]
    assert all(t.encode_side for t in found)


def test_a_clip_size_that_was_not_reached_is_not_called_warmed_up(nearby, steady):
    """Warm-up begins no call after 0.3 x 200 s, and a call takes 25 s: three of four sizes."""
    clips = [Clip(f"clip{i}", "made", np.zeros((8, 4, 4 + i, 3), np.uint8)) for i in range(4)]
    plan = Plan(launches=1, budget_s=200, max_rounds=1)
    found = [r.timing for r in speed.run([steady(milliseconds=25_000)], clips, plan, now=lambda: Nearby.seconds)]
    assert [(t.warmed, len(t.warmup)) for t in found] == [(True, 1)] * 3 + [(False, 0)]


@pytest.mark.parametrize(("budget", "launches"), [(32, 1), (40, 1), (60, 1), (50, 3), (80, 3)])
def test_every_method_is_counted_on_one_clip_before_any_is_on_a_second(nearby, steady, budget, launches):
    """Six clips, so that counting all would take four rounds: one count of every job is made room for."""
    jobs = [steady(name, milliseconds=m) for name, m in (("a", 300), ("b", 600), ("c", 900))]
    list(nearby(jobs, count=6, launches=launches, budget_s=budget, precision=-1.0))
    counted = [(job[0], clip) for job, verb, clip in Nearby.log if verb == "extras"]
    assert counted[:3] == [("c", "0"), ("b", "0"), ("a", "0")]
    assert len(counted) < 18


def test_the_slowest_method_is_the_first_whose_flops_are_counted(nearby, steady):
    list(nearby([steady("a"), steady("b", milliseconds=900)], launches=1))
    assert [job[0] for job, verb, _ in Nearby.log if verb == "extras"] == ["b", "a"] * 2


def test_calls_are_handed_out_in_the_order_of_the_round(nearby, steady):
    list(nearby([steady("a"), steady("b")], launches=1, max_rounds=4, seed=3))
    called = [(file, job[0]) for job, verb, file in Nearby.log if verb == "call"]
    due = [(str(c), "ab"[j]) for r in range(4) for c, j in round_order(3, 0, r, 2, 2)]
    assert called == due


def test_it_tells_what_is_going_on(nearby, steady):
    heard = []
    list(nearby([steady("a"), steady("b")], launches=1, tell=heard.append))
    assert heard[0] == "launch 1 of 1: starting 2 processes"
    assert heard[2] == "launch 1 of 1: round 1 done, too few samples yet"
    assert heard[-1] == "launch 1 of 1: round 6 done, every median known to 0.0%"


def test_flops_and_memory_are_measured_in_the_first_launch_only(nearby, steady):
    results = list(nearby([steady()], launches=2))
    assert [r.timing.peak_bytes is not None for r in results] == [True, True, False, False]


def test_where_a_call_takes_minutes_the_timed_ones_tell_the_peak(nearby, steady, monkeypatch):
    monkeypatch.setattr(Instrument, "dry", True)
    (found,) = nearby([steady()], count=1, launches=1)
    assert found.timing.peak_bytes > 2**20
    assert all(s.peak_bytes is None for s in found.timing.stages)


def test_short_calls_are_settled_by_one_that_is_kept_as_warm_up(nearby, steady):
    short, long = (next(nearby([steady(milliseconds=m)], count=1, launches=1, max_rounds=6)).timing for m in (10, 125))
    assert len(short.warmup) == 100 + 6
    assert len(long.warmup) == 8


def test_a_job_that_fails_on_one_clip_goes_on_with_the_others(nearby, steady):
    results = list(nearby([steady("bad", fails=1), steady("good")], launches=1))
    assert {(r.job.label, r.clip): r.status for r in results} == {
        ("bad", "clip0"): Status.DONE,
        ("bad", "clip1"): Status.FAILED,
        ("good", "clip0"): Status.DONE,
        ("good", "clip1"): Status.DONE,
    }
    assert results[2].reason == "bad at 0.5: no convergence"


def test_a_process_that_dies_keeps_its_samples_and_stops_nobody_else(nearby, steady):
    results = list(nearby([steady("mortal", dies=15), steady("good")], launches=1, count=1, max_rounds=20))
    mortal, good = results
    assert mortal.status is Status.DONE
    assert 1 <= len(mortal.timing.encode_side) < 6
    assert mortal.timing.stop_reason == "ended early: mortal at 0.5: its process ended with exit code -9"
    assert len(good.timing.encode_side) >= 6


def test_a_method_that_cannot_be_built_fails_on_every_clip(nearby, steady):
    results = list(nearby([steady(missing="needs jax; pip install jax")], launches=1))
    assert [(r.status, r.reason) for r in results] == [(Status.FAILED, "steady at 0.5: needs jax; pip install jax")] * 2


def test_a_clip_that_is_not_for_a_method_is_skipped(nearby, steady):
    results = list(nearby([steady(milliseconds=1e7)], launches=1))
    assert [(r.status, r.reason) for r in results] == [(Status.SKIPPED, "too many frames")] * 2


def test_a_budget_of_nothing_starts_no_process(nearby, steady):
    results = list(nearby([steady()], budget_s=0.0, launches=2))
    assert [(r.status, r.launch) for r in results] == [(Status.TIMEOUT, k) for k in (0, 0, 1, 1)]
    assert "raise --budget" in results[0].reason
    assert Nearby.seconds == 0


@pytest.mark.parametrize("budget", [3, 5, 8, 13, 21])
def test_a_budget_may_end_anywhere(nearby, steady, budget):
    jobs = [steady("a", milliseconds=200), steady("b", milliseconds=900)]
    results = list(nearby(jobs, budget_s=budget, launches=2))
    assert len(results) == 2 * 2 * 2
    for result in results:
        if result.status is Status.DONE:
            assert len(result.timing.encode_side) == len(result.timing.rounds) >= 1
        else:
            assert (result.status, result.timing) == (Status.TIMEOUT, None)
    assert Nearby.seconds <= budget + 8  # processes that were starting, and the call under way


def test_launches_share_the_budget(nearby, steady):
    results = list(
        nearby([steady(milliseconds=150)], count=1, budget_s=60.0, launches=3, max_rounds=500, precision=-1.0)
    )
    samples = [len(r.timing.encode_side) for r in results]
    assert min(samples) > 0.5 * max(samples)
    assert all(r.timing.stop_reason.startswith("the launch's share of the budget of ") for r in results)


def test_ctrl_c_yields_what_was_measured_first(nearby, steady):
    results = []
    with pytest.raises(KeyboardInterrupt):
        results.extend(nearby([steady("a"), steady("b", interrupt=20)], launches=3, precision=-1.0))
    assert {r.launch for r in results} == {0}
    assert len(results) == 4
    assert all(r.timing.stop_reason.startswith("interrupted after ") for r in results)


def test_what_is_stored_is_not_timed_again(nearby, steady):
    jobs = [steady("a"), steady("b")]
    results = list(nearby(jobs, launches=3, done=lambda job, clip, launch: launch < 2))
    assert {(r.clip, r.launch) for r in results} == {("clip0", 2), ("clip1", 2)}
    assert list(nearby(jobs, launches=3, done=lambda job, clip, launch: True)) == []


def test_a_new_job_is_timed_side_by_side_with_the_stored_ones(nearby, steady):
    stored = lambda job, clip, launch: job.label == "a"  # noqa: E731
    results = list(nearby([steady("a"), steady("new")], launches=1, done=stored))
    assert {(r.job.label, r.clip) for r in results} == set(itertools.product(("a", "new"), ("clip0", "clip1")))


def test_more_jobs_than_may_live_at_once_are_timed_in_groups(nearby, steady):
    jobs = [steady(f"job{i}", milliseconds=100 + i) for i in range(5)]
    results = list(nearby(jobs, launches=1, resident=2))
    assert sorted({r.job.label for r in results}) == [f"job{i}" for i in range(5)]
    assert all(r.status is Status.DONE for r in results)


def test_one_job_under_two_names_stays_in_one_group(nearby, steady):
    jobs = [*(steady(f"job{i}", milliseconds=100 + i) for i in range(7)), replace(steady("job3", milliseconds=103))]
    jobs[-1] = replace(jobs[-1], alias="job3 (again)")
    for seed in range(5):
        results = list(nearby(jobs, launches=1, count=1, resident=3, seed=seed))
        assert len({r.timing.sitting for r in results}) == 3
        sittings = [r.timing.sitting for r in results if r.job.label == "job3"]
        assert len(sittings) == 2
        assert len(set(sittings)) == 1


def test_a_cold_start_takes_a_process_for_every_clip(nearby, steady):
    results = list(nearby([steady("a"), steady("b")], scenario="cold", launches=2))
    assert len(results) == 8
    assert all(r.timing.encode_side == pytest.approx([0.1]) and r.timing.warmup == [] for r in results)
    assert all(r.timing.setup_seconds == 1.5 for r in results)
    assert results[0].timing.stop_reason == "cold: a process has one first call"


def test_the_twin_is_the_same_job_under_another_name(steady):
    first, twin = with_twin([steady("lit")])
    assert (str(first), str(twin)) == ("lit at 0.5", "lit (again) at 0.5")
    assert (first.factory, first.kwargs, first.setting) == (twin.factory, twin.kwargs, twin.setting)


def test_one_job_listed_twice_is_refused(nearby, steady):
    with pytest.raises(ValueError, match="give one of them an alias"):
        list(nearby([steady(), steady()]))


def test_a_plan_without_launches_is_refused():
    with pytest.raises(ValueError, match="launches is 0, expected at least 1"):
        Plan(launches=0)


def test_a_factory_without_an_attribute_is_refused():
    with pytest.raises(ValueError, match=r"expected 'package\.module:attribute'"):
        Job("mypackage.mymethod", 0.5)


def test_a_factory_may_be_a_module_of_a_package():
    assert Job("collections:Counter", 0.5, {"a": 2}).build()["a"] == 2


def test_a_factory_in_no_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no method file"):
        Job(f"{tmp_path}/nowhere.py:Method", 0.5).build()


# In spawned processes


def test_a_spawned_process_times_a_method_it_imports_itself(steady, tmp_path):
    path = tmp_path / "sleepy.py"
    path.write_text(
        METHODS.replace("self.clock.now += int(self.milliseconds * 1e6)", "torch.ones(64, 64) @ torch.ones(64, 64)")
    )
    job = Job(f"{path}:Steady", 0.5, {"fails": 1}, label="sleepy")
    clips = [Clip(f"clip{i}", "made", np.full((8, 4, 4, 3), i, np.uint8)) for i in range(2)]
    good, bad = speed.run([job], clips, Plan(launches=1, max_rounds=6, threads=1, budget_s=120))
    assert (good.status, good.described["method"]) == (Status.DONE, "steady")
    assert good.environment["threads"]["torch threads"] == 1
    waiting = {name: good.environment["threads"][name] for name in WAITING}
    assert waiting == {name: os.environ[name] for name in WAITING}, "idle threads wait briefly, then sleep"
    assert good.timing.setup_seconds > 0
    assert min(good.timing.encode_side) > 0
    assert (bad.status, bad.reason) == (Status.FAILED, "sleepy at 0.5: ArithmeticError: no convergence")


# The picture in the terminal


def test_the_stage_chart_shows_the_tree_with_its_shares():
    console = Console(width=120, record=True, file=io.StringIO())
    timing = point(Paced()).model_copy(update={"outside": {"read": [0.25], "copy": [0.001, 0.003, 0.002]}})
    console.print(stage_chart([timing], title="paced"))
    text = console.export_text()
    lines = {line.split()[0]: line for line in reversed(text.splitlines()) if line.strip()}
    assert "50%" in lines["encode"]
    assert "45%" in lines["network"]
    assert "  network" in text
    assert "30%" in lines["search"]
    assert lines["search"].split()[-1] == "3"
    assert lines["end"].split()[-1] == "5", "network evaluations of a call"
    assert "5%" in lines["unattributed"]
    assert "20 ms" in lines["end"]
    assert "end to end 20 ms (20 ms - 20 ms)" in text
    assert "outside the clock: read 250 ms, copy 2 ms" in text


def test_the_stage_chart_fits_a_terminal_of_80_columns():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(stage_chart([point(Paced())], title="paced"))
    text = console.export_text()
    assert "…" not in text
    lines = [line.split()[0] for line in text.splitlines()]
    assert lines == [
        *("paced", "stage", "encode", "network", "unattributed", "select", "search", "decode", "end"),
        *("end", "encode", "decode"),
    ], "no cell is folded"
