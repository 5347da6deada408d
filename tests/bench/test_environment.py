"""The environment: recorded, hashed, and compared in five readable lines."""

import copy
import subprocess
import sys

import torch

from avtbench.bench import environment


def test_the_fingerprint_says_what_changes_a_number():
    record = environment.fingerprint()
    assert tuple(record) == environment.GROUPS
    assert record["hardware"]["cpu"]
    assert record["software"]["torch"] == torch.__version__
    assert record["threads"]["torch threads"] == torch.get_num_threads()
    assert {"TF32 matmul", "TF32 cudnn", "float32 matmul", "default dtype"} <= record["numerics"].keys()
    assert "OMP_WAIT_POLICY" in record["threads"]


def test_processors_of_one_name_are_told_apart(monkeypatch):
    cpuinfo = {"cpu family\t": "6", "model\t": "85", "stepping\t": "7"}
    monkeypatch.setattr(environment, "_first_line", lambda path, start="": cpuinfo.get(start))
    assert environment.fingerprint()["hardware"]["cpu model"] == "family 6, model 85, stepping 7"
    monkeypatch.setattr(environment, "_first_line", lambda path, start="": None)
    assert environment.fingerprint()["hardware"]["cpu model"] is None, "a system that does not say"


def test_records_from_before_processors_were_told_apart_still_compare():
    now = environment.fingerprint()
    before = {**now, "hardware": {k: v for k, v in now["hardware"].items() if k != "cpu model"}}
    assert len(environment.diff(before, now)) == 5


def test_it_is_stable_within_a_process_and_sensitive_to_a_flag():
    first = environment.digest(environment.fingerprint())
    assert environment.digest(environment.fingerprint()) == first
    torch.backends.cudnn.benchmark = True
    try:
        assert environment.digest(environment.fingerprint()) != first
    finally:
        torch.backends.cudnn.benchmark = False


def test_two_equal_environments_differ_in_five_lines_of_same():
    record = environment.fingerprint()
    assert environment.diff(record, copy.deepcopy(record)) == [f"{group}: same" for group in environment.GROUPS]


def test_a_difference_names_what_changed_from_what_to_what():
    here = {"hardware": {"gpu": "A100"}, "numerics": {"TF32 matmul": False, "float32 matmul": "highest"}}
    there = {"hardware": {"gpu": "H200", "ECC": True}, "numerics": {"TF32 matmul": True, "float32 matmul": "highest"}}
    assert environment.diff(here, there) == [
        "hardware: gpu A100 -> H200; ECC None -> True",
        "driver: same",
        "numerics: TF32 matmul False -> True",
        "threads: same",
        "software: same",
    ]


def test_the_headline_is_the_card_or_else_the_processor_with_its_threads():
    assert environment.headline({"hardware": {"gpu": "NVIDIA H200", "cpu": "Xeon"}}) == "NVIDIA H200"
    assert environment.headline({"hardware": {"cpu": "Xeon"}, "threads": {"torch threads": 1}}) == "Xeon, 1 thread"
    known = {"hardware": {"cpu": "Xeon"}, "numerics": {"cpu capability": "AVX512"}, "threads": {"torch threads": 2}}
    assert environment.headline(known) == "Xeon, AVX512, 2 threads"


def test_records_are_compared_without_torch():
    code = "import sys, avtbench.bench.environment, avtbench.bench.timing.statistics; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
