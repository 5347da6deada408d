"""What samples of time say, on given samples: nothing here measures anything."""

import math

import numpy as np
import pytest

from avtbench.bench.rows import Row, StageCost, Status, Timing
from avtbench.bench.timing import statistics
from avtbench.bench.timing.statistics import (
    Samples,
    decompose,
    half_width,
    median_interval,
    noise_floors,
    speed_up,
    warnings,
)


def timing(
    encode, decode=None, *, launch=0, sitting="", dtype="float32", stages=(), scenario="latency", chunks=()
) -> Timing:
    encode = [float(s) for s in encode]
    return Timing(
        scenario=scenario,
        device="cpu",
        dtype=dtype,
        launch=launch,
        sitting=sitting,
        rounds=list(range(len(encode))),
        encode_side=encode,
        decode_side=[0.0] * len(encode) if decode is None else [float(s) for s in decode],
        warmup=[0.1],
        stages=list(stages),
        stop_reason="given",
        seed=0,
        chunks=[list(c) for c in chunks],
    )


def row(method: str, clip: str, encode, *, alias: str = "", **facts) -> Row:
    return Row(
        key=f"{method}/{alias}/{clip}/{facts.get('launch', 0)}", status=Status.DONE, pass_="speed", method=method,
        alias=alias, tier="shared", family="bound", weights="none", dataset="given", clip=clip,
        timing=timing(encode, **facts),
    )  # fmt: skip


def noisy(centre: float, n: int, seed: int, share: float = 0.01):
    return centre * np.exp(np.random.default_rng(seed).normal(0, share, n))


# one point


def test_samples_print_as_median_and_the_middle_three_fifths():
    assert str(Samples([0.011, 0.012, 0.013, 0.014, 0.015])) == "13 ms (11.8 ms - 14.2 ms)"
    assert str(Samples([2.0])) == "2 s (2 s - 2 s)"
    assert str(Samples([3e-7])) == "0.3 µs (0.3 µs - 0.3 µs)"


def test_no_samples_is_an_error_that_says_why():
    with pytest.raises(ValueError, match="stopped before its first call"):
        Samples([])


@pytest.mark.parametrize("n", [6, 20, 101])
def test_the_interval_of_the_median_covers_it_as_often_as_it_says(n):
    chance = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval(chance.exponential(size=n))
        hits += low <= math.log(2) <= high
    assert 0.94 <= hits / 2000 <= 0.99


def test_five_samples_do_not_make_an_interval_of_95_percent():
    assert median_interval([1, 1, 1, 1, 1]) == (0.0, math.inf)
    assert median_interval([1, 1, 1, 1, 1, 1]) == (1, 1)
    assert half_width([1.0] * 5) == math.inf
    assert half_width([]) == math.inf


def test_the_half_width_is_relative_to_the_median():
    assert half_width([9.0, 10.0, 10.0, 10.0, 10.0, 11.0]) == pytest.approx(0.1)


# paired speed-ups


def test_a_speed_up_is_paired_and_averaged_over_clips():
    clips = [f"clip{i}" for i in range(6)]
    slow = [row("slow", c, noisy(0.030 * (1 + i), 10, seed=i)) for i, c in enumerate(clips)]
    fast = [row("fast", c, noisy(0.010 * (1 + i), 10, seed=100 + i)) for i, c in enumerate(clips)]
    found = speed_up(slow, fast, where="one card, float32")
    assert found.ratio == pytest.approx(3, rel=0.01)
    assert found.low < 3 < found.high
    assert found.high - found.low < 0.1
    assert (found.clips, found.launches, found.over) == (6, 1, "clips")


def test_drift_that_both_feel_cancels_in_the_pair():
    drift = np.linspace(1, 3, 30)
    slow = [row("slow", "clip", 0.02 * drift)]
    fast = [row("fast", "clip", 0.01 * drift)]
    found = speed_up(slow, fast)
    assert (found.ratio, found.low, found.high) == pytest.approx((2, 2, 2))


def test_it_prints_with_everything_it_rests_on():
    found = statistics.SpeedUp(31.2, 29.8, 32.5, "end to end", 16, 3, 480, "H200, bfloat16")
    assert str(found) == "31.2x [29.8, 32.5], 16 clips, 3 launches, H200, bfloat16"


