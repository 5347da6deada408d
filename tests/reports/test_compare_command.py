"""``avtbench compare`` and ``avtbench calibrate``: two methods at one level, from stored rows, or why not."""

import pytest

from avtbench.bench import cli
from avtbench.bench.store import Store


@pytest.fixture
def avtbench(capsys, make, tmp_path):
    """A stored run of eight clips and a command line that looks into it."""
    path = tmp_path / "store.sqlite"
    twin = [row.model_copy(update={"method": "twin", "key": f"twin-{row.key}"}) for row in make.sweep(["lit"])]
    save(path, "demo", make.sweep(["lit", "hold", "random"]) + twin)

    def call(*arguments):
        code = cli._main([*map(str, arguments), "--store", str(path)])
        said = capsys.readouterr()
        return code, (said.out if code == 0 else said.err)

    call.path = path
    return call


def save(path, name, rows):
    with Store(path) as store:
        store.begin(name, name, {}, [row.key for row in rows])
        for row in rows:
            store.put(name, row.key, row)


def test_at_a_matched_rate(avtbench):
    code, said = avtbench("compare", "lit", "hold", "--at", "kept=0.5")
    assert code == 0
    assert "at kept tokens = 0.5, PSNR of lit differs by +" in said
    assert "8 of 8 clips" in said


def test_at_a_matched_quality(avtbench):
    code, said = avtbench("compare", "lit", "hold", "--at", "psnr=28")
    assert code == 0
    assert "at PSNR = 28 dB, kept tokens of lit is 0." in said


def test_two_copies_of_one_method_differ_by_nothing(avtbench):
    assert "PSNR of lit differs by 0.00 dB [0.00, 0.00] from twin" in avtbench("compare", "lit", "twin")[1]


def test_settings_found_on_one_half_are_applied_to_the_other(avtbench, make):
    code, said = avtbench("compare", "lit", "hold", "--at", "kept=0.5", "--calibration", "half")
    assert code == 0
    assert "settings found on the calibration clips at kept tokens = 0.5: lit 0." in said
    assert "4 of 4 clips" in said
    assert "kept tokens of lit is" in said  # what the setting reaches on the other half is a result itself

    save(avtbench.path, "other", make.sweep(["lit", "hold"], clips=3, dataset="tokenbench"))
    code, said = avtbench("compare", "lit", "hold", "--run", "demo", "--calibration", "other")
    assert "8 of 8 clips" in said
    found = avtbench("calibrate", "lit", "--run", "other")[1].strip()
    assert f"lit {float(found):.4g}" in said


def test_a_calibrated_setting_meets_its_target(avtbench, make):
    code, said = avtbench("calibrate", "lit", "--target", "kept=0.5")
    assert code == 0
    assert 0.45 < float(said) < 0.55  # in the made-up world the setting is the dropped fraction
    assert avtbench("calibrate", "lit", "--target", "psnr=28")[0] == 0


def test_calibration_under_another_profile_is_refused(avtbench, make):
    other = [make.quality_row(m, s, c, profile="vidtok/1") for m in ("lit", "hold") for s in (0.4, 0.6) for c in (0, 1)]
    save(avtbench.path, "vidtok", [row.model_copy(update={"key": f"v-{row.key}"}) for row in other])
    code, said = avtbench("compare", "lit", "hold", "--run", "demo", "--calibration", "vidtok")
    assert code == 2
    assert "calibration and test: rows hold the metric profiles tokenbench/1 and vidtok/1" in said


def test_one_data_set_of_a_run_may_be_chosen(avtbench):
    assert avtbench("compare", "lit", "hold", "--dataset", "davis") == avtbench("compare", "lit", "hold")
    code, said = avtbench("compare", "lit", "hold", "--dataset", "davids")
    assert (code, said.count("\n")) == (2, 1)
    assert "no finished quality rows on davids; there are some on davis" in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["compare", "lit", "hold", "--at", "psnr=60"], "can both be read at PSNR = 60 dB on 0 of 8 clips"),
        (["compare", "lit", "nobody"], "no finished quality rows of 'nobody'"),
        (["compare", "lit", "hold", "--at", "much"], "the level is 'much', expected NAME=NUMBER"),
        (["calibrate", "lit", "--target", "psnr=60"], "swept settings reach PSNR"),
        (["calibrate", "lit", "--target", "tokens=3"], "the level is 'tokens=3', expected NAME=NUMBER"),
    ],
)
def test_refused_in_one_line_with_the_reason(avtbench, arguments, reason):
    code, said = avtbench(*arguments)
    assert code == 2
    assert reason in said
    assert said.count("\n") == 1
