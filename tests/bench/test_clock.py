"""The clock: a tree of stages with what no stage explains as a leaf of its own."""

import mmap
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from avtbench.bench.timing.clock import (
    FlopListener,
    PeakListener,
    StageClock,
    peak_bytes,
    reset_peak,
    stage_costs,
    synchroniser,
    tree_order,
    with_unattributed,
)
from avtbench.methods.stages import counting, evaluated, listening, stage


class HandClock:
    """A clock that moves only when told, in milliseconds; read in nanoseconds."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, milliseconds: float) -> None:
        self.now += int(milliseconds * 1e6)


def test_repeated_and_nested_stages_add_up():
    hand = HandClock()
    with counting() as counter, listening(clock := StageClock(torch.device("cpu"), hand, counter)):
        with stage("select"):
            for _ in range(3):
                with stage("probe"):
                    evaluated("encoder")
                    hand.pass_ms(2)
                hand.pass_ms(1)
        with stage("decode"):
            evaluated("decoder", 2)
            hand.pass_ms(5)
    assert clock.seconds() == pytest.approx({"select": 0.009, "select/probe": 0.006, "decode": 0.005})
    assert clock.evaluated() == {
        "select": {"encoder": 3},
        "select/probe": {"encoder": 3},
        "decode": {"decoder": 2},
    }


def test_time_in_no_stage_is_a_leaf_of_its_parent():
    stages = {"select": 9.0, "select/probe": 6.0, "decode": 5.0}
    assert with_unattributed(stages, total=16.0) == pytest.approx(
        {"select": 9.0, "select/probe": 6.0, "select/unattributed": 3.0, "decode": 5.0, "unattributed": 2.0}
    )


def test_events_that_overlap_by_rounding_never_give_negative_time():
    assert with_unattributed({"encode": 1.0, "encode/net": 1.0000001}, total=1.0)["encode/unattributed"] == 0.0


def test_on_a_card_borders_are_events_on_the_current_stream_and_none_synchronises(monkeypatch):
    card, host = HandClock(), HandClock()

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            assert stream == "stream of cuda:0"
            self.at = card.now

        def elapsed_time(self, other):
            return (other.at - self.at) * 1e-6

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: pytest.fail("a border synchronised"))
    with listening(clock := StageClock(torch.device("cuda:0"), host)):
        with stage("select"), stage("probe"):
            card.pass_ms(2)
            host.pass_ms(100)
        with stage("decode"):
            card.pass_ms(5)
    assert clock.seconds() == pytest.approx({"select": 0.002, "select/probe": 0.002, "decode": 0.005})


def test_on_a_card_the_peak_is_what_torch_allocated(monkeypatch):
    allocated = [0]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: allocated[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: allocated.__setitem__(0, 0))
    with PeakListener(torch.device("cuda:0")) as listener, listening(listener):
        with stage("encode"):
            allocated[0] = 700
        with stage("decode"):
            allocated[0] = 300
    assert (listener.peak, listener.peaks) == (700, {"encode": 700, "decode": 300})
    allocated[0] = 900
    reset_peak(torch.device("cuda:0"))
    allocated[0] = 200
    assert peak_bytes(torch.device("cuda:0")) == 200


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_a_real_card_is_clocked_by_its_own_events():
    device = torch.device("cuda")
    x = torch.randn(4096, 4096, device=device)
    with listening(clock := StageClock(device)):
        with stage("encode"):
            y = x @ x
        synchroniser(device)()
    reset_peak(device)
    assert clock.seconds()["encode"] > 1e-5
    assert peak_bytes(device) >= x.nbytes + y.nbytes


def test_the_peak_of_a_process_is_since_it_was_reset():
    device = torch.device("cpu")
    with mmap.mmap(-1, 2**28) as block:  # goes back to the system at once, as what an allocator keeps would not
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        before = peak_bytes(device)
    reset_peak(device)
    if (after := peak_bytes(device)) is None or not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not reset the high-water mark of a process")
    assert before - after > 200 * 2**20


def test_a_stage_that_raises_is_closed():
    hand = HandClock()
    with listening(clock := StageClock(torch.device("cpu"), hand)):
        with suppress(ArithmeticError), stage("search"), stage("probe"):
            hand.pass_ms(1)
            raise ArithmeticError("no convergence")
        with stage("decode"):
            hand.pass_ms(1)
    assert clock.seconds() == pytest.approx({"search": 0.001, "search/probe": 0.001, "decode": 0.001})


def test_parents_come_directly_before_their_children_in_order_of_appearance():
    assert tree_order(["b", "b/y", "a", "b/x", "b/y/z"]) == ["b", "b/y", "b/y/z", "b/x", "a"]


def test_calls_are_joined_sample_by_sample_and_a_missing_stage_took_no_time():
    costs = stage_costs([{"a": 1.0}, {"a": 2.0, "a/b": 0.5}], {"a": {"net": 1}}, flops={"a": 10}, peaks={"a/b": 7})
    assert [(c.path, c.seconds, c.flops, c.peak_bytes, c.evaluations) for c in costs] == [
        ("a", [1.0, 2.0], 10, None, {"net": 1}),
        ("a/b", [0.0, 0.5], None, 7, {}),
    ]


def test_flops_go_to_every_open_stage():
    total = 0
    listener = FlopListener(lambda: total)
    with listening(listener):
        with stage("select"):
            total += 5
            with stage("probe"):
                total += 7
        with stage("decode"):
            total += 11
    assert listener.flops == Counter({"select": 12, "select/probe": 7, "decode": 11})


def test_peak_memory_is_charged_to_the_stage_that_needed_it():
    with PeakListener(torch.device("cpu")) as listener, listening(listener):
        with stage("small"):
            torch.ones(1)
        with stage("large"):
            block = torch.ones(16 * 2**20)
            del block
    assert listener.peaks["large"] - listener.peaks["small"] > 48 * 2**20
    assert listener.peak == listener.peaks["large"]
    assert not any(thread is listener._watcher for thread in threading.enumerate())


def test_a_device_without_a_clock_is_refused():
    with pytest.raises(ValueError, match="expected cpu or cuda"):
        synchroniser(torch.device("meta"))