def test_with_few_clips_the_interval_is_over_rounds_and_says_so():
    slow = [row("slow", "clip", noisy(0.02, 30, seed=1), launch=k) for k in range(2)]
    fast = [row("fast", "clip", noisy(0.01, 30, seed=9), launch=k) for k in range(2)]
    found = speed_up(slow, fast)
    assert found.over == "rounds"
    assert (found.launches, found.pairs) == (2, 60)
    assert str(found).endswith("1 clip, 2 launches, cpu, float32; interval over 60 paired rounds, not clips")
    assert found.low < found.ratio < found.high < 1.02 * found.low


def test_processes_that_differ_widen_the_interval_however_many_clips_share_them():
    """Every clip says 2x within a hundredth, but the launches say 1.9x, 2x and 2.1x."""
    clips = [f"clip{c}" for c in range(6)]
    slow = [row("slow", c, noisy(0.02, 5, seed=i), launch=k) for i, c in enumerate(clips) for k in range(3)]
    fast = [
        row("fast", c, factor * np.asarray(noisy(0.01, 5, seed=9 * i)), launch=k)
        for i, c in enumerate(clips)
        for k, factor in enumerate((1.05, 1.0, 0.95))
    ]
    found = speed_up(slow, fast)
    assert (found.over, found.launches) == ("launches", 3)
    assert str(found).endswith("; interval over 3 launches, not clips")
    assert found.low < 1.8
    assert found.high > 2.2
    two = speed_up([r for r in slow if r.timing.launch < 2], [r for r in fast if r.timing.launch < 2])
    assert two.over == "clips", "two launches do not tell how far launches spread"


def test_the_ratio_lies_in_its_interval_however_skewed_the_noise():
    for seed in range(20):
        chance = np.random.default_rng(seed)
        slow = [row("slow", c, 0.02 + chance.exponential(0.01, 15)) for c in "ab"]
        fast = [row("fast", c, 0.02 + chance.exponential(0.01, 15)) for c in "ab"]
        found = speed_up(slow, fast)
        assert found.low <= found.ratio <= found.high


@pytest.mark.parametrize(
    ("clips", "launches", "process", "planted"),
    [(2, 3, 0.003, 0.05), (8, 3, 0.003, 0.05), (6, 3, 0.04, 0.5), (6, 6, 0.04, 0.2)],
)
def test_a_planted_difference_is_found_and_none_is_not(clips, launches, process, planted):
    """Twenty repetitions: noise of 2 % per call, ``process`` per process, clips 10 % apart, some calls disturbed."""
    found, alarms = 0, 0
    for repetition in range(20):
        chance = np.random.default_rng(repetition)
        content = 0.02 * np.exp(chance.normal(0, 0.1, clips))

        def timed(method, factor=1.0, alias="", chance=chance, content=content):
            return [
                row(
                    method, f"clip{c}", alias=alias, launch=launch,
                    encode=factor * speed * content[c] * np.exp(chance.normal(0, 0.02, 20))
                    * np.where(chance.random(20) < 0.05, 2.0, 1.0),
                )
                for launch, speed in enumerate(np.exp(chance.normal(0, process, launches)))
                for c in range(clips)
            ]  # fmt: skip

        base = timed("base")
        (floor,) = noise_floors(base + timed("base", alias="base (again)")).values()
        found += speed_up(timed("slower", 1 + planted), base).verdict(floor).startswith("faster")
        alarms += not speed_up(timed("equal"), base).verdict(floor).startswith("not distinguishable")
    assert found >= 18
    assert alarms <= 2


def test_only_rounds_and_clips_that_both_were_timed_in_are_paired():
    slow = [row("slow", "a", [2, 2, 2, 9]), row("slow", "b", [5])]
    fast = [row("fast", "a", [1, 1, 1]), row("fast", "c", [1])]
    found = speed_up(slow, fast)
    assert (found.ratio, found.clips, found.pairs) == (2, 1, 3)
    with pytest.raises(ValueError, match="rerun them together"):
        speed_up(slow[1:], fast)


def test_samples_of_two_sittings_are_no_pairs():
    slow = [row("slow", "a", [2, 2], sitting="monday")]
    fast = [row("fast", "a", [1, 1], sitting="monday"), row("fast", "a", [9, 9], sitting="tuesday")]
    assert speed_up(slow, fast).ratio == 2
    assert not statistics.timed_apart(slow, fast)
    assert statistics.timed_apart(slow, fast[1:])
    with pytest.raises(ValueError, match="timed apart: both were timed, but never in one sitting"):
        speed_up(slow, fast[1:])
    assert not statistics.timed_apart(slow, [row("fast", "b", [1])]), "another clip"


