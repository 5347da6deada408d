"""Speed rows side by side: medians, paired ratios with what explains them, overhead over the base."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from avtbench.bench import exchange
from avtbench.bench.commands import speed_report
from avtbench.bench.environment import fingerprint
from avtbench.bench.rows import Extrapolation, Quality, Rate, Row, StageCost, Status, Timing
from avtbench.bench.timing import statistics
from avtbench.reports import levels, ratios
from avtbench.reports.errors import ReportError

FAMILIES = {"full-rate": "bound", "lit": "threshold", "search": "search", "hold": "bound"}


def timed_rows(
    method, encode, decode, *, select=0.001, setting=0.5, clips=6, nfe=2, flops=100, dtype="float32", width=64, **more
):
    """Rows of three launches of four rounds; ``encode`` and ``decode`` in seconds, clips 1 % apart."""
    found = []
    for clip in range(clips):
        for launch in range(3):
            scale = [1 + 0.01 * clip + 0.001 * np.sin(len(method) * clip + 3 * launch + r) for r in range(4)]
            first, sel, last = ([s * x for x in scale] for s in (encode, select, decode))
            stages = [
                StageCost(path="encode", seconds=first, flops=flops, evaluations={"net": nfe - 1}),
                StageCost(path="select", seconds=sel),
                StageCost(path="decode", seconds=last, evaluations={"net": 1}),
                StageCost(path="decode/fill", seconds=[0.1 * x for x in last]),
                StageCost(path="decode/decoder", seconds=[0.8 * x for x in last]),
            ]
            timing = Timing(
                scenario="latency", device="cpu", dtype=dtype, launch=launch, rounds=[0, 1, 2, 3], seed=0, warmup=[0.1],
                encode_side=[a + b for a, b in zip(first, sel, strict=True)], decode_side=last, stages=stages,
                stop_reason="given", **more,
            )  # fmt: skip
            found.append(
                Row(
                    key=f"{method}{setting}{dtype}{clip}{launch}", status=Status.DONE, pass_="speed", method=method,
                    tier="shared", family=FAMILIES[method], weights="trained", tokenizer="embedded", dataset="made",
                    clip=f"clip{clip}", frames=17, height=64, width=width, setting=setting, setting_name="threshold",
                    environment="here", timing=timing,
                )
            )  # fmt: skip
    return found


def known(rows, floor=1.01):
    """A noise floor for everything that is alike to any of the rows."""
    return {side: {statistics.alike(row): floor for row in rows} for side in ratios.SHOWN}


def counted_rows(method, curve, clips=6):
    """Quality rows: ``curve`` is setting -> (kept fraction, MSE)."""
    return [
        Row(
            key=f"q{method}{setting}{clip}", status=Status.DONE, pass_="quality", method=method, tier="shared",
            family=FAMILIES[method], weights="trained", tokenizer="embedded", dataset="made", clip=f"clip{clip}",
            frames=17, height=64, width=64, setting=setting, setting_name="threshold",
            rate=Rate(kept=int(1000 * kept), total=1000, payload_bits=1, mask_bits=1, mask_bits_coded=1),
            quality=Quality(
                profile="tokenbench/1", frame_pixels=1000, frame_sse=[int(1000 * mse)], frame_sse_float=[1000.0 * mse],
                frame_ssim=[0.8],
            ),
        )
        for setting, (kept, mse) in curve.items()
        for clip in range(clips)
    ]  # fmt: skip


def test_times_state_both_sides_with_their_spread():
    (line,) = ratios.times(ratios.timed(timed_rows("lit", 0.1, 0.2))).values.to_dict("records")
    assert line["encode_s"] == pytest.approx(0.101 * 1.025, rel=0.01)
    assert line["total_s"] == pytest.approx(0.301 * 1.025, rel=0.01)
    assert line["total_p20"] < line["total_s"] < line["total_p80"]
    assert (line["nfe"], line["flops"], line["samples"], line["clips"], line["launches"]) == (2, 100, 72, 6, 3)


def test_a_search_is_held_against_a_threshold_with_what_explains_the_ratio():
    rows = timed_rows("search", 0.9, 0.3, nfe=8, flops=800) + timed_rows("lit", 0.1, 0.2)
    table = ratios.speed_ups(ratios.timed(rows), floors=known(rows))
    ends = table.values.set_index("side").loc["end to end"]
    assert (ends["slow"], ends["fast"]) == ("search", "lit")
    assert ends["ratio"] == pytest.approx(1.201 / 0.301, rel=0.005)
    assert ends["low"] < ends["ratio"] < ends["high"]
    assert ends["evaluations"] * ends["flops_per_evaluation"] * ends["rest"] == pytest.approx(ends["ratio"])
    assert (ends["evaluations"], ends["flops_per_evaluation"]) == pytest.approx((4, 2))
    assert ends["verdict"].startswith("faster")


def test_declared_rates_tell_whether_time_shrinks_with_the_tokens():
    """One network at two declared rates is one method at two settings, not two methods."""
    rows = []
    for kept, decode in ((0.9, 0.2), (0.35, 0.3)):
        for row in timed_rows("lit", 0.1, decode, forced={"kept": kept}):
            forced = {"parameters": {"forced": {"kept": kept}}, "key": f"{row.key}{kept}"}
            rows.append(row.model_copy(update=forced))
    groups = ratios.timed(rows)
    assert [(g.name, round(g.kept, 6)) for g in groups] == [("lit", 0.9), ("lit", 0.35)]
    ends = ratios.speed_ups(groups).values.set_index("side").loc["end to end"]
    assert ends["level"] == "kept 0.90 against 0.35"
    assert ends["ratio"] == pytest.approx(0.301 / 0.401, rel=0.005)


def test_only_what_was_timed_alike_meets():
    rows = timed_rows("search", 0.9, 0.3, dtype="bfloat16") + timed_rows("lit", 0.1, 0.2)
    assert ratios.speed_ups(ratios.timed(rows)).values.empty


def test_flops_of_another_number_format_are_taken_over_and_times_are_not():
    rows = timed_rows("lit", 0.1, 0.2, flops=None) + timed_rows("lit", 0.05, 0.1, dtype="bfloat16", flops=100)
    lines = ratios.times(ratios.timed(rows)).values.set_index("dtype")
    assert lines["flops"].to_dict() == {"float32": 100, "bfloat16": 100}
    assert lines.loc["float32", "total_s"] > 1.9 * lines.loc["bfloat16", "total_s"]


def test_what_was_extrapolated_is_said_in_every_table():
    part = Extrapolation(stages={"select/search/trial": 11}, evaluations=20, of=220, measured=[0.1] * 4)
    groups = ratios.timed(timed_rows("search", 0.9, 0.3, extrapolated=part) + timed_rows("lit", 0.1, 0.2))
    assert "extrapolated from 20 of 220 evaluations" in set(ratios.times(groups).texts["note"])
    table = ratios.speed_ups(groups, floors=known(groups[0].rows))
    assert all("extrapolated from 20 of 220 evaluations" in note for note in table.texts["note"])
    assert "Not measured in full: extrapolated from 20 of 220 evaluations (select/search/trial x 11)." in table.notes


def test_the_overhead_over_the_base_is_a_paired_ratio():
    rows = timed_rows("lit", 0.1, 0.23, select=0.001) + timed_rows("full-rate", 0.1, 0.2, select=0.0, setting=0.0)
    rows += counted_rows("lit", {0.5: (0.4, 20)})
    (line,) = ratios.overhead(ratios.timed(rows)).values.to_dict("records")
    assert line["kept"] == pytest.approx(0.4)
    assert line["selection_over_encoder"] == pytest.approx(0.01)
    assert line["encode_side_over_encoder"] == pytest.approx(1.01, rel=1e-3)
    assert line["round_trip_over_full_rate"] == pytest.approx(0.331 / 0.3, rel=1e-3)
    assert line["round_trip_over_encoder_and_decoder"] == pytest.approx(0.331 / (0.1 + 0.8 * 0.23), rel=1e-3)


def test_what_leaving_kept_positions_out_saves_is_a_paired_ratio_of_the_filler_with_itself():
    rows = timed_rows("lit", 0.1, 0.2) + timed_rows("full-rate", 0.1, 0.15, setting=0.0)
    for row in timed_rows("lit", 0.1, 0.4):
        rows.append(row.model_copy(update={"parameters": {"compute": "all"}, "key": f"{row.key} every"}))
    groups = ratios.timed(rows)
    assert {g.name for g in groups} == {"lit", "lit, every position", "full-rate"}
    (line,) = ratios.savings(groups).values.to_dict("records")
    assert (line["fill_ratio"], line["total_ratio"]) == pytest.approx((2, 0.501 / 0.301), rel=1e-3)
    assert line["fill_low"] <= 2.01
    assert ratios.savings(groups).texts["saved in the fill"].tolist() == ["all of it"], "no evaluation of its network"
    others = ratios.comparisons(groups)
    assert [table.name for table in others] == ["speed-ups", "speed-overhead", "speed-saved"]
    assert all("every" not in str(table.texts) for table in others[:2]), "held against itself alone"


def test_several_clips_in_flight_tell_nothing_of_the_overhead():
    rows = timed_rows("lit", 0.1, 0.23) + timed_rows("full-rate", 0.1, 0.2, setting=0.0)
    throughput = [
        r.model_copy(update={"timing": r.timing.model_copy(update={"scenario": "throughput", "stages": []})})
        for r in rows
    ]
    assert ratios.overhead(ratios.timed(throughput)).values.empty


def test_variants_of_a_method_have_rates_of_their_own():
    def variant(rows, reference):
        return [
            r.model_copy(update={"key": f"{r.key}{reference}", "parameters": {"reference": reference}}) for r in rows
        ]

    rows = []
    for reference, kept in (("previous", 0.4), ("last_kept", 0.6)):
        rows += variant([*timed_rows("lit", 0.1, 0.2), *counted_rows("lit", {0.5: (kept, 20)})], reference)
    assert [g.kept for g in ratios.timed(rows)] == pytest.approx([0.4, 0.6])


def test_tables_name_size_number_format_and_scenario():
    cold = timed_rows("lit", 0.1, 0.2)
    cold = [r.model_copy(update={"timing": r.timing.model_copy(update={"scenario": "cold"})}) for r in cold]
    table = ratios.times(ratios.timed([*timed_rows("lit", 0.1, 0.2), *cold]))
    assert list(table.texts["size"]) == ["17x64x64, float32, latency", "17x64x64, float32, cold"]


# Levels


CURVES = [
    *counted_rows("lit", {0.1: (0.8, 10), 0.4: (0.4, 30)}),
    *counted_rows("search", {0.01: (0.9, 15), 0.1: (0.3, 60)}),
    *counted_rows("full-rate", {0.0: (1.0, 8)}),
]


def test_settings_are_found_where_methods_meet():
    found, left_out = levels.find(CURVES, ["kept=0.6", "psnr"])
    assert found[0] == ("kept=0.6", {"lit": pytest.approx(0.25), "search": pytest.approx(0.055)})
    assert found[1][0].startswith("psnr=34.8")
    assert set(found[1][1]) == {"lit", "search"}
    assert left_out == []


def test_who_does_not_reach_a_level_is_left_out_with_the_reason():
    found, (line,) = levels.find(CURVES, ["kept=0.85"])
    assert set(found[0][1]) == {"search"}
    assert line.startswith("at kept=0.85, lit: ")
    with pytest.raises(ReportError, match=r"no method meets kept=0\.05"):
        levels.find(CURVES, ["kept=0.05"])
    with pytest.raises(ReportError, match="--match keep: expected NAME"):
        levels.find(CURVES, ["keep"])


def test_pairs_of_a_level_are_those_at_its_settings():
    rows = [r for s in (0.1, 0.4) for r in timed_rows("lit", 0.1 + s, 0.2, setting=s)]
    rows += [r for s in (0.01, 0.1) for r in timed_rows("search", 0.9, 0.3, setting=s)]
    matched = [("kept=0.9", {"lit": 0.1, "search": 0.01}), ("kept=0.3", {"lit": 0.4, "search": 0.1})]
    found = [(text, a.setting, b.setting) for text, a, b in ratios.pairs(ratios.timed(rows), matched)]
    assert found == [("kept=0.9", 0.01, 0.1), ("kept=0.3", 0.1, 0.4)]


def test_who_does_not_reach_a_level_is_not_paired_there():
    rows = [r for s in (0.1, 0.4) for r in timed_rows("lit", 0.1 + s, 0.2, setting=s)]
    rows += [*timed_rows("search", 0.9, 0.3, setting=0.01), *timed_rows("full-rate", 0.1, 0.2, setting=0.0)]
    matched = [("kept=0.9", {"lit": 0.1, "search": 0.01}), ("kept=0.3", {"lit": 0.4})]
    found = [(text, a.name, b.setting) for text, a, b in ratios.pairs(ratios.timed(rows), matched)]
    assert found == [("kept=0.9", "search", 0.1), ("kept=0.9", "full-rate", 0.1), ("kept=0.3", "full-rate", 0.4)]


def test_who_no_level_names_is_paired_where_it_has_one_setting():
    rows = [*timed_rows("lit", 0.1, 0.2), *(r for s in (0.01, 0.1) for r in timed_rows("search", 0.9, 0.3, setting=s))]
    matched = [("kept=0.9", {"lit": 0.5})]
    assert [(a.name, b.name) for _, a, b in ratios.pairs(ratios.timed(rows), matched)] == []
    one = [row for row in rows if row.setting != 0.1]
    assert [(a.name, b.name) for _, a, b in ratios.pairs(ratios.timed(one), matched)] == [("search", "lit")]


def test_a_level_that_is_missed_is_told_with_what_is_reached():
    found = [("kept=0.6", {"lit": 0.1, "search": 0.05}), ("psnr=33.05", {"lit": 0.1})]
    reached = [*counted_rows("lit", {0.1: (0.595, 32)}), *counted_rows("search", {0.05: (0.5, 60)})]
    assert levels.missed(reached, found) == {("kept=0.6", "search"): pytest.approx(0.5)}
    assert levels.missed(CURVES, [("psnr=38", {"lit": 0.1})]) == {("psnr=38", "lit"): pytest.approx(38.13, abs=0.01)}


def test_who_missed_a_level_comes_closer_and_the_others_stay():
    found, _ = levels.find(CURVES, ["kept=0.6"])
    bent = [*CURVES, *counted_rows("search", {found[0][1]["search"]: (0.5, 30)})]
    (again,) = levels.closer(bent, found, [("kept=0.6", "search")])
    assert again[1]["lit"] == found[0][1]["lit"]
    assert again[1]["search"] == pytest.approx(0.01 + 0.045 * 0.3 / 0.4, rel=1e-4)
    assert levels.nearest(bent, [("kept=0.52", found[0][1])]) == [
        ("kept=0.52", {"lit": 0.4, "search": found[0][1]["search"]})
    ]


def test_every_size_that_was_matched_under_one_name_keeps_its_own_levels():
    def entry(id_, name="mine", **settings):
        found = [["kept=0.6", settings]] if settings else []
        return SimpleNamespace(id=id_, name=name, spec={"speed": {"levels": found}})

    def of(*methods, setting):
        return [row for m in methods for row in timed_rows(m, 0.1, 0.2, setting=setting)]

    rows = {
        "small": of("lit", setting=0.25),
        "large": of("lit", setting=0.2),
        "others": of("full-rate", setting=0.0),
        "another name": of("lit", setting=0.3),
        "reached": counted_rows("lit", {0.25: (0.6, 20), 0.2: (0.6, 20), 0.1: (0.8, 10)}),
    }
    rows["other profile"] = [
        row.model_copy(update={"key": f"o{row.key}", "quality": row.quality.model_copy(update={"profile": "other/1"})})
        for row in rows["reached"]
    ]
    runs = [
        entry("other profile", "mine-reached"), entry("reached", "mine-reached"), entry("small", lit=0.25),
        entry("another name", "other", lit=0.3), entry("others", lit=0.9), entry("large", lit=0.2),
    ]  # fmt: skip
    store = SimpleNamespace(runs=lambda: runs, rows=rows.get)
    found, counted = speed_report.matched(store, runs[-1])
    assert found == [("kept=0.6", {"lit": 0.25}), ("kept=0.6", {"lit": 0.2})]
    assert counted == [row for row in rows["reached"] if row.setting != 0.1]
    rows["large"] += timed_rows("search", 0.9, 0.3)
    assert speed_report.matched(store, runs[-1])[0] == [("kept=0.6", {"lit": 0.2})]
    assert speed_report.matched(store, entry("small")) == ([], []), "this run was not matched"


def test_pairs_without_a_level_say_at_which_setting_each_method_stands():
    rows = [r for s in (0.1, 0.4) for r in timed_rows("lit", 0.1 + s, 0.2, setting=s)]
    rows += timed_rows("search", 0.9, 0.3, setting=0.01)
    (ups,) = ratios.comparisons(ratios.timed(rows))
    assert ratios.UNMATCHED in ups.notes
    (ups,) = ratios.comparisons(ratios.timed(rows), [("kept=0.9", {"lit": 0.1, "search": 0.01})])
    assert ratios.UNMATCHED not in ups.notes


def test_a_kept_fraction_is_of_the_size_at_which_it_was_counted():
    rows = [r for w in (64, 96) for r in timed_rows("lit", 0.1, 0.2, width=w)]
    groups = ratios.timed([*rows, *counted_rows("lit", {0.5: (0.4, 20)})])
    assert {g.first.width: g.kept for g in groups} == {64: pytest.approx(0.4), 96: pytest.approx(math.nan, nan_ok=True)}


def test_the_same_at_its_most_and_its_fewest_tokens_is_a_pair():
    rows = [r for s, decode in ((0.1, 0.3), (0.2, 0.25), (0.4, 0.2)) for r in timed_rows("lit", 0.1, decode, setting=s)]
    rows += counted_rows("lit", {0.1: (0.8, 10), 0.2: (0.6, 20), 0.4: (0.4, 30)})
    ends = ratios.speed_ups(ratios.timed(rows)).values.set_index("side").loc["end to end"]
    assert (ends["level"], ends["slow"], ends["fast"]) == ("kept 0.80 against 0.40", "lit", "lit")
    assert ends["ratio"] == pytest.approx(0.4 / 0.3, rel=1e-3)


def test_every_side_is_held_against_its_own_noise_floor():
    def rows(decode, **alias):
        made = timed_rows("lit", 0.1, decode) if not alias else timed_rows("lit", 0.12, decode)
        return [r.model_copy(update={**alias, "key": f"{r.key}{alias}"}) for r in made]

    found = ratios.floors([*rows(0.4), *rows(0.4, alias="lit (again)")])
    (alike,) = found["encode side"]
    assert found["encode side"][alike] == pytest.approx(1.2, abs=0.02)
    assert found["end to end"][alike] == pytest.approx(0.52 / 0.5, abs=0.02)
    pair = [*timed_rows("search", 0.115, 0.6), *timed_rows("lit", 0.1, 0.4)]
    verdicts = ratios.speed_ups(ratios.timed(pair), floors=found).values.set_index("side")["verdict"]
    assert "reaches into the noise floor" in verdicts["encode side"]
    assert verdicts["end to end"].startswith("faster")


def test_a_noise_floor_of_another_size_decides_nothing_here():
    rows = [r for w in (64, 96) for m in ("search", "lit") for r in timed_rows(m, len(m) / 10, 0.1, width=w)]
    floors = known([r for r in rows if r.width == 64])
    table = ratios.speed_ups(ratios.timed(rows), floors=floors)
    verdicts = table.values.set_index(["size", "side"])["verdict"]
    assert verdicts["17x64x64, float32, latency", "end to end"].startswith("faster")
    assert verdicts["17x64x96, float32, latency", "end to end"].startswith("not distinguishable: no noise floor")
    assert [note.partition(":")[0] for note in table.notes] == [
        "Encode side, 17x64x64", "End to end, 17x64x64", "Encode side, 17x64x96", "End to end, 17x64x96",
    ]  # fmt: skip
    assert table.notes[2].startswith("Encode side, 17x64x96: no noise floor")


def test_what_was_timed_in_two_sittings_stands_there_without_a_ratio():
    rows = timed_rows("search", 0.9, 0.3, sitting="monday") + timed_rows("lit", 0.1, 0.2, sitting="tuesday")
    table = ratios.speed_ups(ratios.timed(rows))
    assert set(table.values["verdict"]) == {"timed apart"}
    assert set(table.texts["note"]) == {"timed apart"}
    assert "ratio" not in table.values
    full = timed_rows("full-rate", 0.1, 0.1, setting=0.0, sitting="monday")
    assert ratios.overhead(ratios.timed([*rows, *full])).notes == (
        "lit at 0.5 and full-rate: timed apart, never in one sitting.",
    )


# What is said and written


def test_a_run_is_told_in_the_terminal_and_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "220")
    rows = (
        timed_rows("search", 0.9, 0.3) + timed_rows("lit", 0.1, 0.2) + timed_rows("full-rate", 0.1, 0.18, setting=0.0)
    )
    rows += [r.model_copy(update={"alias": "lit (again)", "key": f"{r.key}b"}) for r in timed_rows("lit", 0.1, 0.2)]
    here = fingerprint()
    speed_report.say(rows, [], [], {"here": here, "there": {**here, "threads": {"torch threads": 99}}})
    said = capsys.readouterr().out
    for text in (
        "end to end", "encode side", "machine: ", "threads: torch threads", "hardware: same",
        "End to end: noise floor 1.", "one method timed against itself differs by up to this.", "Paired speed-ups.",
        "warnings", "the median is known not at all",
    ):  # fmt: skip
        assert text in said, text

    files = speed_report.write(rows, [], [], {"here": here}, tmp_path)
    assert {p.name for p in files} == {
        "rows.csv", "rows.environment.json", "speed-times.csv", "speed-times.md", "speed-ups.csv", "speed-ups.md",
        "speed-overhead.csv", "speed-overhead.md", "warnings.md",
    }  # fmt: skip
    assert "| search" in (tmp_path / "speed-ups.md").read_text()
    assert "the median is known not at all" in (tmp_path / "warnings.md").read_text()
    assert not any(math.isnan(v) for v in ratios.speed_ups(ratios.timed(rows)).values["ratio"])


def test_tables_wider_than_the_terminal_are_told_line_by_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    rows = timed_rows("search", 0.9, 0.3) + timed_rows("lit", 0.1, 0.2)
    speed_report.say(rows, [], [], {"here": fingerprint()})
    said = " ".join(capsys.readouterr().out.split())
    assert "everywhere: at 17x64x64, float32, latency; time of search; over that of lit" in said
    assert "- method search; encode side 924 ms (910 ms - 938 ms); end to end" in said
    assert "search, lit, 6 of 6 timed points each: e.g. the median is known not at all" in said


def test_what_was_reached_at_a_level_is_written_beside_the_times(tmp_path):
    rows = timed_rows("search", 0.9, 0.3, setting=0.01) + timed_rows("lit", 0.1, 0.2)
    reached = [*counted_rows("lit", {0.5: (0.4, 20)}), *counted_rows("search", {0.01: (0.5, 20)})]
    speed_report.write(rows, reached, [("kept=0.4", {"lit": 0.5, "search": 0.01})], {}, tmp_path)
    again = ratios.timed(exchange.read(tmp_path / "rows.csv"))
    assert {g.name: g.kept for g in again} == {"lit": pytest.approx(0.4), "search": pytest.approx(0.5)}
