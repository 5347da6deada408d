"""The claims ledger: verdicts follow from stored rows, and nothing else."""

import math
import zlib

import numpy as np
import pytest

from avtbench.bench.metrics.measures import MEASURES
from avtbench.bench.rows import Extrapolation, Quality, Rate, Row, StageCost, Status, Timing
from avtbench.bench.timing import statistics
from avtbench.reports import claims, computed_claims
from avtbench.reports.claims import Claim, Outcome, judge
from avtbench.reports.computed_claims import psnr_wrapped, published_search
from avtbench.reports.intervals import mean_estimate

H200 = {"hardware": {"gpu": "NVIDIA H200"}}
A100 = {"hardware": {"gpu": "NVIDIA A100-SXM4-80GB"}}
CARDS = {"card": H200, "old card": A100}


def claim(**fields) -> Claim:
    entry = {
        "id": "made-up",
        "source": {"paper": "a paper", "where": "table 1"},
        "statement": "Fast is twice as fast as slow.",
        "published": {"speed_up": 2.0},
        "comparator": "paired",
        "tolerance": {"relative": 0.1},
        "test": {"kind": "speed_up", "slow": {"method": "slow"}, "fast": {"method": "fast"}},
        "command": "avtbench speed -m slow -m fast",
    }
    return Claim.model_validate({**entry, **fields})


def speed_rows(
    method, seconds, *, clips=6, launches=3, dtype="float32", spread=0.002, alias="", flops=None, uneven=0.0, **fields
):
    """Rows around a time; with ``uneven`` the clips differ by that share, first to last."""
    chance = np.random.default_rng(zlib.crc32(f"{method}{dtype}{alias}".encode()))

    def samples(clip):
        return list(seconds * (1 + uneven * (clip / (clips - 1) - 0.5)) * np.exp(chance.normal(0, spread, 8)))

    return [
        Row(
            key=f"{method}{alias}{clip}{launch}", status=Status.DONE, pass_="speed", method=method, alias=alias,
            tier="shared", family="bound", weights="random", dataset="made", clip=f"clip{clip}", frames=17, height=64,
            width=64, environment="card",
            timing=Timing(
                scenario="latency", device="cuda", dtype=dtype, launch=launch, rounds=list(range(8)), seed=0,
                encode_side=samples(clip), decode_side=[0.0] * 8, warmup=[],
                stages=[StageCost(path="encode", seconds=[seconds] * 8, flops=flops, evaluations={"net": 2})],
                stop_reason="given",
            ),
        ).model_copy(update=fields)
        for clip in range(clips)
        for launch in range(launches)
    ]  # fmt: skip


def quality_rows(psnr, *, clips=5, kept=0.5, **fields):
    """Rows of clips around a PSNR, 0.02 dB apart."""
    found = []
    for clip in range(clips):
        dB = psnr + 0.02 * (clip - (clips - 1) / 2)
        sse = round(255**2 / 10 ** (dB / 10) * 1_000_000)
        found.append(
            Row(
                key=f"q{clip}{fields}", status=Status.DONE, pass_="quality", method="infotok", tier="faithful",
                family="router", weights="trained", dataset="davis", clip=f"clip{clip}", frames=1, height=64, width=64,
                rate=Rate(kept=int(1000 * kept), total=1000, payload_bits=1, mask_bits=1, mask_bits_coded=1),
                quality=Quality(
                    profile="tokenbench/1", frame_pixels=1_000_000, frame_sse=[sse], frame_sse_float=[float(sse)],
                    frame_ssim=[0.8],
                ),
            ).model_copy(update=fields)
        )  # fmt: skip
    return found


def again(rows):
    """The same rows under another name: the A/A pair of an instrument without noise."""
    return [row.model_copy(update={"alias": "again", "key": f"{row.key} again"}) for row in rows]


def against(slow, fast):
    """Rows of both, and of the fast one a second time."""
    return [*slow, *fast, *again(fast)]


def with_timing(rows, **fields):
    return [row.model_copy(update={"timing": row.timing.model_copy(update=fields)}) for row in rows]


def one(entry, rows):
    (verdict,) = judge(rows, CARDS, [entry])
    return verdict


# Speed-ups


