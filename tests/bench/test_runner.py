"""Plan, run, be killed, run again: no finished point is lost, none is repeated."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from avtbench.bench import runner
from avtbench.bench import spec as specs
from avtbench.bench.errors import UserError
from avtbench.bench.rows import Status
from avtbench.bench.spec import MethodSpec
from avtbench.bench.store import Store, StoreError
from avtbench.datasets.contract import ClipError
from avtbench.methods.contract import ContractError
from avtbench.methods.stages import counting as evaluation_counter


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


def bare(row):
    """A row without what differs from run to run by nature."""
    return row.model_copy(update={"seconds": 0.0, "environment": ""})


def counting(toy: str, log) -> str:
    """The toy method, with a line written to ``log`` for every encode and select."""
    note = f'open({str(log)!r}, "a").write'
    return toy.replace("return video.float()", f'{note}("encode\\n")\n            return video.float()').replace(
        "moved =", f'{note}(f"select {{float(z[0].sum()):.3f}} {{setting}}\\n")\n            moved ='
    )


def test_a_sweep_encodes_every_clip_once_and_says_where_its_time_went(store, write, toy, tiny_run):
    """10 thresholds on 3 clips: 3 evaluations of the encoder, 30 of the decoder, by the counter itself."""
    networks = toy.replace("return video.float()", 'self.count("encoder")\n            return video.float()').replace(
        "frames, height, width =", 'self.count("decoder")\n            frames, height, width ='
    )
    path = write("counted.py", networks)
    plan = runner.plan(tiny_run(f"method.toy.settings={list(range(10))}", toy=path))
    with evaluation_counter() as counter:
        outcome = runner.run(plan, store)

    assert outcome.finished == 30
    assert dict(counter) == {"encoder": 3, "decoder": 30}
    assert {tuple(row.evaluations.items()) for row in store.rows(outcome.run)} == {(("encoder", 1), ("decoder", 1))}
    assert set(outcome.spent) == {"model", "metrics", "reading", "harness"}
    assert sum(outcome.spent.values()) == pytest.approx(outcome.seconds, rel=0.05)
    assert outcome.shares().startswith("model ")


@pytest.mark.timing
def test_a_sweep_spends_its_time_in_model_and_metrics(tmp_path):
    """10 thresholds of LIT on 16 clips: reading and the harness itself take a twentieth at most, in most of 3 runs."""
    thresholds = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 1.6]
    base = specs.RunSpec(name="sweep", datasets=[{"name": "synthetic", "knobs": {"clips": 16}}], lpips=[], previews=0)
    plan = runner.plan(specs.override(base, ["lit"], sets=[f"method.lit.settings={thresholds}"]))
    shares = []
    for n in range(3):
        with Store(tmp_path / f"{n}.sqlite") as store:
            outcome = runner.run(plan, store)
        assert outcome.finished == 160
        shares.append((outcome.spent["reading"] + outcome.spent["harness"]) / outcome.seconds)
    assert sorted(shares)[1] <= 0.05, shares


def test_every_point_becomes_a_row(store, tiny_run):
    plan = runner.plan(tiny_run("dataset.number=2", "previews=1"))
    outcome = runner.run(plan, store)

    rows = store.rows(outcome.run)
    assert (outcome.planned, outcome.finished, outcome.failed) == (4, 4, {})
    assert [(r.clip, r.setting) for r in rows] == [("clip-0", 0), ("clip-0", 20), ("clip-1", 0), ("clip-1", 20)]
    first = rows[0]
    assert (first.method, first.parameters, first.frames, first.height) == ("toy", {"gain": 1.0}, 5, 32)
    assert first.rate.kept == 3  # frames 1 and 3 stand still
    assert first.quality.frame_sse == [0] * 5
    assert first.motion == pytest.approx(20, abs=10)
    assert first.environment in store.environments(rows)
    assert len(store.previews(outcome.run)) == 2  # both settings of the first clip
    assert store.previews(outcome.run)[0].original.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("decoded", "reason"),
    [
        ("[held].half() * 20", ""),
        ('[held] * float("inf")', "ValueError: frame 0 of the reconstruction holds values that are not finite"),
    ],
)
def test_a_reconstruction_is_refused_where_a_value_is_not_finite_and_only_there(
    store, tiny_run, write, toy, decoded, reason
):
    """Finite values in half precision pass, even where their sum is beyond what half precision holds."""
    outcome = runner.run(runner.plan(tiny_run(toy=write("other.py", toy, "[held]", decoded))), store)
    assert outcome.finished == outcome.planned
    assert [said.partition(";")[0] for said in outcome.failed] == ([reason] if reason else [])


def test_clips_of_the_same_pixels_are_points_of_their_own(store, tiny_run, write, tiny):
    spec = tiny_run("dataset.number=2")
    write("tiny.py", tiny, "int(ref.name[5:])", "0")
    outcome = runner.run(runner.plan(spec), store)
    rows = store.rows(outcome.run)
    assert [(r.clip, r.setting) for r in rows] == [("clip-0", 0), ("clip-0", 20), ("clip-1", 0), ("clip-1", 20)]
    assert len({r.clip_digest for r in rows}) == 1


def test_a_sweep_encodes_once_per_clip(store, tiny_run, write, toy, tmp_path):
    log = tmp_path / "log"
    runner.run(runner.plan(tiny_run(toy=write("counted.py", counting(toy, log)))), store)

    words = [line.split()[0] for line in log.read_text().splitlines()]
    assert (words.count("encode"), words.count("select")) == (3, 6)


def test_every_clip_is_read_once_and_the_next_one_beside_the_one_that_runs(store, tiny_run, write, tiny, tmp_path):
    log, spec = tmp_path / "log", tiny_run()
    told = f"open({str(log)!r}, 'a').write(f'{{ref.name}} {{threading.current_thread().name}}\\n')"
    write("tiny.py", tiny, "frames = np", f"import threading; {told}; frames = np")
    runner.run(runner.plan(spec), store)
    lines = [line.split(maxsplit=1) for line in log.read_text().splitlines()]
    assert sorted(name for name, _ in lines) == ["clip-0", "clip-1", "clip-2"]
    assert [name for name, thread in lines if thread == "MainThread"] == ["clip-0"]


def test_what_is_stored_is_not_run_again(store, tiny_run):
    spec = tiny_run()
    runner.run(runner.plan(spec), store)
    again = runner.run(runner.plan(spec), store)
    wider = runner.run(runner.plan(tiny_run("method.toy.settings=[0, 20, 40]")), store)
    fresh = runner.run(runner.plan(spec), store, fresh=True)

    assert (again.finished, again.known) == (0, 6)
    assert (wider.finished, wider.known) == (3, 6)
    assert (fresh.finished, fresh.known) == (6, 0)
    assert [r.setting for r in store.rows(wider.run)] == [0, 20, 40] * 3


def test_a_clip_that_cannot_be_read_is_a_failed_row_and_is_tried_again(store, tiny_run):
    outcome = runner.run(runner.plan(tiny_run("dataset.unreadable=clip-1")), store)

    rows = store.rows(outcome.run)
    failed = [r for r in rows if r.status is Status.FAILED]
    assert {(r.clip, r.setting) for r in failed} == {("clip-1", 0.0), ("clip-1", 20.0)}
    assert failed[0].reason == "clip-1: found no video stream, expected an mp4; download it again"
    assert len(rows) == 6
    assert outcome.summary() == "4 of 6 points, 2 failed"
    assert runner.run(runner.plan(tiny_run("dataset.unreadable=clip-1")), store).finished == 2


@pytest.mark.parametrize(
    ("old", "new", "status", "reason"),
    [
        ("moved =", "if setting: raise KeyError('lost')\n            moved =", "failed", "KeyError: 'lost'"),
        ("moved =", "if setting: raise MemoryError()\n            moved =", "out_of_memory", "MemoryError"),
        ("moved =", "if setting: torch.empty(2**60)\n            moved =", "out_of_memory", "RuntimeError: "),
        ("moved =", "if setting: return keep_it\n            moved =", "failed", "NameError: "),
        ("moved =", "if setting: return z\n            moved =", "failed", "toy: select gave Tensor, expected Tokens"),
        ("[held]", "[held] / (1 if len(held.unique()) > 1 else 0)", "failed", "ValueError: frame 0 of"),
        ("[held]", "[held][: 5 if len(held.unique()) > 1 else 4]", "failed", "toy: decode gave torch.float32 [4, 32"),
    ],
)
def test_a_point_that_fails_is_a_row_and_the_run_goes_on(store, tiny_run, write, toy, old, new, status, reason):
    plan = runner.plan(tiny_run("method.toy.settings=[0, 90]", toy=write("failing.py", toy, old, new)))
    outcome = runner.run(plan, store)

    rows = store.rows(outcome.run)
    assert [r.status.value for r in rows] == ["done", status] * 3
    assert all(r.reason.startswith(reason) and "\n" not in r.reason for r in rows[1::2])
    assert sum(outcome.failed.values()) == 3


def test_an_encode_that_fails_fails_each_setting_once(store, tiny_run, write, toy, tmp_path):
    broken = write(
        "broken.py", toy, "return video.float() / 255", f'open({str(tmp_path / "n")!r}, "a").write("x"); 1 / 0'
    )
    outcome = runner.run(runner.plan(tiny_run("dataset.limit=1", toy=broken)), store)

    assert outcome.failed == {"ZeroDivisionError: division by zero": 2}
    assert (tmp_path / "n").read_text() == "x"


def test_a_method_may_skip_and_random_weights_never_enter_a_quality_row(store, tiny_run, write, toy):
    skips = write(
        "skips.py", toy, "def encode", "def skip(self, video):\n            return 'too small'\n\n        def encode"
    )
    rows = store.rows(runner.run(runner.plan(tiny_run("dataset.limit=1", toy=skips)), store).run)
    assert {(r.status, r.reason) for r in rows} == {(Status.SKIPPED, "too small")}

    drawn = write("drawn.py", toy, 'weights = "none"', 'weights = "random"')
    rows = store.rows(runner.run(runner.plan(tiny_run("dataset.limit=1", toy=drawn)), store).run)
    assert {r.status for r in rows} == {Status.SKIPPED}
    assert "weights are random" in rows[0].reason


def test_what_is_wrong_with_the_plan_is_said_before_anything_runs(tiny_run, write, toy, tmp_path):
    narrow = write(
        "narrow.py", toy, "def encode",
        "def check_setting(self, setting):\n            from avtbench.methods.contract import ContractError\n"
        "            if setting < 0: raise ContractError(f'toy: threshold is {setting}, expected >= 0')\n"
        "            return super().check_setting(setting)\n\n        def encode",
    )  # fmt: skip
    with pytest.raises(ContractError, match=r"threshold is -1.0, expected >= 0"):
        runner.plan(tiny_run("method.toy.settings=-1", toy=narrow))
    with pytest.raises(ClipError, match="holds no clip"):
        runner.plan(tiny_run("dataset.number=0"))
    with pytest.raises(UserError, match="has no default settings; give some: --set"):
        runner.plan(tiny_run(toy=write("bare.py", toy, "(0.0, 20.0)", "()")))
    with pytest.raises(UserError, match="method toy takes no tokenizer"):
        runner.plan(tiny_run("method.toy.tokenizer=embedded"))


def test_a_threshold_of_minus_one_and_of_infinity(store, tiny_run):
    outcome = runner.run(runner.plan(tiny_run("method.toy.settings=[-1, .inf]", "dataset.limit=1")), store)

    assert [(r.setting, r.rate.kept) for r in store.rows(outcome.run)] == [(-1.0, 5), (float("inf"), 1)]


def test_one_method_twice_under_two_names(store, tiny_run):
    spec = tiny_run("dataset.limit=1")
    toy = spec.methods[0].name
    twice = {"name": toy, "alias": "again"}
    pair = spec.model_validate({**spec.model_dump(), "methods": [toy, twice]})
    rows = store.rows(runner.run(runner.plan(pair), store).run)
    assert [r.alias for r in rows] == ["", "", "again", "again"]
    assert len({r.key for r in rows}) == 4

    variant = spec.model_validate({**spec.model_dump(), "methods": [toy, {**twice, "knobs": {"gain": 0.5}}]})
    rows = store.rows(runner.run(runner.plan(variant), store).run)
    assert [(r.alias, r.parameters["gain"]) for r in rows] == [("", 1.0), ("", 1.0), ("", 0.5), ("", 0.5)]


def test_the_speed_pass_follows_the_quality_pass(store, tiny_run):
    spec = tiny_run(
        "dataset.limit=1",
        "passes=[speed, quality]",
        "speed.budget=300",
        "speed.launches=1",
        "speed.rounds=2",
        "speed.twin=false",
        "method.toy.settings=0",
    )
    rows = store.rows(runner.run(runner.plan(spec), store).run)

    assert [r.pass_ for r in rows] == ["quality", "speed"]
    assert rows[1].timing.scenario == "latency"
    assert len(rows[1].timing.encode_side) >= 1
    assert runner.run(runner.plan(spec), store).known == 2


def test_the_estimate_comes_from_stored_rows(store, tiny_run):
    plan = runner.plan(tiny_run())
    assert runner.Estimate(plan, store.seconds()).remaining() == (0.0, ["toy"])

    runner.run(plan, store)
    seconds, unknown = runner.Estimate(plan, store.seconds()).remaining()
    assert unknown == []
    assert seconds > 0
    estimate = runner.Estimate(plan, store.seconds())
    estimate.drop(runner.stored(plan, store))
    assert estimate.remaining() == (0.0, [])


def test_what_changed_is_not_taken_for_stored(store, tiny_run, write, toy):
    runner.run(runner.plan(tiny_run(toy=write("1/toy.py", toy))), store)
    edited = write("2/toy.py", toy, "> setting", ">= setting")
    (run,) = store.runs()
    moved = runner.plan(tiny_run(toy=edited))
    store.begin(moved.spec.id, "test", {}, moved.slots)
    for slot, (key, _) in store.filled(run.id).items():
        store.link(moved.spec.id, slot, key)  # as if the file had been edited in place

    assert runner.stored(moved, store) == set()


@pytest.fixture
def start(tmp_path, tiny_run, write, toy):
    """A run in a process of its own, whose method takes a moment and logs what it does."""
    log = tmp_path / "log"
    slow = counting(toy, log).replace("moved =", "import time; time.sleep(0.05)\n            moved =", 1)
    spec = tiny_run("dataset.number=8", "method.toy.settings=[0, 10, 20]", toy=write("slow.py", slow))
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(spec.model_dump(mode="json")))
    store = tmp_path / "runs" / "store.sqlite"

    def run(workers: int = 0) -> subprocess.Popen:
        arguments = ["run", str(path), "--store", str(store), "--no-report", "--workers", str(workers)]
        return subprocess.Popen([sys.executable, "-m", "avtbench.bench", *arguments], stdout=subprocess.DEVNULL)

    return run, spec, store, log


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_takes_up_where_it_was(start, workers, tmp_path):
    run, spec, path, log = start
    process = run(workers)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (path.is_file() and _finished(path) >= 4):
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()

    with Store(path) as store:
        before = {row.key: row for row in store.rows(spec.id)}
        assert 4 <= len(before) < 24
        time.sleep(0.5)  # spawned workers notice that their parent is gone
        already = log.read_text().splitlines()
        outcome = runner.run(runner.plan(spec), store)
        rows = store.rows(spec.id)

    assert outcome.known == len(before)
    assert {row.key: row for row in rows}.items() >= before.items()  # as they were, seconds and all
    selects = [line for line in log.read_text().splitlines()[len(already) :] if line.startswith("select")]
    assert len(selects) == 24 - len(before)
    with Store(tmp_path / "unbroken.sqlite") as store:
        runner.run(runner.plan(spec), store)
        assert [bare(r) for r in store.rows(spec.id)] == [bare(r) for r in rows]


def _finished(path) -> int:
    try:
        with Store(path, create=False) as store:
            return len(store.finished())
    except StoreError:
        return 0


def test_a_run_measures_under_the_profile_it_names_and_each_gives_points_of_its_own(store, tiny_run):
    rows = {}
    for profile in ("tokenbench/1", "as-published-mp4/1", "tokenbench-uint8wrap/0"):
        outcome = runner.run(runner.plan(tiny_run(f"profile={profile}", "dataset.number=1")), store)
        assert (outcome.finished, outcome.known) == (2, 0)
        rows[profile] = store.rows(outcome.run)[0]

    assert {name: row.quality.profile for name, row in rows.items()} == {name: name for name in rows}
    in_memory, coded, _ = (row.quality for row in rows.values())
    assert (sum(in_memory.frame_sse), sum(in_memory.ceiling_sse)) == (0, 0)
    assert sum(coded.ceiling_sse) > 0  # noise does not survive the codec, and the table says how much of it


def test_the_noise_floor_is_measured_on_a_quick_family(write, toy, tiny_run):
    """A threshold or a bound where there is one, not the search that happens to come first."""

    def named(family):
        source = toy.replace('family = "threshold"', f'family = "{family}"').replace('"toy"', f'"{family}"')
        return MethodSpec(name=str(write(f"{family}.py", source)))

    def twin(*families):
        methods = [named(family) for family in families]
        plan = runner.plan(tiny_run("passes=speed").model_copy(update={"methods": methods}))
        return [entry.label for entry in plan.entries if entry.twin]

    assert twin("search", "router", "bound") == ["bound (again)"]
    assert twin("search", "bound", "threshold") == ["threshold (again)"]
    assert twin("search") == ["search (again)"]


@pytest.mark.parametrize("number", [2, 4, 5])
def test_the_twin_stands_at_a_setting_that_is_timed(tiny_run, number):
    plan = runner.plan(tiny_run("passes=speed", "method.toy.settings=[1,2,3,4,5]", f"speed.settings={number}"))
    timed = {plan.entries[job.entry].label: job.settings for job in plan.jobs}
    assert len(timed["toy"]) == number
    assert set(timed["toy (again)"]) <= set(timed["toy"])


def test_a_timed_point_belongs_to_those_that_it_was_timed_beside(tiny_run, write, toy):
    """Samples are pairs only within one sitting: a method timed beside others is not the point that it was alone."""
    spec = tiny_run("passes=[quality,speed]", "dataset.limit=1", "speed.twin=false", "speed.launches=1")
    other = MethodSpec(name=str(write("other.py", toy.replace('"toy"', '"other"'))))

    def keys(*methods):
        plan = runner.plan(spec.model_copy(update={"methods": list(methods)}))
        return {j.pass_: plan.bench.keys(j, "pixels") for j in plan.jobs if plan.entries[j.entry].label == "toy"}

    alone, beside = keys(spec.methods[0]), keys(other, spec.methods[0])
    assert alone["quality"] == beside["quality"]
    assert alone["speed"] != beside["speed"]
    assert beside["speed"] == keys(spec.methods[0], other)["speed"], "in any order"
