"""Verdicts follow from the numbers: a planted loss is told as a loss, noise as not separated."""

import math

import numpy as np
import pytest

from avtbench.reports import answers
from avtbench.reports.frame import frame
from avtbench.reports.gains import clip_gains, gains, per_clip, same_masks

SHARES = (0.2, 0.4, 0.6, 0.9)


def fills(make, gain, clips=8, dataset="davis"):
    """Hold and lit with the same masks; ``gain(clip, share)`` in dB is what lit adds."""
    rows = []
    for clip in range(clips):
        for share in SHARES:
            base = 20 + 8 * share - 0.3 * clip
            common = {"dataset": dataset, "setting": 1 - share}
            rows.append(make.quality_row("hold", share, clip, psnr=base, **common))
            rows.append(make.quality_row("lit", share, clip, psnr=base + gain(clip, share), **common))
    return rows


def judged(make, gain, **more):
    table = frame(fills(make, gain, **more))
    return answers.beats_holding(table, "lit", "hold", gains(table, "lit", "hold"))


def test_a_gain_is_positive_where_it_is_better_in_lpips_too(make):
    found = gains(frame(fills(make, lambda clip, share: 0.5)), "lit", "hold", levels=(0.5,))
    assert [gain.measure for gain in found] == ["psnr", "lpips_squeeze"]
    assert all(gain.sign == 1 and gain.estimate.value > 0 for gain in found)
    assert found[0].estimate.value == pytest.approx(0.5, abs=1e-3)


def test_the_same_gain_everywhere_holds(make):
    psnr, lpips = judged(make, lambda clip, share: 0.5)
    assert psnr.claim == "all data sets: at equal masks lit beats hold in PSNR at 25, 50 and 75 % kept."
    assert (psnr.verdict, lpips.verdict) == ("holds", "holds")
    assert "Same tokens kept and same coded mask on 32 of 32 points." in psnr.text
    assert "Ahead in 3 of 3: +0.50 dB [+0.50, +0.50] at 25 %" in psnr.text
    assert psnr.text.endswith("On 8 of 8 clips.")


def test_a_planted_loss_is_told_as_a_loss(make):
    psnr, _ = judged(make, lambda clip, share: 0.4 if share < 0.7 else -0.9)
    assert psnr.verdict == "does not hold"
    assert "Behind in 1 of 3: -" in psnr.text
    assert "Ahead in 2 of 3: " in psnr.text
    assert "Does not hold" in str(psnr)


def test_noise_is_not_separated(make):
    noise = np.random.default_rng(1).normal(0, 0.3, (8, 10))
    psnr, _ = judged(make, lambda clip, share: noise[clip, round(10 * share)])
    assert psnr.verdict == "not separated"


def test_a_level_that_too_few_clips_reach_is_not_judged(make):
    rows = [row for row in fills(make, lambda clip, share: 0.5) if row.setting > 0.3]  # up to 0.6 of the tokens
    table = frame(rows)
    psnr, _ = answers.beats_holding(table, "lit", "hold", gains(table, "lit", "hold"))
    assert psnr.verdict == "cannot be told"
    assert "Not judged in 1 of 3: at 75 % (lit and hold can both be read" in psnr.text


def test_other_masks_judge_nothing(make):
    rows = fills(make, lambda clip, share: 0.5)
    other = [
        row.model_copy(update={"rate": row.rate.model_copy(update={"mask_bits_coded": 1})})
        if row.method == "lit" and row.clip == "clip-03"
        else row
        for row in rows
    ]
    table = frame(other)
    assert same_masks(table, "lit", "hold") == (28, 32)
    psnr, _ = answers.beats_holding(table, "lit", "hold", gains(table, "lit", "hold"))
    assert psnr.verdict == "cannot be told"
    assert "28 of 32 points" in psnr.text


def test_opponents_at_matched_rate_are_judged_over_all_places(make):
    rows = [
        make.quality_row(method, share, clip, dataset=dataset, psnr=20 + 8 * share + better)
        for dataset, lead in (("davis", 1.0), ("tokenbench", -0.5))
        for method, better in (("lit", lead), ("infotok-style", 0.0))
        for share in SHARES
        for clip in range(6)
    ]
    table = frame(rows)
    found = [g for d in ("davis", "tokenbench") for g in gains(table, "lit", "infotok-style", dataset=d)]
    psnr, lpips = answers.matched(found)
    assert psnr.claim == "At matched rate lit is ahead of infotok-style in PSNR at 25, 50 and 75 % kept."
    assert psnr.verdict == lpips.verdict == "does not hold"
    assert "Behind in 3 of 6: -0.50 dB [-0.50, -0.50] tokenbench at 25 %" in psnr.text


def moving(make, kept, clips=10):
    """Lit at three settings; ``kept(clip)`` is the share at the middle one. Motion rises with the clip's number."""
    return frame(
        [
            make.quality_row("lit", min(1.0, kept(clip) * scale), clip, setting=setting)
            for clip in range(clips)
            for setting, scale in ((0.1, 1.3), (0.4, 1.0), (1.6, 0.6))
        ]
    )


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [
        (lambda clip: 0.3 + 0.04 * clip, "holds"),
        (lambda clip: 0.7 - 0.04 * clip, "does not hold"),
        (lambda clip: 0.5 + 0.05 * (-1) ** clip, "not separated"),
        (lambda clip: 0.5, "cannot be told"),
    ],
)
def test_whether_motion_drives_the_rate_is_a_rank_correlation_over_all_clips(make, kept, verdict):
    (answer,) = answers.content_drives_rate(moving(make, kept), "lit")
    assert answer.verdict == verdict
    if verdict != "cannot be told":
        assert "at threshold 0.4 keeps" in answer.text
        assert "10 of 10 clips" in answer.text
        assert "At the 2 other settings" in answer.text


