"""Rows become curves: means that say what they stand on, hulls, Bjontegaard deltas and their refusals."""

import math

import numpy as np
import pytest

from avtbench.reports.curves import bjontegaard_delta, curves, overlap, upper_hull
from avtbench.reports.errors import Refused, ReportError
from avtbench.reports.frame import POOLED, clips_of, datasets_in, frame, quality_points


def point(table, label, setting, dataset="davis"):
    (curve,) = [c for c in curves(table, dataset) if c.label == label]
    (found,) = [p for p in curve.points if p.setting == setting]
    return found


def test_a_point_is_the_mean_of_db_over_clips(make):
    table = frame([make.quality_row("lit", 0.5, clip) for clip in range(4)])
    found = point(table, "lit", 0.5)
    assert found["psnr"] == pytest.approx(np.mean([make.psnr_of("lit", 0.5, c) for c in range(4)]), abs=1e-3)
    assert found["kept_fraction"] == 0.5
    assert found.means["psnr"].clips == "4 of 4 clips"
    assert not found.partial


def test_a_failed_clip_is_counted_and_marks_the_mean_as_partial(make):
    table = frame([make.quality_row("lit", 0.5, clip) for clip in range(3)] + [make.failed_row("lit", 3)])
    mean = point(table, "lit", 0.5).means["psnr"]
    assert (mean.n, mean.of, mean.partial) == (3, 4, True)
    assert mean.text(2).endswith("*")


def test_lossless_clips_are_counted_aside_and_never_averaged(make):
    rows = [make.quality_row("lit", 0.5, clip, psnr=30.0) for clip in range(2)]
    mixed = point(frame([*rows, make.quality_row("lit", 0.5, 2, psnr=math.inf)]), "lit", 0.5).means["psnr"]
    assert mixed.value == pytest.approx(30.0, abs=1e-3)
    assert mixed.clips == "3 of 3 clips, 1 lossless"
    assert mixed.partial
    only = point(frame([make.quality_row("lit", 0.5, 0, psnr=math.inf)]), "lit", 0.5)
    assert only.means["psnr"].text(2) == "lossless"
    assert only["psnr"] == math.inf


def test_the_pool_holds_the_clips_of_all_data_sets(make):
    rows = make.sweep(["lit"], clips=3, speed=False) + make.sweep(["lit"], clips=2, dataset="tokenbench", speed=False)
    table = frame(rows)
    assert datasets_in(quality_points(table)) == ["davis", "tokenbench", POOLED]
    assert clips_of(table, POOLED) == 5
    assert curves(table, POOLED)[0].points[0].done == 5


def test_full_rate_is_a_level_line_and_bounds_come_last(make):
    found = curves(frame(make.sweep(clips=2, speed=False)), "davis")
    assert [c.label for c in found if c.level] == ["full-rate"]
    assert [c.bound for c in found] == sorted(c.bound for c in found)


def test_two_metric_profiles_never_share_an_axis(make):
    rows = [make.quality_row("lit", 0.5, 0), make.quality_row("lit", 0.5, 1, profile="frame-mean/1")]
    with pytest.raises(ReportError, match=r"frame-mean/1 and tokenbench/1"):
        curves(frame(rows), "davis")


def test_variants_of_one_method_are_told_apart_by_what_differs(make):
    common = {"digest": "aa", "depth": 4}
    rows = [
        make.quality_row("lit", 0.5, 0, parameters={"reference": "previous", **common}),
        make.quality_row("lit", 0.5, 0, parameters={"reference": "last_kept", **common, "digest": "bb"}),
    ]
    assert sorted(frame(rows)["label"]) == ["lit (reference=last_kept)", "lit (reference=previous)"]


def test_two_views_of_one_data_set_stand_apart_and_are_never_pooled(make):
    rows = [make.quality_row(view={"size": s, "frames": 17}) for s in (128, 256)]
    found = quality_points(frame(rows))
    assert datasets_in(found) == ["davis (size=128)", "davis (size=256)"]
    assert set(found["cluster"]) == {"davis/clip-00"}, "a clip is one source, however it is cut"


def test_the_hull_leaves_out_what_time_sharing_beats():
    rate, quality = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([20.0, 21.0, 28.0, 30.0, 29.0])
    assert list(upper_hull(rate, quality)) == [0, 2, 3]


