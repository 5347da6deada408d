"""Speed-ups are paired per clip and round, and claimed only beyond the noise of a method against itself."""

import pytest

from avtbench.reports.errors import Refused
from avtbench.reports.findings import speed_findings
from avtbench.reports.frame import frame
from avtbench.reports.speedup import noise_floor, speedup


def timed(make, method, cost, **changes):
    return [make.speed_row(method, 0.5, clip, cost=cost, launch=n, **changes) for clip in range(6) for n in range(3)]


def test_pairing_by_round_removes_the_drift_both_saw(make):
    found = speedup(timed(make, "slow", 0.4) + timed(make, "swift", 0.1), "swift", "slow")
    assert found.estimate.value == pytest.approx(4.0, rel=0.02)
    assert found.estimate.high - found.estimate.low < 0.2  # the drift itself has a spread of 10 %
    assert found.real
    assert str(found).endswith("6 of 6 clips, 3 launches, latency, cpu, float32")


def test_an_effect_within_the_noise_floor_is_not_real(make):
    again = timed(make, "swift", 0.108, alias="swift-again")
    rows = timed(make, "slow", 0.104) + timed(make, "swift", 0.1) + again
    assert noise_floor(frame(rows)) == pytest.approx(1.08, abs=0.02)
    found = speedup(rows, "swift", "slow")
    assert found.estimate.excludes(1)
    assert not found.real


def test_other_hardware_is_refused(make):
    other = [
        r.model_copy(update={"timing": r.timing.model_copy(update={"device": "cuda"})})
        for r in timed(make, "slow", 0.4)
    ]
    with pytest.raises(Refused, match="timed on cuda float32 and cpu float32; one is needed"):
        speedup(other + timed(make, "swift", 0.1), "swift", "slow")


def test_several_settings_need_a_choice(make):
    rows = make.sweep(["lit", "full-rate"], clips=2)
    with pytest.raises(Refused, match="lit was timed at 3 settings; choose one"):
        speedup(rows, "full-rate", "lit")
    assert speedup(rows, "full-rate", "lit", setting_slow=0.5).estimate.value == pytest.approx(1.4, rel=0.05)


def test_a_method_without_times_is_refused(make):
    with pytest.raises(Refused, match="hold has no finished latency rows"):
        speedup(timed(make, "slow", 0.4), "hold", "slow")


def test_the_report_says_whether_time_shrinks_with_the_tokens(make):
    told = " ".join(f.text for f in speed_findings(frame(make.sweep(["lit", "elastictok-style"], clips=4))))
    assert "lit at 0.19 of the tokens takes 1.00x" in told
    assert told.count("It adapts rate, not time.") == 1
    assert told.count("Time shrinks with the tokens.") == 1
    assert "quote no number before it holds over 3" in told


def test_random_weights_are_named_beside_their_time(make):
    rows = timed(make, "full-rate", 0.1) + timed(make, "elastictok-cv", 3.0, weights="random", tier="faithful")
    (claim,) = [f.text for f in speed_findings(frame(rows)) if "full-rate" in f.text]
    assert claim.startswith("elastictok-cv takes 30")
    assert claim.endswith("Random weights.")
