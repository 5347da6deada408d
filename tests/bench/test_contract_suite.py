"""What ``avtbench check`` proves, shown on methods that break one rule each."""

import re
from pathlib import Path

import pytest

from avtbench.bench import plugins
from avtbench.bench.contract_suite import Broken, Factory, checks


def test_a_good_method_holds(write, toy):
    every = checks(Factory(str(write("toy.py", toy))))

    assert len(every) == 11
    for name, check in every:
        if name != "decodes in a fresh process":  # which the test of avtbench check shows
            check()


PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["methods/README.md", "tests/example_plugin/avtbench_every_other/method.py"])
def test_the_methods_that_show_how_to_write_one_hold(write, page):
    text = (PROJECT / page).read_text(encoding="utf-8")
    shown = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    path = write("every_other.py", shown.group(1) if shown else text)
    for name, check in checks(Factory(str(path))):
        if name != "decodes in a fresh process":
            check()
    assert plugins.get("method", str(path)).literals["setting_name"] == "n"


@pytest.mark.parametrize(
    ("old", "new", "check", "said"),
    [
        (
            "return video.float() / 255",
            "return video.bitwise_not_().float() / 255",
            "inputs stay untouched",
            "encode changed the",
        ),
        ("moved =", "z *= 0.99\n            moved =", "inputs stay untouched", "it changed the latents"),
        ("* self.gain", "* torch.rand(1)", "same twice", "sends other values"),
        ("[held]", "[held].double()", "any size comes back", "torch.float64, expected float32"),
        ("[held]", "[held][..., :30, :]", "any size comes back", "decode gave [1, 32, 30, 3]"),
        ("[held]", "[held] * 9 - 4", "any size comes back", "expected about [0, 1]"),
        ("tuple(z.shape[:3])", "(len(z) + 1, *z.shape[1:3])", "tokens are counted", "Tokens.video is"),
        ("keep[:, None, None], tuple", "keep[None].flip(1), tuple", "tokens are counted", "keep has 2 axes"),
        (
            "keep[:, None, None], tuple(z.shape[:3])",
            "keep[None].flip(1), tuple(z.shape[:3]), 'prefix'",
            "prefix masks are prefixes",
            "a row of keep is no run of True",
        ),
        (
            "keep = torch.cat",
            "copy = z.clone(); z.zero_(); z = copy\n            keep = torch.cat",
            "settings do not leak",
            "keeps other positions in a sweep",
        ),
        (
            "def select(self, z, setting):",
            "def select(self, z, setting):\n            self.peeked = z",
            "decodes in a fresh process",
            "no attribute 'peeked'",
        ),
        (
            "def encode",
            "def check_setting(self, setting):\n            return setting\n\n        def encode",
            "bad settings are refused",
            "setting 'abc' is accepted",
        ),
        (
            "moved =",
            "if setting < 0: raise IndexError('below')\n            moved =",
            "extreme settings work or are refused",
            "setting -1.0 raises IndexError: below",
        ),
        ('summary = "keeps a frame when it differs from the one before"', "", "declares itself", "summary is empty"),
        ("(0.0, 20.0)", "(20.0, 0.0)", "declares itself", "from low to high"),
    ],
)
def test_a_method_that_breaks_a_rule_is_found_out(write, toy, old, new, check, said):
    path = write("toy.py", toy, old, new)
    if "peeked" in new:
        path.write_text(path.read_text().replace("[held]", "[held] * 0 + self.peeked"))

    with pytest.raises(Broken, match=re.escape(said)):
        dict(checks(Factory(str(path))))[check]()


def test_without_a_factory_a_fresh_process_cannot_be_tried(write, toy):
    factory = Factory(str(write("toy.py", toy)))
    told = dict(checks(lambda: factory()))
    with pytest.raises(Broken, match=r"needs a contract_suite\.Factory"):
        told["decodes in a fresh process"]()
