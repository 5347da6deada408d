"""Times in a report: medians, stages that add up, and claims only beyond the noise of a method against itself."""

import numpy as np
import pytest

from avtbench.reports import figures
from avtbench.reports.curves import curves
from avtbench.reports.findings import speed_findings, speed_warnings
from avtbench.reports.frame import frame, nearest_setting
from avtbench.reports.times import StageMeans, speed_summary, stage_means


def timed(make, method, cost, **changes):
    return [make.speed_row(method, 0.5, clip, cost=cost, launch=n, **changes) for clip in range(6) for n in range(3)]


def told(rows):
    return " ".join(f.text for f in speed_findings(frame(rows)))


def test_times_are_medians_with_spread(make):
    summary = speed_summary(frame(make.sweep(["lit"], clips=4)))
    assert (summary["total_p20"] <= summary["total_ms"]).all()
    assert (summary["total_ms"] <= summary["total_p80"]).all()
    assert set(summary["samples"]) == {32}
    assert figures.timing_text(summary) == "latency, cpu, float32, timed on 4 of 4 clips, 1 launch"


def test_a_time_takes_its_rate_from_the_quality_pass(make):
    table = frame(make.sweep(["lit"], clips=4))
    kept = speed_summary(table).set_index("setting")["kept_fraction"]
    assert kept[0.5] == pytest.approx(0.4725, abs=0.001)
    assert set(nearest_setting(table[table["pass"] == "speed"])["setting"]) == {0.5}


def test_quality_over_time_needs_a_common_setting(make):
    table = frame(make.sweep(["lit"], clips=2, speed=False))
    assert figures.quality_time(curves(table, "davis"), speed_summary(table)) is None
    assert figures.rate_time(speed_summary(table)) is None


def test_stages_add_up_and_the_rest_is_unattributed(make):
    (found,) = stage_means(frame(make.sweep(["elastictok-style"], clips=2)))
    assert sum(s for path, s in found.stages.items() if "/" not in path) == pytest.approx(found.total)
    assert found.unattributed == pytest.approx(0.03, abs=1e-6)
    assert figures.stage_breakdown([found]).axes[1].get_xlabel() == "share of end-to-end time (%)"


def test_only_what_belongs_to_no_stage_is_hatched_and_long_times_are_in_seconds():
    stages = {f"stage {place:02d}": 1.0 for place in range(20)} | {"unattributed": 5.0}
    left, right = figures.stage_breakdown([StageMeans("lit (size=6x384)", "", 0.5, 25.0, stages)]).axes
    assert [bar.get_hatch() for bar in right.patches if bar.get_hatch()] == ["////"]
    assert len({bar.get_facecolor() for bar in right.patches}) == 21
    assert left.get_xlabel() == "mean end-to-end time (s per clip)"
    assert left.texts[0].get_text() == " 25"
    assert left.get_yticklabels()[0].get_text() == "lit\n(size=6x384)\nkept 0.50"


def test_stages_of_several_sizes_are_not_averaged(make):
    rows = timed(make, "lit", 0.1) + timed(make, "full-rate", 0.2)
    larger = [r.model_copy(update={"key": f"{r.key}+", "height": 2 * r.height}) for r in timed(make, "lit", 0.9)]
    found = {s.label: s for s in stage_means(frame(larger + rows))}
    alone = {s.label: s for s in stage_means(frame(rows))}
    assert found == alone
    assert set(found) == {"lit", "full-rate"}
    assert found["lit"].at == f"{rows[0].frames}x{rows[0].height}x{rows[0].width}, float32, latency"


def test_a_speed_up_is_claimed_beyond_the_noise_floor_only(make):
    rows = timed(make, "full-rate", 0.1) + timed(make, "full-rate", 0.101, alias="again") + timed(make, "lit", 0.4)
    assert "Noise floor 1.0" in told(rows)
    assert "x: one method timed against itself differs by up to this (latency, cpu, float32)." in told(rows)
    assert "full-rate is faster: the interval starts at" in told(rows)
    near = timed(make, "full-rate", 0.1) + timed(make, "full-rate", 0.12, alias="again") + timed(make, "lit", 0.11)
    assert "full-rate is not distinguishable: the interval [" in told(near)
    assert "reaches into the noise floor of 1.2" in told(near)