@pytest.mark.parametrize(
    ("seconds", "outcome"),
    [(0.200, Outcome.REPRODUCED), (0.400, Outcome.NOT_REPRODUCED), (0.220, Outcome.INCONCLUSIVE)],
)
def test_a_ratio_is_held_against_the_tolerated_band(seconds, outcome):
    found = one(claim(), against(speed_rows("slow", seconds, uneven=0.02), speed_rows("fast", 0.100)))
    assert found.outcome is outcome
    assert found.measurements[0].value == pytest.approx(seconds / 0.1, rel=0.01)
    assert found.measurements[0].n == "6 clips, 3 launches"


def test_without_rows_it_says_what_is_missing_and_the_command():
    found = one(claim(needs="official weights"), speed_rows("fast", 0.1))
    assert found.outcome is Outcome.NOT_TESTABLE
    assert found.why == "Missing: speed rows of method slow. Needs official weights."
    assert str(found).endswith("avtbench speed -m slow -m fast")


def test_the_hardware_and_the_decomposition_stand_beside_the_number():
    rows = speed_rows("slow", 0.2, flops=300) + speed_rows("fast", 0.1, flops=100)
    found = one(claim(hardware="one RTX A5000"), rows)
    assert found.hardware == "published on one RTX A5000; here NVIDIA H200, float32"
    assert "x = 1.000x evaluations x 3.00x FLOPs per evaluation x 0.6" in found.measurements[0].decomposition


def test_the_noise_floor_widens_the_interval():
    rows = speed_rows("slow", 0.2) + speed_rows("fast", 0.1)
    steady = rows + speed_rows("fast", 0.101, alias="fast (again)")
    assert one(claim(), steady).outcome is Outcome.REPRODUCED
    found = one(claim(), rows + speed_rows("fast", 0.115, alias="fast (again)"))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "noise floor 1.15" in found.measurements[0].note


def test_an_interval_is_printed_as_it_was_measured_and_beside_it_with_the_noise_floor():
    rows = speed_rows("slow", 0.2, uneven=0.02) + speed_rows("fast", 0.1)
    ratio = statistics.speed_up(rows[:18], rows[18:])
    (found,) = one(claim(), rows + speed_rows("fast", 0.15, alias="fast (again)")).measurements
    assert (found.low, found.high) == (ratio.low, ratio.high)
    wide = f"[{ratio.low / found.floor:.4g}, {ratio.high * found.floor:.4g}]"
    assert f"[{ratio.low:.4g}, {ratio.high:.4g}], with the noise floor {wide}, published 2" in str(found)
    assert found.floor == pytest.approx(1.5, rel=0.01)

    (alone,) = one(claim(), rows).measurements
    assert f"[{ratio.low:.4g}, {ratio.high:.4g}], published 2" in str(alone), "without a floor there is one interval"


@pytest.mark.parametrize("seconds", [0.2, 0.4])
def test_without_a_noise_floor_nothing_is_decided(seconds):
    found = one(claim(), speed_rows("slow", seconds) + speed_rows("fast", 0.1))
    assert (found.outcome, found.why) == (Outcome.INCONCLUSIVE, "1 of 1 inconclusive (1 no noise floor)")
    assert "no noise floor: no method was timed against itself" in found.measurements[0].note


@pytest.mark.parametrize("other", [{"frames": 33}, {"dtype": "bfloat16"}, {"environment": "old card"}])
def test_a_noise_floor_is_that_of_rows_timed_alike(other):
    rows = speed_rows("slow", 0.2) + speed_rows("fast", 0.1)
    elsewhere = speed_rows("fast", 0.1, **other)
    assert one(claim(), rows + elsewhere + again(elsewhere)).outcome is Outcome.INCONCLUSIVE


def test_what_was_never_timed_in_one_sitting_is_not_compared():
    rows = against(
        with_timing(speed_rows("slow", 0.2), sitting="monday 0"),
        with_timing(speed_rows("fast", 0.1), sitting="monday 1"),
    )
    found = one(claim(), rows)
    assert found.outcome is Outcome.NOT_TESTABLE
    assert "timed together, on the same clips (stored ones were timed apart, never in one sitting)" in found.why
    assert one(claim(), with_timing(rows, sitting="monday 0")).outcome is Outcome.REPRODUCED


def test_failed_rows_and_twins_are_not_evidence():
    rows = speed_rows("slow", 0.2) + speed_rows("fast", 0.1, alias="fast (again)")
    assert one(claim(), rows).outcome is Outcome.NOT_TESTABLE
    failed = [r.model_copy(update={"status": Status.FAILED, "timing": None}) for r in speed_rows("fast", 0.1)]
    assert one(claim(), speed_rows("slow", 0.2) + failed).outcome is Outcome.NOT_TESTABLE


