"""``avtbench speed`` and the options that it shares with ``run``: what they mean, and what is said afterwards."""

import ast
import json
import math
import shlex
from types import SimpleNamespace

import pytest

from avtbench.bench import cli, durations, plugins, runner
from avtbench.bench import spec as specs
from avtbench.bench.commands import speed
from avtbench.bench.errors import UserError
from avtbench.bench.rows import Rate
from avtbench.reports import claims
from avtbench.reports.selectors import allows


@pytest.fixture
def avtbench(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")

    def call(*arguments):
        code = cli._main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("90s", 90), ("600", 600), (" 1.5 h", 5400), (40, 40), ("0", 0)]
)
def test_durations_are_read_as_people_write_them(text, seconds):
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "ten", "10 minutes", "-5s", "1m30s"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="such as 10m, 90s or 600"):
        durations.seconds(text)


def test_a_budget_may_be_given_in_minutes(avtbench):
    assert specs.override(specs.load("speed"), sets=["speed.budget=10m"]).speed.budget == 600
    code, _, err = avtbench("speed", "--budget", "soon", "--dry-run")
    assert (code, err.count("\n")) == (2, 1)
    assert "speed.budget: found 'soon', expected a duration such as 10m, 90s or 600" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--launches", "0"], "Invalid value for '--launches'"),
        (["--launches", "4", "--set", "speed.launches=2"], "--launches is given a second time by --set speed.launches"),
        (["--match", "psnr", "--set", "speed.match=kept=0.5"], "--match is given a second time by --set speed.match"),
        (["--set", "passes=quality"], "passes: found quality, expected speed among them; use avtbench run"),
    ],
)
def test_what_speed_cannot_do_or_is_told_twice_is_refused(avtbench, words, said):
    code, out, err = avtbench("speed", "-m", "lit", "--dry-run", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


# What is in memory together, and what is stored


def test_a_default_run_is_one_sitting(capsys):
    cli._print_groups(runner.plan(specs.load("speed")))
    assert capsys.readouterr().out == ""


def test_a_run_in_groups_says_so_and_how_to_mend_it(capsys):
    cli._print_groups(runner.plan(specs.override(specs.load("speed"), ["lit", "hold"], sets=["speed.resident=2"])))
    assert capsys.readouterr().out == (
        "3 configurations, 2 in memory at once: timed in 2 groups, and not compared across them; "
        "--set speed.resident=3 --fresh times all together, where memory allows\n"
    )


@pytest.mark.parametrize(
    ("passes", "values"),
    [("speed", ["0.2", "0.2"]), ("quality,speed", ["0.05 0.1 0.2 0.4 0.8", "0.2"])],
)
def test_a_plan_shows_the_settings_that_run(avtbench, passes, values):
    out = avtbench("run", "speed", "-m", "lit", "--set", f"passes={passes}", "--dry-run")[1]
    lines = [line for line in out.splitlines() if line.startswith("lit")]
    assert [line.split("threshold")[1].rsplit(maxsplit=1)[0].strip() for line in lines] == values


@pytest.mark.parametrize("fresh", [False, True])
def test_what_is_stored_is_timed_again_only_when_asked(avtbench, monkeypatch, fresh):
    given = {}
    monkeypatch.setattr(cli, "_start", lambda *arguments, **options: given.update(options))
    assert avtbench("speed", *["--fresh"] * fresh)[0] == 0
    assert given["fresh"] is fresh


# --match


def test_settings_come_closer_to_a_level_until_they_meet_it(monkeypatch, row, tmp_path):
    """Kept fractions fall along a curve that bends, so that a straight line between two of its points misses it."""
    bends, asked = {"lit": 1.0, "hold": 2.0}, []

    def kept(method, setting):
        return math.exp(-setting / bends[method])

    def start(wanted, out, path, show, **_):
        asked.append(wanted.name)
        bits = {"payload_bits": 1, "mask_bits": 1, "mask_bits_coded": 1}
        for entry in wanted.methods:
            for s in (0.0, 1.0, 3.0) if wanted.name == "speed-levels" else entry.settings:
                rate = Rate(kept=round(1e6 * kept(entry.name, s)), total=10**6, **bits)
                show([row(f"{entry.name}{s}", s).model_copy(update={"method": entry.name, "rate": rate})])

    monkeypatch.setattr(cli, "_start", start)
    wanted = specs.override(specs.load("speed"), ["lit", "hold"], sets=['speed.match=["kept=0.5"]'])
    ((text, settings),) = speed._levels(wanted, tmp_path, tmp_path / "s.sqlite", dry_run=False)
    assert text == "kept=0.5"
    for method in bends:
        assert kept(method, settings[method]) == pytest.approx(0.5, rel=0.01)
    assert asked == ["speed-levels", *["speed-reached"] * 3]


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("kep=0.5", "--match: the level is 'kep=0.5', expected NAME=NUMBER, e.g. kept=0.5 or psnr=30"),
        ("kept=abc", "--match: the level is 'kept=abc', expected NAME=NUMBER"),
        ("psnr=nan", "--match: the level is 'psnr=nan', expected NAME=NUMBER"),
        ("foo", "--match: the level is 'foo', expected NAME=NUMBER"),
        ("kept=1.5", "--match kept=1.5: expected a share of the tokens above 0, and 1 at most"),
        ("kept=-1", "--match kept=-1: expected a share of the tokens above 0, and 1 at most"),
        ("bpp=0", "--match bpp=0: expected bits per pixel above 0"),
    ],
)
def test_a_level_that_cannot_be_is_refused_before_anything_runs(avtbench, monkeypatch, level, said):
    ran = []
    monkeypatch.setattr(cli, "_start", lambda *arguments, **options: ran.append(arguments))
    for words in (["--match", "psnr", "--match", level], ["--set", f"speed.match=[psnr, {level}]"]):
        code, _, err = avtbench("speed", "-m", "lit", *words)
        assert (code, err.count("\n"), ran) == (2, 1, [])
        assert said in err


