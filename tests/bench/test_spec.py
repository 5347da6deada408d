"""What to run is a small YAML file; whatever is wrong with it is said in one line."""

import math

import pytest

from avtbench.bench import spec as specs
from avtbench.bench.spec import SpecError


@pytest.mark.parametrize("name", specs.presets())
def test_every_preset_is_valid(name):
    spec = specs.load(name)

    assert spec.name == name
    assert spec.summary
    assert spec.view_of(spec.datasets[0]).frames in (9, 17, 33)


def test_a_short_file_says_it_all(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "methods: [hold, {name: lit, settings: [0.1, .inf], knobs: {reference: previous}}]\n"
        "datasets: [{name: davis, limit: 2, view: {size: 64}}]\ntokenizer: {name: embedded}\n"
    )
    spec = specs.load(str(path))

    assert spec.name == "mine"
    assert [m.name for m in spec.methods] == ["hold", "lit"]
    assert spec.methods[1].settings == [0.1, math.inf]
    assert spec.view_of(spec.datasets[0]).size == 64


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("datasets: [a]\nmethods: [{name: b, setting: 1}]", "methods[0]: no field setting; did you mean settings?"),
        ("datasets: [a]\nviews: 1", "no field views; did you mean view"),
        ("methods: [a]", "datasets is missing"),
        ("methdos: [a]", "no field methdos; did you mean methods?"),
        ("methods: [a]\ndatsets: [b]", "no field datsets; did you mean datasets"),
        ("datasets: [a]\nview: {size: 31}", "view.size: found 31, expected"),
        ("datasets: [a]\nview: {frames: 0}", "view.frames: found 0, expected"),
        ("datasets: [a]\nseed: x", "seed: found 'x', expected a valid integer"),
        ("datasets: [a, a]", "datasets: found a twice"),
        ("datasets: [a]\nmethods: [b, b]", "methods: found b twice, expected every name once; give one an alias"),
        ("datasets: [a]\nmethods: [{name: b, settings: [.nan]}]", "methods[0].settings"),
        ("datasets: [a]\nmethods: [{name: b, settings: [1, 1]}]", "methods[0].settings"),
        ("datasets: {", "line 1: not YAML"),
        ("datasets: [a]\nseed: 2026-13-45", ": not YAML: month must be in 1..12"),
        ("- a", "found list, expected fields"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(text)

    with pytest.raises(SpecError) as error:
        specs.load(str(path))

    assert str(path) in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_presets_and_unreadable_files():
    with pytest.raises(SpecError, match="no preset is called dmo; did you mean demo"):
        specs.load("dmo")
    with pytest.raises(SpecError, match=r"nowhere\.yaml cannot be read: No such file"):
        specs.load("nowhere.yaml")


def test_overrides_reach_every_corner():
    spec = specs.override(
        specs.load("demo"),
        methods=["lit", "hold"],
        sets=[
            "view.size=64",
            "seed=3",
            "passes=quality,speed",
            "tokenizer.weights=w.safetensors",
            "method.lit.settings=-1, inf",
            "method.lit.reference=previous",
            "method.hold.tokenizer.name=other",
            "dataset.synthetic.view.frames=9",
            "dataset.limit=2",
            "dataset.root=/data",
        ],
    )
    lit, hold = spec.methods

    assert (spec.view.size, spec.seed, spec.passes) == (64, 3, ["quality", "speed"])
    assert spec.tokenizer.knobs == {"weights": "w.safetensors"}
    assert lit.settings == [-1.0, math.inf]
    assert lit.knobs == {"reference": "previous"}
    assert hold.tokenizer.name == "other"
    assert spec.view_of(spec.datasets[0]).frames == 9
    assert (spec.datasets[0].limit, spec.datasets[0].knobs) == (2, {"clips": 6, "root": "/data"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method.lti.settings=1", "this run has no method lti; did you mean lit?"),
        ("method.settings=1", r"several methods \(lit, hold\); name one"),
        ("method.lit.settings=abc", r"methods\[0\].settings\[0\]: found 'abc', expected a valid number"),
        ("method.lit.settings=nan", "none of them nan"),
        ("veiw.size=64", "no such key; did you mean view?"),
        ("view.sise=64", "no such key; did you mean size"),
        ("sede=1", "no such key; did you mean seed?"),
        ("device=tpu", "device: found 'tpu', expected 'cpu', 'cuda' or 'auto'"),
        ("seed", "expected key=value"),
        ("seed=[", "is not a YAML value"),
        ("dataset.synthetic.view.size=3", "size: found 3, expected"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(text, said):
    with pytest.raises(SpecError, match=said):
        specs.override(specs.load("demo"), ["lit", "hold"], sets=[text])


def test_the_same_spec_is_the_same_run_and_another_is_another():
    demo = specs.load("demo")

    assert demo.id == specs.load("demo").id
    assert demo.id.startswith("demo-")
    assert specs.override(demo, sets=["seed=1"]).id != demo.id
