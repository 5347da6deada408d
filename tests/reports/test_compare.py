"""Two methods meet at one rate or one quality, clip by clip; where they cannot, the reason is given."""

import math

import numpy as np
import pytest

from avtbench.reports.compare import At, calibrate, compare
from avtbench.reports.errors import Refused, ReportError
from avtbench.reports.findings import pairs
from avtbench.reports.frame import frame
from avtbench.reports.intervals import estimate


@pytest.mark.parametrize("text", ["kept", "kept=abc", "speed=3", "psnr=inf", ""])
def test_a_level_that_cannot_be_read_says_what_is_expected(text):
    with pytest.raises(ReportError, match=r"expected NAME=NUMBER, e.g. kept=0.5 or psnr=30"):
        At.parse(text)


def test_matched_rate_is_read_off_each_clips_own_curve(make):
    rows = [
        make.quality_row(m, s, c, psnr=p + 10 * s)
        for m, p in (("lit", 21), ("hold", 20))
        for s in (0.4, 0.6)
        for c in range(8)
    ]
    found = compare(rows, "lit", "hold", "kept=0.5")
    assert found.estimates["psnr"].value == pytest.approx(1.0, abs=1e-3)
    assert found.means["psnr"] == (pytest.approx(26, abs=1e-3), pytest.approx(25, abs=1e-3))
    assert (found.n, found.of) == (8, 8)
    assert "PSNR of lit differs by +1.00 dB [+1.00, +1.00] from hold, 8 of 8 clips" in found.sentences()[1]


def test_matched_quality_compares_rates_as_a_ratio(make):
    rows = [make.quality_row("lit", s, c, psnr=20 + 20 * s) for s in (0.2, 0.4, 0.8) for c in range(6)]
    rows += [make.quality_row("hold", s, c, psnr=20 + 10 * s) for s in (0.2, 0.4, 0.8) for c in range(6)]
    found = compare(rows, "lit", "hold", "psnr=26")
    assert found.estimates["kept_fraction"].value == pytest.approx(0.5, rel=0.01)
    assert found.estimates["kept_fraction"].unit == "x"
    assert "psnr" not in found.estimates


def test_two_copies_of_one_method_are_not_separated(make):
    rows = make.sweep(["lit"], clips=6, speed=False)
    copies = [row.model_copy(update={"method": "copy"}) for row in rows]
    found = compare(rows + copies, "lit", "copy", "kept=0.5")
    assert not any(e.excludes(1 if e.unit == "x" else 0) for e in found.estimates.values())


def test_noise_that_is_shared_by_both_methods_cancels(make):
    rng = np.random.default_rng(0)
    rows = []
    for clip, hard in enumerate(rng.normal(0, 3, 12)):
        for share in (0.3, 0.7):
            rows.append(make.quality_row("lit", share, clip, psnr=28 + hard + rng.normal(0, 0.05)))
            rows.append(make.quality_row("hold", share, clip, psnr=27.5 + hard + rng.normal(0, 0.05)))
    found = compare(rows, "lit", "hold", "kept=0.5").estimates["psnr"]
    assert found.excludes(0)
    assert found.high - found.low < 0.2  # the clips themselves differ by several dB


def test_clips_of_one_source_are_drawn_together():
    effect = np.array([0.0] * 10 + [1.0] * 10)
    apart = estimate(lambda i: float(effect[i].mean()), [str(i) for i in range(20)], of=20)
    together = estimate(lambda i: float(effect[i].mean()), ["a"] * 10 + ["b"] * 10, of=20)
    assert together.high - together.low > 1.5 * (apart.high - apart.low)
    assert together.sources == 2
    assert "from 2 sources only" in together.note


def test_one_source_gives_no_interval_and_excludes_nothing():
    found = estimate(lambda i: 3.0, ["a", "a"], of=2, unit="dB")
    assert math.isnan(found.low)
    assert not found.excludes(0)
    assert str(found) == "+3.00 dB [no interval], 2 of 2 clips (one source: an interval needs two or more)"


def test_a_level_beyond_the_curves_is_refused_with_the_reason(make):
    rows = make.sweep(["lit", "hold"], clips=3, speed=False)
    with pytest.raises(
        Refused, match=r"on 0 of 3 clips, at least half are needed; e.g. davis/clip-00: lit: PSNR spans"
    ):
        compare(rows, "lit", "hold", "psnr=60")


def test_clips_that_cannot_be_read_at_the_level_are_named(make):
    rows = [make.quality_row(m, s, c) for m in ("lit", "hold") for s in (0.3, 0.7) for c in range(3)]
    rows += [make.quality_row("lit", s, 3) for s in (0.3, 0.7)] + [make.quality_row("hold", s, 3) for s in (0.6, 0.9)]
    found = compare(rows, "lit", "hold", "kept=0.5")
    assert (found.n, found.of) == (3, 4)
    assert found.left_out == {"davis/clip-03": "hold: kept tokens spans 0.6 to 0.9"}
    assert found.estimates["psnr"].partial


