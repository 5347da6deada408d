"""What ``--weights`` means: ``NAME=PATH`` gives a method or tokeniser its checkpoint, ``random`` is for timing alone.

``random`` goes to every network of the run that does not ship with the project, and forces the declared trace of the
methods that state one (class attribute ``declared_trace``, knob ``forced``), so that rate and search length are the
published ones whatever an untrained network would say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from avtbench.bench import plugins
from avtbench.bench.errors import UserError, did_you_mean
from avtbench.bench.plugins import Plugin

RANDOM = "random"


def give(content: dict[str, Any], given: Iterable[str]) -> None:
    """Write every ``--weights`` into the methods and tokenisers of a run; knobs that were set already stay.

    content: a run's fields as plain data, its methods a list of entries. Raises :class:`UserError` in one line.
    """
    for text in given:
        name, sign, path = text.partition("=")
        if text == RANDOM:
            _random(content)
        elif not sign or not path:
            raise UserError(f"--weights {text}: expected NAME=PATH, for example infotok=infotok_mse.pt, or random")
        elif not _named(content, name, path):
            raise UserError(f"--weights {text}: nothing of this run is called {name}; {_takers(content, name)}")


def _named(content: dict[str, Any], name: str, path: str) -> bool:
    found = False
    for tokenizer in _tokenizers(content):
        if tokenizer["name"] == name:
            tokenizer.setdefault("knobs", {})["weights"] = path
            found = True
    for entry in content["methods"]:
        knob = _weights_knob(plugins.get("method", entry["name"]))
        if name in (entry.get("alias"), entry["name"]) and knob:
            entry.setdefault("knobs", {})[knob] = path
            found = True
    return found


def _random(content: dict[str, Any]) -> None:
    for tokenizer in _tokenizers(content):
        if plugins.get("tokenizer", tokenizer["name"]).literals.get("needs_weights"):
            tokenizer.setdefault("knobs", {}).setdefault("weights", RANDOM)
    for entry in content["methods"]:
        plugin = plugins.get("method", entry["name"])
        base = entry.get("tokenizer") or content["tokenizer"]
        untrained = "tokenizer" in plugin.knobs and base.get("knobs", {}).get("weights") == RANDOM
        knob = _weights_knob(plugin)
        if not untrained and "tokenizer" in plugin.knobs:
            continue  # it stands on a tokeniser that ships with its networks
        knobs = entry.setdefault("knobs", {})
        if knob:
            knobs.setdefault(knob, RANDOM)
        if "forced" in plugin.knobs and "declared_trace" in plugin.literals:
            knobs.setdefault("forced", dict(plugin.literals["declared_trace"]))


def _tokenizers(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [content["tokenizer"], *(e["tokenizer"] for e in content["methods"] if e.get("tokenizer"))]


def _weights_knob(plugin: Plugin) -> str:
    """The knob that takes a checkpoint: ``weights``, or the one that ends so (``lit_weights``)."""
    return next((knob for knob in plugin.knobs if knob == "weights" or knob.endswith("_weights")), "")


def _takers(content: dict[str, Any], name: str) -> str:
    methods = [e for e in content["methods"] if _weights_knob(plugins.get("method", e["name"]))]
    return did_you_mean(
        name, {t["name"] for t in _tokenizers(content)} | {e.get("alias") or e["name"] for e in methods}
    )