@pytest.mark.parametrize(
    "different", [{"dtype": "bfloat16"}, {"frames": 33}, {"environment": "old card"}, {"dataset": "other clips"}]
)
def test_only_what_was_timed_alike_is_compared(different):
    found = one(claim(), speed_rows("slow", 0.2) + speed_rows("fast", 0.1, **different))
    assert found.outcome is Outcome.NOT_TESTABLE
    assert "timed together, on the same clips" in found.why


def test_a_reading_may_compare_two_number_formats_on_purpose():
    test = {
        "kind": "speed_up", "slow": {"method": "slow"}, "fast": {"method": "fast"},
        "readings": [{"name": "mixed", "slow": {"timing.dtype": "float32"}, "fast": {"timing.dtype": "bfloat16"}}],
    }  # fmt: skip
    slow, fast = speed_rows("slow", 0.2), speed_rows("fast", 0.1, dtype="bfloat16")
    floors = again(slow) + again(fast)
    together = one(claim(test=test), with_timing(slow + fast + floors, sitting="monday 0"))
    assert (together.outcome, together.why) == (Outcome.REPRODUCED, "1 of 1 reproduced")
    assert one(claim(test=test), slow + fast + again(fast)).outcome is Outcome.INCONCLUSIVE, "each format has its floor"

    unknown = one(claim(test=test), slow + fast + floors)
    assert (unknown.outcome, unknown.why) == (Outcome.REPRODUCED, "1 of 1 reproduced (1 timed apart)")
    assert "timed apart: rows from before sittings were stored" in unknown.measurements[0].note


def test_a_ratio_that_was_extrapolated_says_so_wherever_it_is_printed():
    slow = [
        row.model_copy(
            update={
                "timing": row.timing.model_copy(
                    update={
                        "extrapolated": Extrapolation(
                            stages={"select/search/trial": 11}, evaluations=20, of=220, measured=[0.02] * 8
                        )
                    }
                )
            }
        )
        for row in speed_rows("slow", 0.2)
    ]
    found = one(claim(), slow + speed_rows("fast", 0.1))
    assert "not measured in full: extrapolated from 20 of 220 evaluations (select/search/trial x 11)" in str(found)


def test_one_pair_gives_a_ratio_without_an_interval():
    rows = [
        row.model_copy(
            update={
                "timing": row.timing.model_copy(
                    update={"rounds": [0], "encode_side": row.timing.encode_side[:1], "decode_side": [0.0]}
                )
            }
        )
        for method, seconds in (("slow", 0.2), ("fast", 0.1))
        for row in speed_rows(method, seconds, clips=2, launches=1)[:1]
    ]
    found = one(claim(), rows)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "(no interval from one value), published 2" in str(found)


def test_flops_that_another_number_format_counted_explain_a_ratio_too():
    counted = speed_rows("slow", 0.1, flops=300, dtype="bfloat16") + speed_rows(
        "fast", 0.1, flops=100, dtype="bfloat16"
    )
    found = one(claim(), speed_rows("slow", 0.2) + speed_rows("fast", 0.1) + counted)
    assert all("3.00x FLOPs per evaluation" in m.decomposition for m in found.measurements)


# What the source leaves open


def open_claim(**fields):
    test = {
        "kind": "speed_up", "slow": {"method": "slow"}, "fast": {"method": "fast"},
        "readings": [{"name": name, "fast": {"tokenizer": name}} for name in ("small", "large")],
    }  # fmt: skip
    return claim(**{"open": ["the base"], "test": test, **fields})


def test_an_open_claim_with_readings_left_is_under_specified():
    found = one(open_claim(), against(speed_rows("slow", 0.2), speed_rows("fast", 0.1, tokenizer="small")))
    assert found.outcome is Outcome.UNDER_SPECIFIED
    assert found.why == "1 of 1 reproduced; not measured: large; the source does not say the base"


def test_an_open_claim_whose_readings_disagree_is_under_specified():
    fast = speed_rows("fast", 0.1, tokenizer="small") + speed_rows("fast", 0.01, tokenizer="large")
    found = one(open_claim(), against(speed_rows("slow", 0.2), fast))
    assert found.outcome is Outcome.UNDER_SPECIFIED
    assert found.why.startswith("readings disagree: 1 of 2 reproduced, 1 of 2 not reproduced")


