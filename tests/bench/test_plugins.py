"""One file is a method; a broken one is listed with its reason."""

import subprocess
import sys
from pathlib import Path

import pytest

from avtbench.bench import plugins
from avtbench.bench.plugins import PluginError


def test_a_file_is_a_method(write, toy):
    plugin = plugins.get("method", str(write("toy.py", toy)))

    assert (plugin.name, plugin.state) == ("toy", "ready")
    assert plugin.literals["default_settings"] == (0.0, 20.0)
    assert plugin.knobs == {"gain": "1.0"}
    assert plugins.create("method", str(plugin.path), gain=2).gain == 2.0


def test_a_folder_is_searched_with_its_packages_and_indirect_bases(write, tmp_path, toy):
    write(
        "methods/common.py",
        "from avtbench.methods.contract import Method\nclass _Base(Method):\n    family = 'search'\n",
    )
    body = toy.replace("import Method, Tokens", "import Tokens").replace("class Toy(Method)", "class Toy(_Base)")
    body = body.replace("    import torch", "    import torch\n    from avtbench.methods.common import _Base", 1)
    write("methods/deep/er/toy.py", body.replace('family = "threshold"', ""))

    (plugin,) = plugins.find("method", tmp_path)

    assert (plugin.name, plugin.module) == ("toy", "avtbench.methods.deep.er.toy")
    assert plugin.literals["family"] == "search"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("def encode(self, video):", "def encode(self, video)", "syntax error: expected ':', line"),
        ('name = "toy"', "", 'class Toy has no literal name; add a line such as name = "my-method"'),
        ('name = "toy"', 'name = "to" + "y"', "class Toy has no literal name"),
        ('name = "toy"', 'name = "My Toy"', "name is 'My Toy', expected lower case letters"),
        ("(0.0, 20.0)", "[0.0]", "default_settings is [0.0], expected a tuple of numbers"),
        ('"threshold"', '"magic"', "family is 'magic', expected 'bound'"),
        ("def decode", "def dekode", "class Toy does not define decode"),
        (
            "import torch\n",
            "import torch, nowhere_to_be_found\n",
            "imports nowhere_to_be_found, which is not there: pip",
        ),
        ("import torch\n", "import torch\n    from avtbench.methods.gone import x\n", "imports avtbench.methods.gone"),
        (
            'summary = "',
            'requires = ("nvml_of_mars",)\n        summary = "',
            "needs nvml_of_mars: pip install nvml_of_mars",
        ),
    ],
)
def test_a_broken_file_is_listed_with_its_reason(write, tmp_path, old, new, reason, toy):
    write("methods/toy.py", toy, old, new)

    (plugin,) = plugins.find("method", tmp_path)

    assert plugin.state in ("broken", "missing")
    assert plugin.reason.startswith(reason)
    with pytest.raises(PluginError, match="cannot run"):
        plugins.get("method", str(write("road.py", toy, old, new)))


def test_a_missing_extra_is_mended_by_the_extra_that_brings_it():
    assert plugins.mend_missing("diffusers") == "pip install 'avtbench[diffusers]'"


def test_two_methods_of_one_name_are_told_apart(write, tmp_path, toy):
    write("methods/a.py", toy)
    write("methods/b.py", toy)

    first, second = plugins.find("method", tmp_path)

    assert first.state == "ready"
    assert second.reason.startswith("duplicate name: toy is already Toy in")


def test_what_only_importing_tells_is_one_line(write, toy):
    path = str(write("toy.py", toy + "\n    raise RuntimeError('no\\nluck')\n"))

    with pytest.raises(PluginError, match=r"importing .*toy.py failed: RuntimeError: no luck"):
        plugins.create("method", path)


def test_unknown_names_and_knobs_get_a_hint(write, toy, tiny):
    path = str(write("toy.py", toy))

    with pytest.raises(PluginError, match="no dataset is called sinthetic; did you mean synthetic"):
        plugins.get("dataset", "sinthetic")
    with pytest.raises(PluginError, match="method toy has no knob gian; did you mean gain"):
        plugins.create("method", path, gian=1)
    with pytest.raises(PluginError, match="method toy: knob gain is 'loud'; input should be a valid number"):
        plugins.create("method", path, gain="loud")
    with pytest.raises(PluginError, match="method toy takes no tokenizer"):
        plugins.create("method", path, tokenizer="embedded")
    with pytest.raises(PluginError, match="does not exist; expected a Python file"):
        plugins.get("method", "nowhere.py")
    with pytest.raises(PluginError, match="has no class deriving from Method"):
        plugins.get("method", str(write("tiny.py", tiny)))


def test_of_several_classes_in_a_file_one_is_chosen(write, toy):
    more = toy.replace("class Toy", "class Other").replace('"toy"', '"other"').partition("Tokens\n")[2]
    path = str(write("two.py", toy + more))

    with pytest.raises(PluginError, match="holds Toy, Other; choose one"):
        plugins.get("method", path)
    assert plugins.get("method", path + ":Other").name == "other"


def test_an_installed_package_brings_methods_by_entry_point(write, tmp_path, toy, monkeypatch):
    """The same checks on this road: the good one is created, the lost one listed."""
    write("foreign/__init__.py", "raise SystemExit('listing must not import')\n")
    write("foreign/toy.py", toy)
    write("lone_toy.py", toy, '"toy"', '"lone-toy"')
    write("foreign-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    write(
        "foreign-1.0.dist-info/entry_points.txt",
        "[avtbench.methods]\ntoy = foreign.toy:Toy\nlone = lone_toy\nlost = foreign.gone:Gone\nodd = foreign.toy:Odd\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    fresh = plugins.find.__wrapped__
    monkeypatch.setattr(plugins, "find", fresh)
    monkeypatch.setattr(plugins, "_installed", plugins._installed.__wrapped__)

    foreign = {p.name: (p.state, p.reason) for p in fresh("method") if p.origin == "entry point of foreign"}

    assert foreign == {
        "lone-toy": ("ready", ""),
        "lost": ("broken", "entry point lost: module foreign.gone is not there; reinstall the package"),
        "odd": ("broken", "no class Odd deriving from Method in toy.py"),
        "toy": ("ready", ""),
    }
    assert plugins.create("method", "lone-toy").name == "lone-toy"


def test_listing_imports_neither_torch_nor_the_plugins():
    code = (
        "import sys\n"
        "from avtbench.bench import cli\n"
        "cli._main(['ls'])\n"
        "print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "[]"
    assert "synthetic" in done.stdout


def test_every_file_of_the_floors_is_sound():
    listed = [p for kind in plugins.KINDS for p in plugins.find(kind)]

    assert [(p.name, p.reason) for p in listed if p.state == "broken"] == []
    assert {p.name for p in listed if p.kind == "dataset"} >= {"synthetic", "davis", "tokenbench", "folder"}
    assert all(Path(p.path).is_file() and p.summary for p in listed)
