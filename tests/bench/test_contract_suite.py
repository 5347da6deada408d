"""What ``avtbench check`` proves, shown on methods that break one rule each."""

import io

import pytest
from rich.console import Console

from avtbench.bench.contract_suite import Broken, Factory, checks, report


def failing(factory) -> dict[str, str]:
    said = {}
    for name, check in checks(factory):
        try:
            check()
        except Exception as error:
            said[name] = str(error)
    return said


def test_a_good_method_holds(write, toy):
    assert failing(Factory(str(write("toy.py", toy)))) == {}


@pytest.mark.parametrize(
    ("old", "new", "check", "said"),
    [
        (
            "return video.float() / 255",
            "return video.div_(2).float() / 127.5",
            "inputs stay untouched",
            "encode changed the",
        ),
        ("moved =", "z *= 0.99\n            moved =", "inputs stay untouched", "it changed the latents"),
        ("* self.gain", "* torch.rand(1)", "same twice", "sends other values"),
        ("[held]", "[held].double()", "any size comes back", "torch.float64, expected float32"),
        ("[held]", "[held][..., :30, :]", "any size comes back", "decode gave [1, 32, 30, 3]"),
        ("[held]", "[held] * 9 - 4", "any size comes back", "expected about [0, 1]"),
        ("tuple(z.shape[:3])", "(len(z), 32, 32)", "tokens are counted", "Tokens.video is"),
        ("keep[:, None, None], tuple", "keep[None].flip(1), tuple", "tokens are counted", "keep has 2 axes, a mask of"),
        (
            "keep[:, None, None], tuple(z.shape[:3])",
            "keep[None].flip(1), tuple(z.shape[:3]), 'prefix'",
            "prefix masks are prefixes",
            "a row of keep is no run of True",
        ),
        (
            "moved = ",
            "self.last = getattr(self, 'last', 0) + 1; setting += self.last\n            moved = ",
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
    told = failing(Factory(str(path)))

    assert said in told[check], told


def test_the_report_is_a_table_and_a_count(write, toy):
    page = io.StringIO()
    failed = report(
        Factory(str(write("toy.py", toy, "(0.0, 20.0)", "(20.0, 0.0)"))), "toy", Console(file=page, width=120)
    )

    assert failed == 1
    assert "broken  declares itself" in page.getvalue()
    assert "holds   decodes in a fresh process" in page.getvalue()


def test_without_a_factory_a_fresh_process_cannot_be_tried(write, toy):
    factory = Factory(str(write("toy.py", toy)))
    told = dict(checks(lambda: factory()))
    with pytest.raises(Broken, match="needs a contract_suite.Factory"):
        told["decodes in a fresh process"]()