def test_readings_disagree_only_where_one_reproduces_and_another_does_not():
    """One that decides nothing contradicts nobody."""
    fast = speed_rows("fast", 0.01, tokenizer="small") + speed_rows("fast", 0.09, uneven=0.3, tokenizer="large")
    found = one(open_claim(), against(speed_rows("slow", 0.2), fast))
    assert found.outcome is Outcome.UNDER_SPECIFIED
    assert found.why == "1 of 2 not reproduced, 1 of 2 inconclusive; the source does not say the base"


def test_one_reading_agrees_with_no_other():
    found = one(claim(open=["the base"]), against(speed_rows("slow", 0.2), speed_rows("fast", 0.1)))
    assert (found.outcome, found.why) == (Outcome.REPRODUCED, "1 of 1 reproduced")


def test_an_open_claim_whose_readings_all_agree_is_decided():
    fast = [row for name in ("small", "large") for row in speed_rows("fast", 0.01, tokenizer=name)]
    found = one(open_claim(), against(speed_rows("slow", 0.2), fast))
    assert (found.outcome, found.why) == (Outcome.NOT_REPRODUCED, "all readings agree: 2 of 2 not reproduced")


def test_a_reading_that_was_not_measured_leaves_a_claim_undecided():
    """Also where the source leaves nothing open, and where all that was measured agrees."""
    found = one(open_claim(open=[]), against(speed_rows("slow", 0.2), speed_rows("fast", 0.1, tokenizer="small")))
    assert (found.outcome, found.why) == (Outcome.INCONCLUSIVE, "1 of 1 reproduced; not measured: large")
    assert str(found).endswith("avtbench speed -m slow -m fast")


# Measures


def measured(**fields):
    test = {"kind": "measure", "rows": {"method": "infotok", "dataset": "davis"}}
    return claim(**{"published": {"psnr": 25.1}, "tolerance": {"absolute": {"psnr": 0.3}}, "test": test, **fields})


def test_a_quality_is_the_mean_over_clips_with_an_interval():
    found = one(measured(), quality_rows(25.0))
    assert found.outcome is Outcome.REPRODUCED
    measurement = found.measurements[0]
    assert measurement.value == pytest.approx(25.0, abs=1e-3)
    assert 24.95 < measurement.low < 25.0 < measurement.high < 25.05
    assert one(measured(), quality_rows(27.0)).outcome is Outcome.NOT_REPRODUCED


def test_a_part_of_the_data_set_decides_nothing():
    test = {"kind": "measure", "rows": {"method": "infotok"}, "clips": 50}
    found = one(measured(test=test), quality_rows(25.0))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.why == "1 of 1 inconclusive (1 too few clips)"
    assert found.measurements[0].n == "5 of 50 clips"
    assert "too few clips: 5, all 50 are due" in found.measurements[0].note


@pytest.mark.parametrize("psnr", [25.0, 27.0])
@pytest.mark.parametrize(("fewest", "clips"), [({}, 2), ({}, 4), ({"fewest": 20}, 13)])
def test_a_few_clips_decide_nothing_where_the_size_of_the_data_set_is_not_known(psnr, fewest, clips):
    test = {"kind": "measure", "rows": {"method": "infotok"}, **fewest}
    found = one(measured(test=test), quality_rows(psnr, clips=clips))
    assert (found.outcome, found.why) == (Outcome.INCONCLUSIVE, "1 of 1 inconclusive (1 too few clips)")
    assert found.measurements[0].n == f"{clips} clips"
    assert f"too few clips: {clips}, at least {fewest.get('fewest', 5)} are due" in found.measurements[0].note


def from_sources(rows, sources):
    """The same clips, cut from so many recordings one after the other."""
    share = len(rows) // sources
    return [row.model_copy(update={"source": f"film{i // share}"}) for i, row in enumerate(rows)]


def test_clips_of_one_source_count_once():
    found = one(measured(), from_sources(quality_rows(25.0, clips=8), 4))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "too few clips: 8 from 4 sources, at least 5 are due" in found.measurements[0].note
    assert one(measured(), from_sources(quality_rows(25.0, clips=10), 5)).outcome is Outcome.REPRODUCED