@pytest.mark.parametrize("preset", ["speed-shared", "speed-overhead"])
def test_levels_are_met_by_speed_alone_and_run_says_so(avtbench, preset):
    code, out, err = avtbench("run", preset, "--dry-run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"{preset}: found speed.match=" in err
    assert f"use avtbench speed {preset}, or time them as they are with --set speed.match=[]" in err
    for override in ("speed.match=[]", "passes=quality"):
        assert avtbench("run", preset, "-m", "hold", "--dry-run", "--set", override)[0] == 0


def test_variants_under_an_alias_cannot_be_matched_but_a_twin_can(avtbench, tmp_path):
    run = {"summary": "s", "methods": ["lit", {"name": "lit", "alias": "again"}], "datasets": ["synthetic"]}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    assert avtbench("speed", "run.yaml", "--match", "kept=0.5", "--dry-run")[0] == 0
    run["methods"][1]["knobs"] = {"reference": "previous"}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    code, _, err = avtbench("speed", "run.yaml", "--match", "kept=0.5", "--dry-run")
    assert (code, err.count("\n")) == (2, 1)
    assert "--match finds one setting for each method, and again is a variant under an alias" in err


# --weights


def given(weights, methods, tokenizer="", sets=()):
    spec = specs.override(specs.load("speed"), methods, sets=sets, tokenizer=tokenizer, weights=weights)
    return spec, {method.label: method.knobs for method in spec.methods}


def test_a_checkpoint_goes_to_the_method_or_tokeniser_of_that_name():
    spec, knobs = given(
        ["infotok=a.pt", "cosmos-cv8x8x8=b.jit", "lit=c.safetensors"], ["infotok", "lit"], "cosmos-cv8x8x8"
    )
    assert knobs == {"infotok": {"weights": "a.pt"}, "lit": {"lit_weights": "c.safetensors"}}
    assert spec.tokenizer.knobs == {"weights": "b.jit"}


def test_random_weights_come_with_the_declared_trace():
    spec, knobs = given(["random"], ["elastictok-cv", "infotok", "lit", "full-rate"], "cosmos-cv8x8x8")
    assert spec.tokenizer.knobs == {"weights": "random"}
    assert knobs == {
        "elastictok-cv": {"weights": "random", "forced": {"probes": 11, "kept": 1024}},
        "infotok": {"weights": "random"},
        "lit": {"lit_weights": "random", "forced": {"kept": 0.5}},
        "full-rate": {},
    }


def test_random_weights_leave_what_ships_with_the_project_and_what_was_given():
    spec, knobs = given(["random"], ["lit", "infotok"], sets=["method.infotok.weights=a.pt"])
    assert spec.tokenizer.knobs == {}
    assert knobs == {"lit": {}, "infotok": {"weights": "a.pt"}}


@pytest.mark.parametrize(
    ("weights", "said"),
    [("a.pt", "expected NAME=PATH"), ("infotk=a.pt", "nothing of this run is called infotk; did you mean infotok?")],
)
def test_weights_that_go_nowhere_are_refused(weights, said):
    with pytest.raises(UserError, match=said):
        given([weights], ["infotok"])


# Every command that the ledger prints


@pytest.fixture
def places(tmp_path):
    """Stands for every PATH of the ledger: an official DAVIS layout and a folder of videos in one."""
    (tmp_path / "JPEGImages" / "480p" / "bear").mkdir(parents=True)
    (tmp_path / "JPEGImages" / "480p" / "bear" / "00000.jpg").touch()
    (tmp_path / "ImageSets" / "2016").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2016" / "val.txt").write_text("bear\n")
    (tmp_path / "ImageSets" / "480p").mkdir()
    (tmp_path / "ImageSets" / "480p" / "val.txt").write_text("/JPEGImages/480p/bear/00000.jpg /x.png\n")
    (tmp_path / "clip.mp4").touch()
    return tmp_path


def commands(*verbs):
    parts = {part for claim in claims.load() for part in claim.command.split(" && ") if part}
    return sorted(part for part in parts if part.split()[1] in verbs)


def arguments(command, places):
    """What follows the program's name, with something in every place that the user has to fill in."""
    return shlex.split(command.replace("root=PATH", f"root={places}").replace("[A, B]", "[0.0042, 0.042]"))[1:]


def unbuilt(bench, wanted):
    """A method as far as its source tells, so that planning needs neither weights nor minutes."""
    plugin = plugins.get("method", wanted.name)
    assert set(wanted.knobs) <= set(plugin.knobs), f"{wanted.name} has no knobs {set(wanted.knobs) - set(plugin.knobs)}"
    told = wanted.tokenizer or bench.spec.tokenizer
    assert set(told.knobs) <= set(plugins.get("tokenizer", told.name).knobs)
    settings = plugin.literals["default_settings"]
    return SimpleNamespace(
        name=plugin.name, tier="shared", family="bound", weights="trained", setting_name="", parameters={},
        default_settings=settings, check_setting=float, tokenizer=None,
    )  # fmt: skip


@pytest.mark.parametrize("command", commands("run", "speed"))
def test_every_command_of_the_ledger_is_understood(command, avtbench, places, monkeypatch):
    monkeypatch.setattr(runner.Workbench, "create", unbuilt)
    code, out, err = avtbench(*arguments(command, places), "--dry-run")

    assert command.startswith("avtbench ")
    assert (code, err) == (0, "")
    assert "points, 0 stored; time unknown" in out


@pytest.mark.parametrize("command", commands("calibrate"))
def test_calibration_waits_for_rows_alone(command, avtbench, places):
    assert avtbench(*arguments(command, places))[2].startswith("avtbench: runs/avtbench.sqlite does not exist")


def test_the_ledger_prints_no_other_commands():
    assert commands("run", "speed", "calibrate") == sorted(
        {part for claim in claims.load() for part in claim.command.split(" && ") if part}
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", commands("run", "speed"))
def test_every_command_of_the_ledger_can_be_set_up(command, avtbench, places):
    """With the real methods; random weights stand for the checkpoints, which are not here."""
    code, _, err = avtbench(*arguments(command.replace("=PATH", "=random"), places), "--dry-run")

    assert (code, err) == (0, "")


# What a command measures is what its claim looks for


def fields(plan):
    """The fields of the rows that a plan will give, as far as it tells; several where a setting is swept."""
    for entry in plan.entries:
        knobs = {k: ast.literal_eval(v) for k, v in entry.plugin.knobs.items() if v} | entry.spec.knobs
        base = entry.spec.tokenizer or plan.spec.tokenizer if "tokenizer" in entry.plugin.knobs else None
        given = [*knobs.values(), *(base.knobs.values() if base else [])]
        told = {
            "method": [entry.plugin.name], "tier": [entry.plugin.literals.get("tier", "shared")],
            "tokenizer": [base.name if base else ""], "setting": entry.settings,
            "weights": ["random" if "random" in given else "trained"],
            **{f"parameters.{knob}": [value] for knob, value in knobs.items()},
        }  # fmt: skip
        told |= {f"parameters.forced.{k}": [v] for k, v in (knobs.get("forced") or {}).items()}
        if "speed" in plan.spec.passes:
            told |= {"timing.scenario": [plan.spec.speed.scenario], "timing.dtype": [plan.spec.dtype]}
        if "quality" in plan.spec.passes:
            told |= {"quality.profile": [plan.spec.profile]}
        for dataset in plan.spec.datasets:
            view = plan.spec.view_of(dataset)
            cut = {"frames": view.frames, "height": view.size, "width": view.size}
            cut = {name: [number] for name, number in cut.items() if number is not None}
            views = {"view.size": [view.size], "view.frames": [view.frames]}
            yield {**told, **cut, **views, "dataset": [dataset.label]}


def may_match(told, selector):
    """A configuration's size and the extent of clips that are taken as they are stand in no plan."""

    def silent(field):
        return field.startswith("parameters.config.") or field in ("frames", "height", "width")

    return all(
        any(allows(wanted, value) for value in told[field]) if field in told else silent(field)
        for field, wanted in selector.items()
    )


def looked_for(test):
    """(selectors of rows that one run has to give, whether they may come from two runs) for every reading of a test."""
    if test.kind == "speed_up":
        for reading in test.readings:
            apart = "timing.dtype" in reading.slow and "timing.dtype" in reading.fast
            yield [{**test.slow, **reading.slow}, {**test.fast, **reading.fast}], apart
    elif test.kind == "measure":
        yield from (([{**test.rows, **reading.rows}], False) for reading in test.readings)
    elif test.computation == "flops_explain_time":
        size = {"frames": test.inputs["frames"], "height": test.inputs["side"], "width": test.inputs["side"]}
        yield [{**test.inputs[end]["rows"], **size} for end in ("slow", "fast")], False
    elif test.computation == "search_evaluations":
        yield [{**test.inputs["counted"], "frames": test.inputs["frames"]}], False


@pytest.mark.parametrize("claim", [c for c in claims.load() if c.command], ids=lambda claim: claim.id)
def test_a_command_measures_what_its_claim_looks_for(claim, avtbench, places, monkeypatch):
    monkeypatch.setattr(runner.Workbench, "create", unbuilt)
    plans = []
    monkeypatch.setattr(cli, "_print_plan", lambda plan, *_: plans.append(plan))
    for part in claim.command.split(" && "):
        if part in commands("run", "speed"):
            avtbench(*arguments(part, places), "--dry-run")
    runs = [list(fields(plan)) for plan in plans]

    for selectors, apart in looked_for(claim.test):
        pools = [[told for run in runs for told in run]] if apart else runs
        assert any(all(any(may_match(told, s) for told in pool) for s in selectors) for pool in pools), selectors


def test_a_plan_that_misses_a_claim_is_told_from_one_that_meets_it(monkeypatch):
    monkeypatch.setattr(runner.Workbench, "create", unbuilt)
    plan = runner.plan(specs.override(specs.load("latency-table"), ["infotok"], sets=["dtype=bfloat16"]))
    meets = {
        "method": "infotok",
        "frames": 33,
        "timing.dtype": "bfloat16",
        "parameters.window": 33,
        "weights": "random",
    }
    assert any(may_match(told, meets) for told in fields(plan))
    for other in ({"frames": 17}, {"parameters.window": 17}, {"quality.profile": "tokenbench/1"}, {"tokenizer": "x"}):
        assert not any(may_match(told, meets | other) for told in fields(plan))
