"""The clock: a tree of stages with what no stage explains as a leaf of its own."""

import threading
from collections import Counter
from contextlib import suppress

import pytest
import torch

from avtbench.bench.timing.clock import (
    FlopListener,
    PeakListener,
    StageClock,
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