def test_clips_of_one_source_are_resampled_together():
    rows = quality_rows(25.0, clips=32)  # in order of PSNR, so that a source's clips are alike
    alone, together = (one(measured(), r).measurements[0] for r in (rows, from_sources(rows, 8)))
    wanted = mean_estimate(
        np.array([MEASURES["psnr"].value(row) for row in rows]), [f"film{i // 4}" for i in range(32)], of=32
    )
    assert (together.low, together.high) == (wanted.low, wanted.high)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_clips_taken_as_they_are_make_one_mean_although_they_differ_in_size():
    rows = [
        row.model_copy(update={"view": {"size": None, "frames": None}, "frames": 50 + i, "width": 64 + 2 * i})
        for i, row in enumerate(quality_rows(25.0))
    ]
    (found,) = one(measured(), rows).measurements
    assert (found.n, found.outcome) == ("5 clips", Outcome.REPRODUCED)
    assert "clips of 5 sizes" in found.note
    cut = [row.model_copy(update={"view": {"size": None, "frames": 17}, "key": f"{row.key} cut"}) for row in rows]
    assert len(one(measured(), rows + cut).measurements) == 2, "other cuts are other clips"


def test_a_table_at_a_rate_takes_the_setting_that_keeps_it():
    test = {"kind": "measure", "rows": {"method": "infotok"}, "kept_fraction": 0.75}
    rows = quality_rows(25.0, kept=0.752, setting=0.003) + quality_rows(20.0, kept=0.4, setting=0.01)
    found = one(measured(test=test), rows)
    assert found.outcome is Outcome.REPRODUCED
    assert len(found.measurements) == 1
    assert one(measured(test=test), rows[5:]).outcome is Outcome.NOT_TESTABLE


def test_a_reading_may_stand_for_another_rate_than_the_others():
    readings = [{"name": "of its tokens", "kept_fraction": 0.5}, {"name": "of the bits", "kept_fraction": 0.141}]
    test = {"kind": "measure", "rows": {"method": "infotok"}, "readings": readings}
    few, many = quality_rows(20.0, kept=0.14, setting=0.05), quality_rows(25.0, kept=0.5, setting=0.01)
    found = one(measured(test=test, open=["which rate is meant"]), few + many)
    assert {m.reading: m.outcome for m in found.measurements} == {
        "of its tokens": Outcome.REPRODUCED, "of the bits": Outcome.NOT_REPRODUCED,
    }  # fmt: skip
    assert found.outcome is Outcome.UNDER_SPECIFIED
    assert "not measured: of the bits" in one(measured(test=test), many).why


def test_every_published_metric_has_to_be_met():
    entry = measured(published={"psnr": 25.0, "ssim": 0.9}, tolerance={"absolute": {"psnr": 0.3, "ssim": 0.01}})
    found = one(entry, quality_rows(25.0))
    assert {m.metric: m.outcome for m in found.measurements} == {
        "psnr": Outcome.REPRODUCED,
        "ssim": Outcome.NOT_REPRODUCED,
    }
    assert found.outcome is Outcome.INCONCLUSIVE


def test_a_published_metric_that_was_not_measured_leaves_a_claim_undecided():
    entry = measured(
        published={"psnr": 25.0, "lpips_vgg": 0.1}, tolerance={"absolute": {"psnr": 0.3, "lpips_vgg": 0.01}}
    )
    found = one(entry, quality_rows(25.0))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.why == "1 of 1 reproduced; not measured: lpips_vgg of mean over clips"


def through_mp4():
    readings = [
        {"name": "through mp4", "rows": {"quality.profile": "as-published-mp4/1"}},
        {"name": "in memory", "rows": {"quality.profile": "tokenbench/1"}, "beside": True},
    ]
    return measured(test={"kind": "measure", "rows": {"method": "infotok"}, "readings": readings})


def test_a_computation_stands_beside_what_is_measured_and_decides_nothing():
    computed = {"kind": "computed", "computation": "uint8_wrap", "inputs": {"psnr": 29.01, "shapes": [2.0, 0.5]}}
    entry = measured(test={"kind": "measure", "rows": {"method": "infotok"}, "computed": computed})
    unmeasured = one(entry, [])
    assert unmeasured.outcome is Outcome.NOT_TESTABLE
    assert unmeasured.why == "Missing: rows of method infotok."
    assert "any error shape with a true PSNR of 29.01 dB: psnr " in str(unmeasured)

    found = one(entry, quality_rows(25.0))
    assert (found.outcome, found.why) == (Outcome.REPRODUCED, "1 of 1 reproduced")
    assert [m.where for m in found.measurements] == ["unknown machine", "computed"]