def test_a_rule_that_sets_its_rate_is_said_to(make):
    rows = [make.quality_row("lit", 0.3 + 0.04 * clip, clip, setting=0.4) for clip in range(10)]
    rows += [make.quality_row("infotok-style", 0.5, clip, setting=0.5, setting_name="rate") for clip in range(10)]
    (answer,) = answers.content_drives_rate(frame(rows), "lit", ["infotok-style"])
    assert "infotok-style at rate 0.5 keeps the same share of every clip: its rate is set" in answer.text


@pytest.mark.parametrize(
    ("kept", "verdict"),
    [
        (lambda clip: 0.25 if clip < 3 else 0.6, "holds"),
        (lambda clip: 0.6 if clip < 3 else 0.4, "does not hold"),
    ],
)
def test_whether_static_clips_compress_most(make, kept, verdict):
    rows = [make.quality_row("lit", kept(clip), clip, setting=0.4, psnr=24) for clip in range(12)]
    rows += [make.quality_row("full-rate", 1.0, clip, setting=0.0, psnr=26) for clip in range(12)]
    (answer,) = answers.static_compress_most(frame(rows), "lit", "full-rate")
    assert answer.verdict == verdict
    assert "the 3 clips with the least motion (up to 3.30)" in answer.text
    assert "lose 2.00 dB of PSNR against full-rate, the others 2.00 dB" in answer.text


def test_fill_against_motion(make):
    table = frame(
        fills(make, lambda clip, share: 0.1 * clip)
        + [make.quality_row("full-rate", 1.0, clip, setting=0.0, psnr=30 + clip) for clip in range(8)]
    )
    worse, more = answers.fill_against_motion(table, "lit", "hold", "full-rate")
    assert (worse.verdict, more.verdict) == ("holds", "holds")
    assert "0.00 dB" not in more.text.partition("stillest")[2]
    assert "+0.65 dB" in more.text  # the two liveliest gain 0.6 and 0.7
    effects = clip_gains(per_clip(table, "lit", 0.5), per_clip(table, "hold", 0.5), "psnr")
    assert list(effects["gain"]) == pytest.approx([0.1 * clip for clip in range(8)], abs=1e-3)


def test_a_gain_that_falls_with_motion_is_told_so(make):
    table = frame(
        fills(make, lambda clip, share: -0.1 * clip)
        + [make.quality_row("full-rate", 1.0, clip, setting=0.0, psnr=30 - 2 * clip) for clip in range(8)]
    )
    worse, more = answers.fill_against_motion(table, "lit", "hold", "full-rate")
    assert (worse.verdict, more.verdict) == ("does not hold", "does not hold")
    assert "Spearman ρ -1.00" in more.text


def test_passes_are_counted_not_believed(make):
    once = [make.quality_row("lit", 0.5, c, evaluations={"encoder": 1, "lit": 1, "decoder": 1}) for c in range(3)]
    search = [make.quality_row("elastictok-style", 0.5, c, evaluations={"decoder": 30}) for c in range(3)]
    (answer,) = answers.passes(frame(once + search), "lit", ["elastictok-style"])
    assert answer.verdict == "holds"
    assert "3 of 3 points" in answer.text
    assert "elastictok-style 30.0 (10.0 times)" in answer.text
    twice = make.quality_row("lit", 0.5, 3, evaluations={"encoder": 2, "lit": 1, "decoder": 1})
    (answer,) = answers.passes(frame([*once, twice]), "lit", [])
    assert answer.verdict == "does not hold"


def with_forward(row, share):
    timing = row.timing
    seconds = [share * s for s in np.add(timing.encode_side, timing.decode_side)]
    stage = timing.stages[0].model_copy(update={"path": "decode/lit", "seconds": seconds})
    return row.model_copy(update={"timing": timing.model_copy(update={"stages": [*timing.stages, stage]})})


@pytest.mark.parametrize(("share", "verdict"), [(0.05, "holds"), (0.5, "does not hold")])
def test_the_cost_of_the_forward_is_a_share_of_full_rate(make, share, verdict):
    rows = [with_forward(make.speed_row("lit", 0.5, 0, cost=0.03), share)]
    rows.append(make.speed_row("full-rate", 1.0, 0, cost=0.03))
    (answer,) = answers.forward_is_cheap(frame(rows), "lit", "full-rate")
    assert answer.verdict == verdict
    assert float(answer.text.partition("%")[0]) == pytest.approx(100 * share, rel=0.03)
    assert "1 clip, 1 launch, 17x128x128, float32, latency, cpu." in answer.text
    assert answers.forward_is_cheap(frame(rows[:1]), "lit", "full-rate") == []


def test_a_rank_correlation_has_its_interval_and_p(make):
    x = np.arange(12.0)
    found, p = answers.rank(x, x**3, [str(i) for i in range(12)], 12)
    assert found.value == pytest.approx(1.0)
    assert found.low > 0.9
    assert p < 1e-6
    assert not math.isnan(found.high)