def test_sides_are_told_apart():
    slow = [row("slow", "a", [3, 3], decode=[1, 1])]
    fast = [row("fast", "a", [1, 1], decode=[1, 1])]
    assert speed_up(slow, fast, "encode side").ratio == pytest.approx(3)
    assert speed_up(slow, fast, "decode side").ratio == pytest.approx(1)
    assert speed_up(slow, fast, "end to end").ratio == pytest.approx(2)


def test_the_bootstrap_covers_as_often_as_it_says():
    chance = np.random.default_rng(3)
    hits = 0
    for i in range(60):
        low, high = statistics.bootstrap(chance.normal(size=16), np.mean, seed=i)
        hits += low <= 0 <= high
    assert 50 <= hits <= 60


# noise floor and verdict


def test_the_noise_floor_is_the_far_end_of_the_a_a_interval():
    clips = [f"clip{i}" for i in range(8)]
    rows = [row("m", c, noisy(0.01, 10, seed=i)) for i, c in enumerate(clips)]
    rows += [row("m", c, noisy(0.0104, 10, seed=50 + i), alias="m (again)") for i, c in enumerate(clips)]
    (floor,) = noise_floors(rows).values()
    assert floor == pytest.approx(1.045, abs=0.01)
    assert noise_floors(rows[:8]) == {}


def test_a_twin_at_another_setting_is_no_twin():
    first = row("m", "c", [1, 1]).model_copy(update={"setting": 0.1})
    twin = row("m", "c", [1, 1], alias="m (again)").model_copy(update={"setting": 0.2})
    assert noise_floors([first, twin]) == {}


@pytest.mark.parametrize(
    ("columns", "dtype", "told"),
    [
        ({"width": 128}, "float32", "0x0x128"),
        ({"environment": "there"}, "float32", "there"),
        ({}, "bfloat16", "bfloat16"),
    ],
)
def test_every_size_machine_and_number_format_has_a_noise_floor_of_its_own(columns, dtype, told):
    def twice(ratio, **facts):
        return row("m", "c", [1.0] * 6, **facts), row("m", "c", [ratio] * 6, alias="m (again)", **facts)

    here = twice(1.01)
    there = [r.model_copy(update=columns) for r in twice(1.1, dtype=dtype)]
    floors = noise_floors([here[0], there[0], here[1], there[1]])
    assert floors == pytest.approx({statistics.alike(here[0]): 1.01, statistics.alike(there[0]): 1.1})
    assert statistics.telling(statistics.alike(there[0]), floors) == [told]


def test_a_twin_on_another_tokeniser_or_in_another_sitting_is_no_twin():
    first, twin = row("m", "c", [1, 1], sitting="monday"), row("m", "c", [1, 1], alias="m (again)", sitting="monday")
    assert noise_floors([first, twin]) == {statistics.alike(first): 1.0}
    assert noise_floors([first, twin.model_copy(update={"tokenizer": "other"})]) == {}
    assert noise_floors([first, row("m", "c", [1, 1], alias="m (again)", sitting="tuesday")]) == {}


@pytest.mark.parametrize(
    ("low", "high", "floor", "verdict"),
    [
        (1.04, 1.06, 1.01, "faster"),
        (0.90, 0.95, 1.01, "slower"),
        (1.01, 1.06, 1.03, "not distinguishable: the interval [1.010, 1.060] reaches into the noise floor of 1.030x"),
        (0.98, 1.06, 1.01, "not distinguishable: the interval [0.980, 1.060] holds 1"),
        (1.04, 1.06, None, "not distinguishable: no noise floor"),
    ],
)
def test_faster_is_said_only_outside_both_one_and_the_noise(low, high, floor, verdict):
    found = statistics.SpeedUp(math.sqrt(low * high), low, high, "end to end", 16, 3, 300, "cpu, float32")
    assert found.verdict(floor).startswith(verdict)


# decomposition


def costed(method: str, seconds: float, evaluations: int, flops: int | None) -> list[Row]:
    stages = [
        StageCost(path="encode", seconds=[seconds] * 4, flops=flops, evaluations={"net": evaluations}),
        StageCost(path="encode/net", seconds=[seconds] * 4, flops=flops, evaluations={"net": evaluations}),
    ]
    return [row(method, "clip", [seconds] * 4, stages=stages)]