def two_views(make):
    """Two methods on six clips, at 128 pixels and, with twice the gain, at 256."""
    return [
        make.quality_row(
            m, s, c, psnr=20 + 10 * s + size / 128 * (m == "lit"), view={"size": size}, key=f"{m}{s}{c}{size}"
        )
        for size in (128, 256)
        for m in ("lit", "hold")
        for s in (0.4, 0.6)
        for c in range(6)
    ]


def test_two_views_of_one_data_set_are_compared_apart(make):
    table = frame(two_views(make))
    with pytest.raises(
        Refused, match=r"the rows hold davis \(size=128\) and davis \(size=256\), views of one data set"
    ):
        compare(table, "lit", "hold")
    with pytest.raises(Refused, match="views of one data set, which are never pooled"):
        calibrate(two_views(make), "lit", "kept=0.5")
    assert compare(table, "lit", "hold", dataset="davis (size=256)").estimates["psnr"].value == pytest.approx(
        2, abs=0.01
    )
    assert [pair.dataset for pair in pairs(table, "shared")] == ["davis (size=128)", "davis (size=256)"]


def test_an_unknown_method_is_answered_with_the_known_ones(make):
    with pytest.raises(ReportError, match="no finished quality rows of 'lti' on all data sets; there are lit"):
        compare(make.sweep(["lit"], clips=2, speed=False), "lti", "lit")


def test_a_lossless_end_of_a_curve_is_no_number(make):
    rows = [
        make.quality_row(m, s, c, psnr=p)
        for m in ("lit", "hold")
        for c in range(2)
        for s, p in ((0.3, 25.0), (0.9, math.inf))
    ]
    with pytest.raises(Refused, match="PSNR spans 25 to 25"):
        compare(rows, "lit", "hold", "psnr=27")


def test_calibration_finds_a_setting_on_other_clips_and_applies_it(make):
    held = [
        make.quality_row("lit", s, 90 + c, setting=t) for c in range(2) for s, t in ((0.8, 0.1), (0.4, 0.5), (0.2, 0.9))
    ]
    assert calibrate(held, "lit", "kept=0.5") == pytest.approx(0.4)
    test = [make.quality_row("lit", s + 0.02 * c, c, setting=t) for c in range(4) for s, t in ((0.8, 0.1), (0.4, 0.5))]
    copies = [r.model_copy(update={"method": "hold"}) for r in held]
    found = compare(
        test + [r.model_copy(update={"method": "hold"}) for r in test],
        "lit",
        "hold",
        "kept=0.5",
        calibration=held + copies,
    )
    assert found.settings["lit"] == pytest.approx(0.4)
    assert found.means["kept_fraction"][0] == pytest.approx(0.53, abs=0.002)  # what is reached, not what was asked for
    first, *others = found.sentences()
    assert first == "settings found on the calibration clips at kept tokens = 0.5: lit 0.4, hold 0.4"
    assert all(line.startswith("at kept tokens 0.530 and 0.530, ") for line in others)


def test_calibration_never_extrapolates(make):
    rows = [make.quality_row("lit", s, c) for s in (0.3, 0.4) for c in range(2)]
    with pytest.raises(
        Refused, match=r"lit: swept settings reach kept tokens 0.3 to 0.4 .* not 0.5; sweep further settings"
    ):
        calibrate(rows, "lit", "kept=0.5")
    infinite = [make.quality_row("lit", s, 0, setting=t) for s, t in ((0.2, math.inf), (0.8, 0.1))]
    with pytest.raises(Refused, match="between an infinite setting and its neighbour"):
        calibrate(infinite, "lit", "kept=0.5")


def test_times_are_compared_where_both_were_timed(make):
    rows = make.sweep(["lit", "elastictok-style"], clips=4)
    found = compare(rows, "elastictok-style", "lit", "kept=0.5").estimates["total_ms"]
    assert found.low > 4


def test_one_setting_for_all_clips_lets_a_method_spend_where_it_moves(make):
    rows = []
    for method, psnr in (("lit", 30.0), ("hold", 29.0)):
        for setting, (still, lively) in enumerate(((0.2, 0.4), (0.2, 1.0))):
            rows.append(make.quality_row(method, still, 0, psnr=psnr, setting=setting))
            rows.append(make.quality_row(method, lively, 1, psnr=psnr, setting=setting))
    assert compare(rows, "lit", "hold", "kept=0.5").left_out == {"davis/clip-00": "lit: kept tokens spans 0.2 to 0.2"}
    found = compare(rows, "lit", "hold", "kept=0.5", per_clip=False)
    assert found.n == 2
    assert found.estimates["psnr"].value == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(Refused, match=r"lit reaches kept tokens 0.300 to 0.600 on the mean, not 0.9"):
        compare(rows, "lit", "hold", "kept=0.9", per_clip=False)