def test_overlap_is_the_shared_part_of_the_joint_range():
    assert overlap(np.array([0.0, 4.0]), np.array([2.0, 8.0])) == pytest.approx(0.25)
    assert overlap(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 0.0


def shifted(make, factor, name, clips=8):
    """A method that reaches the quality of ``hold`` with ``factor`` times the bits of ``lit``."""
    rows = []
    for setting, share in enumerate((0.1, 0.2, 0.4, 0.6)):
        for clip in range(clips):
            psnr = 25 + 6 * math.log10(share / 0.1) + 0.3 * clip
            row = make.quality_row(name, share, clip, psnr=psnr, setting=setting)
            bits = round(1e6 * share * factor)
            rate = row.rate.model_copy(update={"payload_bits": bits, "mask_bits_coded": 0})
            rows.append(row.model_copy(update={"rate": rate}))
    return rows


def test_bd_rate_of_a_curve_at_four_fifths_of_the_bits_is_minus_twenty_percent(make):
    table = frame(shifted(make, 1.0, "hold") + shifted(make, 0.8, "lit"))
    found = bjontegaard_delta(table, "lit", "hold", dataset="davis", resamples=50)
    assert found.value == pytest.approx(-20, abs=0.1)
    assert found.low <= found.value <= found.high
    assert found.overlap == pytest.approx(1.0)
    quality = bjontegaard_delta(table, "lit", "hold", of="quality", dataset="davis", resamples=50)
    assert quality.value == pytest.approx(6 * math.log10(1 / 0.8), abs=0.02)
    assert str(found).startswith("-20.0 % [")


def test_a_corner_that_leaves_the_hull_in_a_resample_does_not_move_the_delta(make):
    rows = []
    for setting, share in enumerate((0.1, 0.35, 0.6, 0.9)):
        for clip in range(8):
            psnr, inner = 20 + 10 * share, 0 < setting < 3
            bent = psnr + 0.3 * (-1) ** clip * inner  # upward in the mean of some resamples, downward in others
            rows.append(make.quality_row("hold", share, clip, psnr=bent, setting=setting))
            rows.append(make.quality_row("lit", share, clip, psnr=psnr + 0.3 + 0.1 * inner, setting=setting))
    table = frame(rows)
    for of, low, high in (("quality", 0.2, 0.5), ("rate", -12, -4)):
        found = bjontegaard_delta(table, "lit", "hold", of=of, dataset="davis", resamples=100)
        assert low < found.low <= found.value <= found.high < high


def test_two_copies_of_one_method_differ_by_zero(make):
    rows = shifted(make, 1.0, "lit") + shifted(make, 1.0, "copy")
    found = bjontegaard_delta(frame(rows), "copy", "lit", dataset="davis", resamples=50)
    assert found.value == pytest.approx(0)
    assert not found.excludes(0)


def test_curves_that_hardly_overlap_are_refused_with_the_number(make):
    low = [make.quality_row("lit", s, c, psnr=20 + 3 * s) for s in (0.1, 0.5, 0.9) for c in range(3)]
    high = [make.quality_row("hold", s, c, psnr=22 + 9 * s) for s in (0.1, 0.5, 0.9) for c in range(3)]
    with pytest.raises(Refused, match=r"PSNR ranges of lit and hold overlap by 0.0%, at least 50% is needed"):
        bjontegaard_delta(frame(low + high), "lit", "hold", dataset="davis")


def test_a_curve_that_never_rises_is_refused(make):
    flat = [make.quality_row("lit", s, c, psnr=25 - s) for s in (0.1, 0.5, 0.9) for c in range(3)]
    with pytest.raises(Refused, match="does not gain quality with rate"):
        bjontegaard_delta(frame(flat + shifted(make, 1.0, "hold", 3)), "lit", "hold", dataset="davis")


def test_lower_is_better_for_lpips(make):
    table = frame(make.sweep(["lit", "hold"], clips=3, speed=False))
    found = bjontegaard_delta(
        table, "lit", "hold", of="quality", quality="lpips_squeeze", dataset="davis", resamples=20
    )
    assert found.high < 0
    assert found.low <= found.value <= found.high