def test_a_speed_up_is_evaluations_times_cost_times_rest():
    found = decompose(costed("search", 30.0, 12, 2400), costed("one pass", 1.0, 1, 100))
    assert (found.ratio, found.evaluations, found.cost_per_evaluation, found.rest) == pytest.approx((30, 12, 2, 1.25))
    assert str(found) == "30.0x = 12.0x evaluations x 2.00x FLOPs per evaluation x 1.250x rest"


def test_without_flops_the_rest_is_time_per_evaluation():
    found = decompose(costed("search", 30.0, 12, None), costed("one pass", 1.0, 1, 100))
    assert str(found) == "30.0x = 12.0x evaluations x 2.50x time per evaluation"


def on_clips(method, seconds, evaluations, flops):
    """One clip for each triple of seconds, evaluations and FLOPs."""
    return [
        r.model_copy(update={"clip": f"clip{i}", "key": f"{r.key}{i}"})
        for i, given in enumerate(zip(seconds, evaluations, flops, strict=True))
        for r in costed(method, *given)
    ]


def test_a_speed_up_is_split_on_the_clips_that_were_counted():
    slow = on_clips("slow", [7.5, 9.0], [3, 2], [300, None])
    fast = on_clips("fast", [1.0, 1.0], [1, 1], [100, None])
    found = decompose(slow, fast)
    assert (found.ratio, found.evaluations, found.cost_per_evaluation, found.rest) == pytest.approx((7.5, 3, 1, 2.5))
    assert str(found) == "7.50x = 3.00x evaluations x 1.000x FLOPs per evaluation x 2.50x rest (on 1 of 2 clips)"
    assert found.part == "split on 1 of 2 clips, where it is 7.50x"
    assert (
        decompose(on_clips("slow", [6.0, 9.0], [3, 2], [300, 200]), on_clips("fast", [1, 1], [1, 1], [9, 9])).part == ""
    )


def test_flops_of_another_search_are_not_carried_over_in_part():
    counted, longer = (costed("search", 1.0, n, f) for n, f in ((12, 2400), (13, None)))
    same = costed("search", 2.0, 12, None)
    told = [statistics.cost(r.timing) for r in statistics.with_flops([*counted, *longer, *same])]
    assert told == [(12, 2400), (13, None), (12, 2400)]


# stream


def test_a_stream_is_told_by_its_first_chunk_and_its_slow_ones():
    given = timing([1.0], scenario="stream", chunks=[[0.5] + [0.1] * 18 + [0.3]])
    assert str(statistics.chunks([given])) == "first chunk 500 ms, then 100 ms each, p95 120 ms"
    assert statistics.chunks([timing([1.0])]) is None


# warnings


def three(samples) -> list[Timing]:
    return [timing(samples, launch=k) for k in range(3)]


def test_a_steady_point_raises_no_warning():
    assert warnings(three([0.1] * 10)) == []


@pytest.mark.parametrize(
    ("timings", "words"),
    [
        (three([0.1] * 19 + [0.2]), "standard deviation is 21% of the mean"),
        (three(np.linspace(0.087, 0.113, 20)), "interquartile range is 13% of the median; be careful"),
        (three(np.linspace(0.06, 0.14, 20)), "interquartile range is 40% of the median; do not quote"),
        (three([2e-4] * 10), "a call takes 200 µs, less than 1 ms"),
        ([timing(noisy(0.1 + 0.01 * k, 10, seed=k), launch=k) for k in range(3)], "launches disagree by"),
        ([timing([0.1] * 10)], "1 launch, and 3 are due"),
        (three([0.1] * 5), "not at all (fewer than 6 samples in a launch)"),
        ([timing([])], "no samples"),
    ],
)
def test_warnings_name_the_number(timings, words):
    assert any(words in warning for warning in warnings(timings)), warnings(timings)


def test_time_in_no_stage_is_warned_of():
    loose = [
        StageCost(path="encode", seconds=[0.095] * 10),
        StageCost(path="encode/net", seconds=[0.085] * 10),
        StageCost(path="encode/unattributed", seconds=[0.01] * 10),
        StageCost(path="unattributed", seconds=[0.005] * 10),
    ]
    found = warnings([timing([0.1] * 10, launch=k, stages=loose) for k in range(3)])
    assert found == [
        "15% of the time is in no named stage; the breakdown is incomplete. "
        "Mark the missing parts with `with stage(...)`."
    ]


def test_a_cold_start_is_not_asked_for_precision():
    found = warnings([timing([1.0], launch=k, scenario="cold") for k in range(3)])
    assert found == []