@pytest.mark.parametrize(("psnr", "outcome"), [(32.9, Outcome.REPRODUCED), (27.0, Outcome.INCONCLUSIVE)])
def test_the_uint8_wrap_is_measured_on_rows_of_its_own_profile(psnr, outcome):
    (entry,) = [c for c in claims.load() if c.id == "tokenbench-uint8-wrap"]
    whole = {"size": None, "frames": None}
    rows = quality_rows(psnr, clips=20, method="full-rate", tokenizer="cosmos-dv4x8x8-v01", view=whole)
    assert one(entry, rows).why.startswith("measured as the source did not"), "no uint8 arithmetic"
    wrapped = [
        row.model_copy(update={"quality": row.quality.model_copy(update={"profile": "tokenbench-uint8wrap/0"})})
        for row in rows
    ]
    assert one(entry, wrapped).outcome is outcome


def coded(rows):
    """The same rows, measured through mp4 by a codec that leaves 40 dB of a perfect reconstruction."""
    sse = round(255**2 / 10**4.0 * 1_000_000)
    return [
        row.model_copy(
            update={
                "key": f"{row.key} coded",
                "quality": row.quality.model_copy(update={"profile": "as-published-mp4/1", "ceiling_sse": [sse]}),
            }
        )
        for row in rows
    ]


def test_a_number_measured_otherwise_than_published_decides_nothing():
    found = one(through_mp4(), quality_rows(25.0))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert found.why == "measured as the source did not; not measured: through mp4"


def test_a_number_measured_as_published_decides_with_the_other_beside_it():
    found = one(through_mp4(), coded(quality_rows(25.0)) + quality_rows(27.0))
    assert (found.outcome, found.why) == (Outcome.REPRODUCED, "1 of 1 reproduced")
    assert [m.reading for m in found.measurements] == ["through mp4", "in memory"]
    assert "the codec alone reaches 40.00 dB" in str(found)


def test_rows_that_may_be_something_else_never_refute():
    entry = measured(ambiguous="two releases share this architecture")
    assert one(entry, quality_rows(27.0)).outcome is Outcome.INCONCLUSIVE
    assert one(entry, quality_rows(25.0)).outcome is Outcome.REPRODUCED


@pytest.mark.parametrize("psnr", [25.0, 27.0])
def test_a_substitute_for_what_the_source_ran_neither_reproduces_nor_refutes(psnr):
    found = one(measured(substitute="a search of another kind"), quality_rows(psnr))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "a search of another kind" in found.why


def test_an_absolute_time_counts_on_the_published_hardware_only():
    entry = claim(
        published={"total_ms": 100 / 17}, hardware="one A100", needs_hardware="A100",
        test={"kind": "measure", "rows": {"method": "fast"}, "per_frame": True},
    )  # fmt: skip
    here = one(entry, speed_rows("fast", 0.1))
    assert here.outcome is Outcome.NOT_TESTABLE
    assert here.measurements[0].value == pytest.approx(100 / 17, rel=0.01)
    there = one(entry, speed_rows("fast", 0.1, environment="old card"))
    assert there.outcome is Outcome.REPRODUCED


# Computations


def test_the_published_search_returns_the_last_count_it_tried():
    assert list(published_search(smallest=5, least=0, most=8)) == [4, 6, 5]
    assert list(published_search(smallest=4, least=0, most=8)) == [4, 2, 3]  # 4 passed, 3 is returned
    assert list(published_search(smallest=8, least=0, most=8)) == [4, 6, 7, 8]


def test_the_search_ends_at_the_smallest_passing_count_or_one_below():
    ends = {list(published_search(n, 128, 2048))[-1] - n for n in range(129, 2049)}
    assert ends == {0, -1}


def test_a_wrapped_psnr_is_what_uint8_arithmetic_gives():
    a, b = np.array([[10, 0, 200]], np.uint8), np.array([[20, 0, 180]], np.uint8)
    wrapped = [(10 - 20) % 256, 0, 20]
    error = np.mean([x * x % 256 for x in wrapped])
    assert psnr_wrapped(a, b) == pytest.approx(10 * math.log10(255**2 / error))
    assert psnr_wrapped(a, a) == math.inf


def test_a_wrapped_psnr_agrees_with_the_error_distribution_it_is_computed_from():
    chance = np.random.default_rng(0)
    a = np.full(2_000_000, 128, np.uint8)
    error = chance.laplace(0, 4.0, a.size).round().clip(-120, 120).astype(int)
    b = (a.astype(int) + error).astype(np.uint8)
    true = 10 * math.log10(255**2 / np.mean(error.astype(float) ** 2))
    (found,) = computed_claims.uint8_wrap({"psnr": true, "shapes": [1.0]})
    assert found.value == pytest.approx(psnr_wrapped(a, b), abs=0.05)