def test_a_speed_up_names_the_rates_where_they_were_counted(make):
    assert "full-rate against lit, their rates not counted here, end to end: " in told(
        timed(make, "full-rate", 0.1) + timed(make, "lit", 0.4)
    )
    assert "full-rate against lit, at 1.00 and 0.47 of the tokens, end to end: " in told(
        make.sweep(["full-rate", "lit"], clips=4)
    )


def test_without_a_pair_nothing_is_called_faster(make):
    text = told(timed(make, "full-rate", 0.1) + timed(make, "lit", 0.4))
    assert "so nothing can be called faster" in text
    assert "faster:" not in text


def test_one_launch_is_not_enough_to_be_quoted(make):
    assert "Timed in 1 launch (latency, cpu, float32); a number to be quoted needs 3." in told(
        make.sweep(["lit"], clips=2)
    )


def test_the_report_says_whether_time_shrinks_with_the_tokens(make):
    rows = make.sweep(["lit", "elastictok-style"], clips=5)
    assert "Time shrinks" not in told(rows), "nothing is said without a noise floor"
    twice = timed(make, "full-rate", 0.1) + timed(make, "full-rate", 0.1001, alias="again")
    text = told(rows + twice)
    assert text.count("Time shrinks with the tokens.") == 1
    assert text.count("Not distinguishable: ") == 1


def test_random_weights_are_named_beside_their_time(make):
    rows = timed(make, "full-rate", 0.1) + timed(make, "elastictok-cv", 3.0, weights="random", tier="faithful")
    (claim,) = [f.text for f in speed_findings(frame(rows)) if f.text.startswith("full-rate against elastictok-cv")]
    assert ": 30" in claim
    assert claim.endswith("Random weights.")


def test_warnings_of_the_instrument_are_told_once_per_method_and_kind(make):
    found = speed_warnings(frame(make.sweep(["lit"], clips=3)))
    (launches,) = [text for text in found if "launch" in text]
    assert launches.startswith("lit, 9 of 9 timed points: e.g. 1 launch, and 3 are due")


def test_be_careful_and_do_not_quote_are_two_kinds_of_warning(make):
    def spread(clip, share):
        row = make.speed_row("lit", 0.5, clip)
        seconds = list(np.linspace(1 - share, 1 + share, 8))
        timing = row.timing.model_copy(update={"encode_side": seconds, "decode_side": [0.0] * 8})
        return row.model_copy(update={"timing": timing})

    rows = [spread(clip, share) for clip, share in enumerate((0.15, 0.16, 0.5))]
    found = [text for text in speed_warnings(frame(rows)) if "interquartile" in text]
    assert [text.partition(":")[0] for text in found] == ["lit, 2 of 3 timed points", "lit, 1 of 3 timed points"]
    assert ["be careful" in text for text in found] == [True, False]


def test_two_number_formats_of_a_point_are_no_launches_of_it(make):
    def as_dtype(row, dtype):
        return row.model_copy(update={"timing": row.timing.model_copy(update={"dtype": dtype})})

    quick, slow = make.speed_row("lit", 0.5, 0, cost=0.1), make.speed_row("lit", 0.5, 0, cost=0.6, launch=1)
    found = " ".join(speed_warnings(frame([as_dtype(quick, "float32"), as_dtype(slow, "bfloat16")])))
    assert "lit, 2 of 2 timed points: e.g. 1 launch, and 3 are due" in found
    assert "launches disagree" not in found


def test_two_sizes_are_told_apart_each_with_its_own_noise_floor(make):
    small = timed(make, "full-rate", 0.1) + timed(make, "full-rate", 0.101, alias="again")
    text = told(small + timed(make, "full-rate", 0.4, width=256, dataset="wide"))
    assert "differs by up to this (17x128x128, latency, cpu, float32)." in text
    assert "so nothing can be called faster (17x128x256, latency, cpu, float32)." in text


def test_a_single_round_tells_no_speed_up(make):
    def once(row):
        parts = {k: getattr(row.timing, k)[:1] for k in ("encode_side", "decode_side", "rounds")}
        stages = [s.model_copy(update={"seconds": s.seconds[:1]}) for s in row.timing.stages]
        return row.model_copy(update={"timing": row.timing.model_copy(update={**parts, "stages": stages})})

    rows = [
        once(make.speed_row(m, 0.5, 0, **named))
        for m, named in (("lit", {}), ("full-rate", {}), ("lit", {"alias": "again"}))
    ]
    text = told(rows)
    assert "1 comparison of methods (latency, cpu, float32) had too few rounds for an interval" in text
    assert "inf" not in text
