"""A key changes with everything that changes a result, and with nothing else."""

import math

import pytest

from avtbench.bench import identity
from avtbench.bench.store import Store


@pytest.fixture
def keys(tmp_path):
    """``keys(spec)`` runs a spec and gives the keys of its rows by setting."""
    from avtbench.bench import runner

    places = iter(range(100))

    def run(spec):
        with Store(tmp_path / f"{next(places)}.sqlite") as store:
            assert not runner.run(runner.plan(spec), store).failed
            return {row.setting: row.key for row in store.rows(spec.id)}

    return run


def test_the_same_content_gives_the_same_keys_wherever_it_lies(keys, tiny_run, write, toy):
    assert keys(tiny_run("dataset.limit=1")) == keys(tiny_run("dataset.limit=1", toy=write("elsewhere/toy.py", toy)))


@pytest.mark.parametrize("change", ["method.toy.gain=2", "seed=1", "view.size=64", "dataset.shift=1", "dtype=bfloat16"])
def test_knobs_seed_view_and_pixels_are_part_of_it(keys, tiny_run, change):
    before, after = keys(tiny_run("dataset.limit=1")), keys(tiny_run("dataset.limit=1", change))

    assert not set(before.values()) & set(after.values())


def test_a_changed_setting_runs_only_what_is_new(keys, tiny_run):
    before = keys(tiny_run("dataset.limit=1"))
    after = keys(tiny_run("dataset.limit=1", "method.toy.settings=[20, 30]"))

    assert after[20.0] == before[20.0]
    assert after[30.0] not in before.values()


def test_the_source_is_part_of_it_with_what_it_imports(keys, tiny_run, write, toy):
    plain = keys(tiny_run("dataset.limit=1"))
    edited = keys(tiny_run("dataset.limit=1", toy=write("edited/toy.py", toy, "> setting", ">= setting")))
    assert not set(plain.values()) & set(edited.values())

    package = {}
    for version in ("1", "2"):
        write(f"{version}/pack/__init__.py", "")
        write(f"{version}/pack/part.py", f"VALUE = {version}\n")
        package[version] = write(f"{version}/pack/toy.py", toy)
    assert identity.source_digest(package["1"]) != identity.source_digest(package["2"])


def test_two_methods_in_one_file_are_told_apart(keys, tiny_run, write, toy):
    path = write("two.py", toy + "\n\n    class Twin(Toy):\n        name = 'twin'\n")

    first, second = keys(tiny_run("dataset.limit=1", toy=f"{path}:Toy")), keys(tiny_run(toy=f"{path}:Twin"))
    assert not set(first.values()) & set(second.values())


def test_imports_are_followed_inside_the_floor(write, toy):
    path = write("toy.py", toy)

    assert {p.name for p in identity.sources(path)} == {"toy.py", "contract.py", "stages.py"}


def test_a_weight_file_counts_by_its_content(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"one")
    first = identity.with_files({"weights": str(weights), "depth": 3})
    weights.write_bytes(b"two!")
    second = identity.with_files({"weights": str(weights), "depth": 3})

    assert first.keys() == {"weights", "weights sha256", "depth"}
    assert identity.digest(first) != identity.digest(second)


def test_canonical_text():
    assert identity.canonical({"b": math.inf, "a": (1, 2.5)}) == '{"a":[1,2.5],"b":"inf"}'
    assert identity.digest(1.0) == identity.digest(1.0)
    assert identity.digest(0.1) != identity.digest(0.1 + 1e-12)