def test_flops_counted_in_stored_rows_stand_beside_the_declared_ones():
    inputs = {
        "frames": 17, "side": 64, "slow": {"teraflops": 5.0, "rows": {"method": "slow"}},
        "fast": {"teraflops": 1.0, "rows": {"method": "fast"}},
    }  # fmt: skip
    (declared,) = computed_claims.flops_explain_time([], inputs)
    assert (declared.value, declared.note) == (5.0, "5 TF declared against 1 TF declared")
    again, counted = computed_claims.flops_explain_time(speed_rows("slow", 1.0, flops=int(8e12)), inputs)
    assert again == declared
    assert (counted.value, counted.note) == (8.0, "8 TF counted in stored rows against 1 TF declared")


SEARCH = {
    "range": [0, 8], "frames": 33, "frames_per_block": 4, "blocks_per_chunk": 4, "network": "decoder",
    "counted": {"method": "search", "parameters.trailing": "drop"},
}  # fmt: skip


def test_the_length_of_a_search_is_computed_for_every_outcome():
    probe, committed, clip = computed_claims.search_evaluations([], SEARCH)
    assert (probe.value, probe.note) == (pytest.approx(28 / 9), "3 to 4")
    assert committed.value == probe.value + 1
    assert clip.reading.startswith("sequential passes of a clip of 33 frames (8 blocks, the rest dropped)")
    assert clip.value == pytest.approx(8 * (28 / 9 + 1) + 2), "8 blocks, and 2 chunks once more"


def test_the_length_of_a_search_is_counted_in_rows_that_searched():
    searched = quality_rows(30.0, clips=1, method="search", frames=33, parameters={"trailing": "drop"})
    searched = [row.model_copy(update={"evaluations": {"encoder": 40, "decoder": 42}}) for row in searched]
    padded = [row.model_copy(update={"parameters": {"trailing": "repeat"}}) for row in searched]
    forced = [row.model_copy(update={"parameters": {"trailing": "drop", "forced": {"probes": 3}}}) for row in searched]

    found = computed_claims.search_evaluations(searched + padded + forced, SEARCH)
    assert [(c.reading.rpartition(", ")[2], c.value) for c in found[3:]] == [
        ("counted in rows of search", 4.0), ("counted in rows of search", 5.0), ("counted in rows of search", 42.0),
    ]  # fmt: skip
    assert "1 stored under a declared trace, which counts nothing" in found[0].note
    assert len(computed_claims.search_evaluations(padded + forced, SEARCH)) == 3


# The ledger itself


def test_the_ledger_is_well_formed_and_needs_no_rows():
    ledger = claims.load()
    verdicts = judge([], {}, ledger)
    assert len(verdicts) == len(ledger) > 35
    for verdict in verdicts:
        test = verdict.claim.test
        assert verdict.claim.command.startswith("avtbench ") == (test.kind != "computed" or test.from_rows)
        assert verdict.why


def test_what_lit_leaves_open_in_one_ratio_it_leaves_open_in_the_other():
    ledger = {c.id: c for c in claims.load()}
    unsaid = set(ledger["lit-31x-elastictok-cv"].open)
    assert set(ledger["lit-2x-infotok"].open) == {text for text in unsaid if "ElasticTok" not in text}


def test_a_quality_needs_all_clips_of_a_known_set_or_the_shortest_list_that_it_may_stand_on():
    for entry in claims.load():
        if entry.test.kind == "measure" and "psnr" in entry.published:
            due = max(entry.test.clips or 0, entry.test.fewest)
            assert due == (500 if entry.test.rows["dataset"] == "tokenbench" else 20), entry.id


def test_what_no_source_states_is_called_derived():
    derived = {c.id for c in claims.load() if c.source.paper.startswith("derived from ")}
    assert derived == {
        "elastictok-47-percent-one-short",
        *(f"infotok-latency-by-flops-{end}" for end in ("infotok", "elastictok", "mechanism")),
    }


def test_the_share_of_searches_that_end_one_short_depends_on_the_counts_that_are_asked_about():
    """47 % of those that the search can tell apart, as the ledger has it, and 44 % of all, as its words say."""
    least, most = 128, 2048
    short = sum(list(published_search(n, least, most))[-1] == n - 1 for n in range(least + 1, most + 1))
    assert short / (most - least + 1) == pytest.approx(0.466, abs=5e-4)
    assert short / most == pytest.approx(0.4375)


