"""The command line as a user meets it: plain words, exit codes, no traceback."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from avtbench.bench import cli, devices, doctor, plugins
from avtbench.bench.errors import UserError


@pytest.fixture
def avtbench(capsys, monkeypatch, tmp_path):
    """``avtbench("ls")`` gives exit code, standard output and standard error; the current folder is a fresh one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = cli._main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def spec(tmp_path, tiny_run):
    """A spec file of the toy method on the tiny data set."""
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps({**tiny_run().model_dump(mode="json"), "name": "small"}))
    return path


def test_help_shows_the_verbs(avtbench):
    code, out, _ = avtbench("--help")

    assert code == 0
    for verb in ("ls", "run", "report", "export", "check", "doctor"):
        assert f" {verb} " in out
    assert "avtbench run" in out


def test_the_version_is_that_of_the_package(avtbench):
    assert avtbench("--version") == (0, f"avtbench {version('avtbench')}\n", "")


def test_ls_lists_everything_and_one_in_full(avtbench):
    code, out, _ = avtbench("ls")
    assert code == 0
    assert "synthetic" in out
    assert "tokenbench" in out

    code, out, _ = avtbench("ls", "synthetic")
    assert code == 0
    assert "clips=12" in out


def test_run_export_and_resume(avtbench, spec):
    code, out, _ = avtbench("run", spec, "--dry-run")
    assert code == 0
    assert "6 points, 0 stored; time unknown" in out

    code, out, err = avtbench("run", spec, "--no-report")
    assert (code, err) == (0, "")
    assert "6 of 6 points" in out

    code, out, _ = avtbench("run", spec, "--no-report", "--set", "method.toy.settings=[0, 20, 40]")
    assert "9 of 9 points, 6 stored before" in out
    code, out, _ = avtbench("run", spec, "--dry-run")
    assert "6 points, 6 stored: nothing to run" in out

    code, out, _ = avtbench("export", "--to", "rows.csv", "--to", "rows.parquet")
    assert code == 0
    assert out.splitlines()[0].startswith("rows.csv: 9 rows of run small-")
    code, out, _ = avtbench("import", "rows.csv", "--store", "other.sqlite")
    assert code == 0
    assert "9 rows, 9 of them new" in out
    code, out, _ = avtbench("export", "--runs")
    assert [line.split()[4:7] for line in out.splitlines()] == [["of", "6", "points,"], ["of", "9", "points,"]] or out


@pytest.mark.parametrize("method", ["elastictok-cv", "elastictok-fsq", "infotok"])
def test_a_method_without_its_weights_is_called_so_wherever_it_is_listed(avtbench, spec, method):
    lacks = f"needs weights: --set method.{method}.weights=PATH"
    plan = avtbench("run", spec, "-m", method, "--dry-run")[1]
    given = avtbench("run", spec, "-m", method, "--weights", "random", "--dry-run")[1]

    assert lacks in avtbench("ls", method)[1]
    assert f"skips {method}: {lacks}\n" in plan
    assert "needs weights" not in given
    assert doctor.examine(plugins.get("method", method)) == lacks


def test_a_plan_names_the_alias_that_takes_the_weights(avtbench, tmp_path):
    run = {"methods": [{"name": "infotok", "alias": "theirs"}], "datasets": ["synthetic"]}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    out = avtbench("run", "run.yaml", "--dry-run")[1]

    assert "skips theirs: needs weights: --set method.theirs.weights=PATH\n" in out
    assert avtbench("run", "run.yaml", "--dry-run", "--set", "method.theirs.weights=random")[0] == 0


def test_points_that_fail_end_in_exit_code_1_and_one_line(avtbench, spec):
    code, out, err = avtbench("run", spec, "--no-report", "--set", "dataset.tiny.unreadable=clip-1")

    assert code == 1
    assert "4 of 6 points, 2 failed" in out
    assert "2 failed: clip-1: found no video stream, expected an mp4; download it again" in out
    assert err == "avtbench: 2 of 6 points failed; the same command tries them again\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runn"], "No such command 'runn'"),
        (["run", "--wrokers", "2"], "No such option: --wrokers"),
        (["run", "dmo"], "no preset is called dmo; did you mean demo?"),
        (["run", "SPEC", "--set", "method.toy.settings=abc"], "found 'abc', expected a valid number"),
        (["run", "SPEC", "--set", "veiw.size=64"], "no such key; did you mean view?"),
        (["run", "SPEC", "--set", "method.toy.gian=1"], "method toy has no knob gian; did you mean gain?"),
        (["run", "SPEC", "--method", "tyo.py"], "method file tyo.py does not exist"),
        (["run", "SPEC", "--dataset", "sinthetic"], "no dataset is called sinthetic; did you mean synthetic?"),
        (["run", "SPEC", "--store", "/proc/none/store.sqlite"], "cannot be opened or written"),
        (["run", "SPEC", "--store", "SPEC"], "is not an avtbench store"),
        (["export"], "does not exist; expected a store written by: avtbench run"),
        (["report"], "or by: avtbench import FILE --store runs/avtbench.sqlite"),
        (["claims", "--store", "."], ". is a folder; expected an SQLite file, such as avtbench.sqlite"),
        (["report", "--store", "nowhere.sqlite"], "does not exist; expected a store"),
        (["check", "nowhere.py"], "does not exist; expected a Python file"),
        (["ls", "synthetik"], "nothing is called synthetik; did you mean synthetic?"),
        (["check", "hold", "--set", "x=[1"], "--set x: '[1' is not a YAML value; quote it to give it as text"),
        (["check", "hold", "--set", "=1"], "--set =1: expected KNOB=value or tokenizer.KNOB=value"),
        (["stream", "lit", "film.mp4", "--set", "x=[1"], "--set x: '[1' is not a YAML value"),
        (["train", "lit", "--data", "v", "--out", "o", "--set", "x=[1"], "--set x: '[1' is not a YAML value"),
        (["run", "--set", "seed=2026-13-45"], "--set seed: '2026-13-45' is not a YAML value"),
        (["claims", "--store", "nowhere.sqlite"], "nowhere.sqlite does not exist; expected a store"),
        (["claims", "lit-31x-elastictok-vc"], "there is no claim lit-31x-elastictok-vc; did you mean lit-31x-elast"),
        (["claims", "lit-13x"], ", … see avtbench claims\n"),
        (["run", "SPEC", "--method", "zzz"], ", … see avtbench ls\n"),
        (["ls", "zzz"], ", … see avtbench ls\n"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_code_2(avtbench, spec, arguments, said):
    code, _, err = avtbench(*[str(spec) if a == "SPEC" else a for a in arguments])

    assert code == 2
    assert said in err
    assert err.startswith("avtbench: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cudaa", "found cudaa, expected cpu, cuda or cuda:N"),
        ("mps", "found mps, expected cpu, cuda or cuda:N"),
        ("cuda", "found cuda, but torch sees no CUDA device; use "),
        ("cuda:1", "found cuda:1, but torch sees no CUDA device; use "),
    ],
)
def test_a_device_that_is_not_there_is_told_before_anything_is_read(avtbench, monkeypatch, device, said):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in ("stream lit film.mp4", "seams lit --data v", "train lit --data v --out o",
                    "train tokenizer --data v --out o", "train statistics --data v --out o.json"):  # fmt: skip
        code, _, err = avtbench(*command.split(), "--device", device)
        assert (code, err.count("\n")) == (2, 1)
        assert f"avtbench: --device: {said}" in err
    if device == "cuda":
        assert f"device: {said}--set device=cpu" in avtbench("run", "--set", "device=cuda", "--dry-run")[2]


def test_one_of_the_devices_that_are_there_is_taken(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [devices.given(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    with pytest.raises(UserError, match=r"found cuda:2, but torch sees cuda:0, cuda:1; use"):
        devices.given("cuda:2")


def test_a_claim_is_named_by_how_its_id_begins_and_needs_no_store(avtbench):
    code, out, err = avtbench("claims", "lit-31x")

    assert (code, err) == (0, "")
    assert out.startswith("lit-31x-elastictok-cv: not testable here.")
    assert out.endswith("0 stored rows: 1 not testable here\n")


def test_claims_whose_ids_begin_so_are_all_judged(avtbench):
    code, out, err = avtbench("claims", "lit-", "lit-31x")

    assert (code, err) == (0, "")
    assert [line.partition(":")[0] for line in out.splitlines() if line.startswith("lit-")] == [
        "lit-31x-elastictok-cv", "lit-2x-infotok"
    ]  # fmt: skip
    assert out.endswith("0 stored rows: 2 not testable here\n")


def test_export_says_where_it_cannot_write(avtbench, spec, tmp_path):
    avtbench("run", spec, "--no-report")

    assert "found .txt, expected .csv or .parquet" in avtbench("export", "--to", "rows.txt")[2]
    assert "cannot be written" in avtbench("export", "--to", "/proc/none/rows.csv")[2]
    assert "--to b.json: found .json, expected" in avtbench("export", "--to", "a.csv", "--to", "b.json")[2]
    assert not (tmp_path / "a.csv").exists()
    assert "holds no run bmall; did you mean small" in avtbench("export", "bmall")[2]


def test_calibration_says_where_a_method_has_one_setting(avtbench, spec):
    avtbench("run", spec, "--no-report", "--set", "method.toy.settings=0")
    code, _, err = avtbench("calibrate", "toy", "--target", "kept=0.01")

    assert (code, err.count("\n")) == (2, 1)
    assert "toy has one setting in this run, which does not meet kept=0.01; sweep several, where it has" in err
    avtbench("run", spec, "--no-report")
    assert "toy: swept settings reach kept tokens" in avtbench("calibrate", "toy", "--target", "kept=0.01")[2]


def test_check_proves_a_file(avtbench, write, toy):
    code, out, err = avtbench("check", write("bad.py", toy, "(0.0, 20.0)", "(20.0, 0.0)"), "--set", "gain=0.5")

    assert (code, err) == (1, "avtbench: 1 checks failed\n")
    assert "holds   decodes in a fresh process" in out
    assert "broken  declares itself" in out


def test_doctor_tells_what_is_there_and_what_is_not(avtbench):
    code, out, _ = avtbench("doctor")

    assert code == 0
    assert "torch threads" in out
    assert "expected the folder" in out or "there is no folder" in out  # davis and tokenbench are not here


def test_the_module_runs_like_the_script():
    done = subprocess.run([sys.executable, "-m", "avtbench.bench", "nope"], capture_output=True, text=True)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