@pytest.mark.parametrize("bpp16", [0.81, 0.56])
def test_elastictok_is_judged_at_the_share_of_its_tokens_and_at_the_bits_that_a_rate_may_mean(bpp16):
    entries = [c for c in claims.load() if f"ElasticTok at bpp16 {bpp16}" in c.source.where]
    assert len(entries) == 2
    for entry in entries:
        assert any("share of ElasticTok's tokens" in text for text in entry.open)
        share, bits = sorted({reading.kept_fraction for reading in entry.test.readings}, reverse=True)
        assert share + 1 / 16 == pytest.approx(bpp16, abs=5e-3), "a mask bit for every token of 256 pixels"
        bits_per_pixel = 16 * bits / (8 * 8)
        assert 16 * bits_per_pixel == pytest.approx(share + 1 / 16, abs=2e-3), "BPP16 is per 16 pixels"
        assert all(f"--target kept={kept}" in entry.command for kept in (share, bits))


def test_a_claim_on_whole_videos_looks_at_no_cut_ones():
    whole = [c for c in claims.load() if "view.frames=null" in c.command]
    assert len(whole) >= 11
    for entry in whole:
        assert {"view.size", "view.frames"} <= entry.test.rows.keys(), entry.id

    (entry,) = [c for c in whole if c.id == "cosmos-cv4x8x8-v01-davis"]
    configuration = {"method": "full-rate", "tokenizer": "cosmos-cv4x8x8-v01"}
    cut = quality_rows(32.8, clips=20, **configuration, view={"size": None, "frames": 17})
    assert one(entry, coded(cut)).outcome is Outcome.NOT_TESTABLE
    uncut = quality_rows(32.8, clips=20, **configuration, view={"size": None, "frames": None})
    assert one(entry, coded(uncut)).measurements[0].outcome is Outcome.REPRODUCED


def test_without_rows_only_computations_decide_anything():
    for verdict in judge([]):
        computed = verdict.claim.test.kind == "computed"
        assert (verdict.outcome is Outcome.NOT_TESTABLE) == (not computed), verdict.claim.id


def test_what_can_be_computed_comes_out_as_it_should():
    outcomes = {v.claim.id: v.outcome for v in judge([])}
    assert outcomes["elastictok-47-percent-one-short"] is Outcome.REPRODUCED
    assert outcomes["elastictok-12-nfe"] is Outcome.UNDER_SPECIFIED
    assert outcomes["infotok-latency-by-flops-infotok"] is Outcome.REPRODUCED
    assert outcomes["infotok-latency-by-flops-elastictok"] is Outcome.REPRODUCED
    assert outcomes["infotok-latency-by-flops-mechanism"] is Outcome.INCONCLUSIVE, "nobody knows how its search works"


def test_a_command_is_printed_exactly_where_it_could_change_the_verdict():
    definition = {"kind": "computed", "computation": "search_off_by_one", "inputs": {"ranges": {"VAE": [128, 2048]}}}
    entry = claim(published={"share": 0.9}, tolerance={"relative": 0.01}, test=definition, command="")
    assert str(one(entry, [])).endswith("computed from the published definitions; no stored row can change it")
    with pytest.raises(ValueError, match="no row enters its computation: leave out a command"):
        claim(test=definition)
    with pytest.raises(ValueError, match="give a command"):
        claim(command="")


def test_what_is_judged_is_printed_with_its_source():
    assert str(one(claim(), [])).splitlines()[:2] == [
        "made-up: not testable here. Fast is twice as fast as slow.",
        "  a paper, table 1",
    ]


def test_what_is_not_judged_is_said():
    assert "left out: FVD, which no row holds" in str(one(claim(left_out="FVD, which no row holds"), []))


def test_a_ledger_with_one_id_twice_is_refused(tmp_path):
    entry = claim().model_dump_json()
    path = tmp_path / "ledger.yaml"
    path.write_text(f'{{"claims": [{entry}, {entry}]}}')
    with pytest.raises(ValueError, match="claim ids used twice: made-up"):
        claims.load(path)


def test_a_metric_without_a_tolerance_is_refused():
    with pytest.raises(ValueError, match="no tolerance for psnr"):
        one(claim(published={"psnr": 25.0}, tolerance={}, test={"kind": "measure", "rows": {}}), quality_rows(25.0))
