"""What to run: a preset or a YAML file, validated, with ``--method``, ``--dataset`` and ``--set`` on top.

Every error is one line: the file, the field, what was found and what was expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from avtbench.bench import durations
from avtbench.bench.errors import UserError, did_you_mean
from avtbench.bench.rows import Setting
from avtbench.datasets.contract import View

PRESETS = Path(__file__).parent / "presets"


class SpecError(UserError):
    """A preset, a spec file or an override is not right."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _named(value: Any) -> Any:
    """``lit`` is short for ``{name: lit}``."""
    return {"name": value} if isinstance(value, str) else value


def _list(value: Any) -> Any:
    """``0.1`` and ``"0.1, 0.2"`` are short for lists."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, (int, float)) else value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


Settings = Annotated[list[Annotated[Setting, BeforeValidator(_number)]], BeforeValidator(_list)]
Names = Annotated[list[str], BeforeValidator(_list)]
Levels = list[tuple[str, dict[str, float]]]
"""Levels, such as ``kept=0.5``, each with the setting of every method there."""


def _plugin_name(kind: str, given: str) -> str:
    """The name that a file gives its plugin; the file's own name where it does not say."""
    if ".py" not in given:
        return given
    from avtbench.bench import plugins

    try:
        return plugins.get(kind, given).name
    except plugins.PluginError:
        return Path(given.partition(".py")[0]).name


class ViewSpec(_Strict):
    """How clips are cut from videos; see :class:`avtbench.datasets.contract.View`."""

    size: int | None = Field(default=128, ge=32, multiple_of=2)
    frames: int | None = Field(default=17, ge=1)
    start: int = Field(default=0, ge=0)
    stride: int = Field(default=1, ge=1)

    def view(self) -> View:
        return View(**self.model_dump())


class SpeedSpec(_Strict):
    """How the speed pass measures; see :class:`avtbench.bench.timing.speed.Plan`."""

    scenario: Literal["latency", "throughput", "stream", "cold"] = "latency"
    budget: Annotated[float, BeforeValidator(durations.seconds)] = Field(default=600.0, gt=0)
    """Seconds for the whole pass; ``10m`` and ``90s`` are understood."""
    launches: int = Field(default=3, ge=1)
    """Fresh processes per configuration."""
    settings: int | None = Field(default=None, ge=1)
    """Settings timed of every method, evenly spread over those of the sweep; None times all."""
    clips: int | None = Field(default=None, ge=1)
    """Only the first so many clips of every data set."""
    rounds: int = Field(default=50, ge=1)
    """At most, per launch."""
    warmup: Annotated[float, BeforeValidator(durations.seconds)] = Field(default=10.0, ge=0)
    """Seconds of warm-up calls at most, per process and clip size; 0 makes none, for calls of minutes."""
    resident: int = Field(default=12, ge=1)
    """Processes alive at once, each with its method in memory: lower it where they do not fit. More configurations than
    this are timed group after group, and not compared across groups."""
    threads: int | None = Field(default=None, ge=1)
    """Torch threads of every process; None leaves the default."""
    twin: bool = True
    """Time one method, of the quickest family, a second time under another name: the noise floor."""
    match: Names = Field(default_factory=list)
    """Levels at which methods are timed, e.g. ``kept=0.5``, ``psnr=30``, or ``psnr`` for the middle of what all reach;
    the settings are found on the quality rows of the same clips. Empty times the settings as they are."""
    levels: Levels = Field(default_factory=list)
    """What ``match`` came to: every level with the setting of each method there. ``avtbench speed`` fills it in."""


class TokenizerSpec(_Strict):
    """The frozen tokeniser under every method that takes one."""

    name: str = "embedded"
    knobs: dict[str, Any] = Field(default_factory=dict)


class MethodSpec(_Strict):
    """One method of a run: its name or ``path/to/file.py``, its knobs and the settings to sweep."""

    name: str
    alias: str = Field(default="", pattern=r"^[\w.-]*$")
    """Name in this run, where one method runs twice."""
    settings: Settings | None = None
    """None: the method's own default settings."""
    tokenizer: Annotated[TokenizerSpec, BeforeValidator(_named)] | None = None
    """None: the run's."""
    knobs: dict[str, Any] = Field(default_factory=dict)

    @property
    def plain(self) -> str:
        """The method's own name."""
        return _plugin_name("method", self.name)

    @property
    def label(self) -> str:
        return self.alias or self.plain

    @field_validator("settings")
    @classmethod
    def _settings(cls, value: list[float] | None) -> list[float] | None:
        if value is not None:
            if not value or any(math.isnan(v) for v in value):
                raise ValueError("expected at least one number, none of them nan")
            if len(set(value)) < len(value):
                raise ValueError("expected every setting once")
        return value


class DatasetSpec(_Strict):
    """One data set of a run: its name or ``path/to/file.py``, its knobs, how many clips and the view of them."""

    name: str
    knobs: dict[str, Any] = Field(default_factory=dict)
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many clips."""
    view: dict[str, int | None] = Field(default_factory=dict)
    """Overrides of the run's view."""

    @property
    def label(self) -> str:
        return _plugin_name("dataset", self.name)


class RunSpec(_Strict):
    """A whole run. ``methods: shared`` stands for every method of the shared tier that can run here."""

    name: str = Field(default="run", pattern=r"^[\w.-]+$")
    summary: str = ""
    methods: list[Annotated[MethodSpec, BeforeValidator(_named)]] | Literal["shared"] = "shared"
    datasets: list[Annotated[DatasetSpec, BeforeValidator(_named)]] = Field(min_length=1)
    tokenizer: Annotated[TokenizerSpec, BeforeValidator(_named)] = TokenizerSpec()
    view: ViewSpec = ViewSpec()
    passes: Annotated[list[Literal["quality", "speed"]], BeforeValidator(_list)] = ["quality"]
    lpips: Annotated[list[Literal["vgg", "alex", "squeeze"]], BeforeValidator(_list)] = ["squeeze"]
    profile: Literal["tokenbench/1", "as-published-mp4/1", "tokenbench-uint8wrap/0"] = "tokenbench/1"
    """How quality is measured: on frames in memory, through mp4 as published tables often did, or in uint8 arithmetic
    that wraps, for the claims ledger alone (no report shows it: ``--no-report``). One for the whole run, since two
    never share a table; see :mod:`avtbench.bench.metrics.profiles`."""
    previews: int = Field(default=3, ge=0)
    """Clips of which pictures are kept for the report."""
    seed: int = Field(default=0, ge=0)
    device: Literal["cpu", "cuda", "auto"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    speed: SpeedSpec = SpeedSpec()

    @model_validator(mode="after")
    def _once(self) -> RunSpec:
        for field, entries in (("methods", self.methods), ("datasets", self.datasets)):
            labels = [] if isinstance(entries, str) else [entry.label for entry in entries]
            double = next((name for name in labels if labels.count(name) > 1), None)
            if double:
                mend = "give one an alias" if field == "methods" else "list it once"
                raise ValueError(f"{field}: found {double} twice, expected every name once; {mend}")
        for dataset in self.datasets:
            ViewSpec.model_validate({**self.view.model_dump(), **dataset.view})
        return self

    def view_of(self, dataset: DatasetSpec) -> View:
        return ViewSpec(**{**self.view.model_dump(), **dataset.view}).view()  # type: ignore[arg-type]

    @property
    def id(self) -> str:
        """The run's name with a digest of the whole spec: the same spec is the same run, so that it can resume."""
        content = json.dumps(self.model_dump(mode="json", exclude={"name", "summary"}), sort_keys=True)
        return f"{self.name}-{sha256(content.encode()).hexdigest()[:6]}"


def presets() -> dict[str, Path]:
    return {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}


def load(given: str) -> RunSpec:
    """A spec from a preset's name or a YAML file; raises :class:`SpecError` in one line."""
    path = Path(given)
    if path.suffix not in (".yaml", ".yml"):
        known = presets()
        if given not in known:
            raise SpecError(
                f"no preset is called {given}; {did_you_mean(given, known)}, or give a file ending in .yaml"
            )
        path = known[given]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            f"{path} cannot be read: {error.strerror}; expected a YAML file or a preset ({', '.join(presets())})"
        ) from None
    except UnicodeDecodeError:
        raise SpecError(f"{path} is not text; expected a YAML file") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter: a date that there is not
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise SpecError(f"{path}{at}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(content, dict):
        raise SpecError(f"{path}: found {type(content).__name__}, expected fields such as methods: and datasets:")
    content.setdefault("name", path.stem)
    return _validated(content, str(path))


def override(
    spec: RunSpec,
    methods: Iterable[str] = (),
    datasets: Iterable[str] = (),
    sets: Iterable[str] = (),
    tokenizer: str = "",
    weights: Iterable[str] = (),
) -> RunSpec:
    """``--method``, ``--dataset`` and ``--tokenizer`` choose (entries of the spec keep their settings), ``--set
    key=value`` changes, ``--weights`` fills in (see :mod:`avtbench.bench.weights_option`).

    Keys: any field (``seed``), ``view.FIELD``, ``speed.FIELD``, ``tokenizer.KNOB``, ``method.NAME.settings``,
    ``method.NAME.KNOB``, ``dataset.NAME.limit``, ``dataset.NAME.view.FIELD``, ``dataset.NAME.KNOB``. NAME may be left
    out where the run has one data set, or one method.
    """
    content = spec.model_dump(mode="json")
    if methods := list(methods):
        content["methods"] = _chosen(content["methods"], methods)
    if datasets := list(datasets):
        content["datasets"] = _chosen(content["datasets"], datasets)
    if tokenizer:
        content["tokenizer"] = {"name": tokenizer}
    for text in sets:
        _assign(content, *pair(text, "key=value, for example --set view.size=64"))
    if weights := list(weights):
        from avtbench.bench import weights_option

        _list_methods(content)
        weights_option.give(content, weights)
    return _validated(content, "--set") if sets else _validated(content, spec.name)


def pair(text: str, expected: str) -> tuple[str, Any]:
    """Key and value of one ``--set``, the value as YAML has it; raises :class:`SpecError` in one line."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise SpecError(f"--set {text}: expected {expected}")
    try:
        return key, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError):  # the latter: a date that there is not
        raise SpecError(f"--set {key}: {value!r} is not a YAML value; quote it to give it as text") from None


def knobs_of(sets: Iterable[str], tokenizer: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """``KNOB=value`` and ``tokenizer.KNOB=value`` -> knobs of a method, and name and knobs of its tokeniser."""
    knobs: dict[str, Any] = {}
    under: dict[str, Any] = {"name": tokenizer} if tokenizer else {}
    for text in sets:
        key, value = pair(text, "KNOB=value or tokenizer.KNOB=value")
        owner, knob = (under, key.removeprefix("tokenizer.")) if key.startswith("tokenizer.") else (knobs, key)
        owner[knob] = value
    return knobs, under


def _chosen(entries: Any, wanted: list[str]) -> list[Any]:
    known = {} if isinstance(entries, str) else {e["alias"] if e.get("alias") else e["name"]: e for e in entries}
    return [known.get(name, {"name": name}) for name in wanted]


def _assign(content: dict[str, Any], key: str, value: Any) -> None:
    head, *rest = key.split(".")
    if head in ("method", "dataset") and len(rest) == 1:
        rest = [_only(content, head, key), *rest]
    if head in ("method", "dataset") and len(rest) >= 2:
        entry = _entry(content, head, rest[0], key)
        fields = ("settings", "tokenizer", "alias") if head == "method" else ("limit", "view")
        name, *deeper = rest[1:]
        if name == "view" and deeper:
            entry.setdefault("view", {})[_field(ViewSpec, deeper[0], key)] = value
        elif name == "tokenizer" and deeper:
            entry["tokenizer"] = _tokenizer(entry.get("tokenizer") or content["tokenizer"], deeper[0], value)
        elif deeper:
            raise SpecError(f"--set {key}: expected {head}.NAME.KNOB, found {len(rest)} parts after {head}")
        elif name in fields:
            entry[name] = value
        else:
            entry.setdefault("knobs", {})[name] = value
    elif head == "tokenizer" and len(rest) == 1:
        content["tokenizer"] = _tokenizer(content["tokenizer"], rest[0], value)
    elif head == "view" and len(rest) == 1:
        content["view"][_field(ViewSpec, rest[0], key)] = value
    elif head == "speed" and len(rest) == 1:
        content["speed"][_field(SpeedSpec, rest[0], key)] = value
    elif rest:
        raise SpecError(
            f"--set {key}: no such key; {did_you_mean(head, ['view', 'speed', 'tokenizer', 'method', 'dataset'])}"
        )
    else:
        content[_field(RunSpec, head, key)] = value


def _tokenizer(entry: Any, knob: str, value: Any) -> dict[str, Any]:
    entry = dict(_named(entry))
    if knob == "name":
        return {"name": value}
    return {**entry, "knobs": {**entry.get("knobs", {}), knob: value}}


def _entry(content: dict[str, Any], head: str, name: str, key: str) -> dict[str, Any]:
    field = f"{head}s"
    _list_methods(content)
    content[field] = [_named(entry) for entry in content[field]]
    kind = MethodSpec if head == "method" else DatasetSpec
    labels = {kind(**entry).label: entry for entry in content[field]}  # type: ignore[attr-defined]
    if name not in labels:
        raise SpecError(f"--set {key}: this run has no {head} {name}; {did_you_mean(name, labels)}")
    return labels[name]


def _list_methods(content: dict[str, Any]) -> None:
    """Put the entries in place of ``shared``."""
    if content["methods"] == "shared":
        content["methods"] = [{"name": plugin.name} for plugin in shared()]
    content["methods"] = [_named(entry) for entry in content["methods"]]
    content["tokenizer"] = _named(content["tokenizer"])


def _only(content: dict[str, Any], head: str, key: str) -> str:
    entries = content[f"{head}s"]
    kind = MethodSpec if head == "method" else DatasetSpec
    labels = [] if isinstance(entries, str) else [kind(**_named(entry)).label for entry in entries]
    if len(labels) != 1:
        some = ", ".join(labels) or "many"
        raise SpecError(f"--set {key}: this run has several {head}s ({some}); name one: {head}.NAME.KNOB=VALUE")
    return labels[0]


def shared() -> list[Any]:
    """Methods of the shared tier that can run here."""
    from avtbench.bench import plugins

    return [p for p in plugins.find("method") if p.state == "ready" and p.literals.get("tier", "shared") == "shared"]


def _field(model: type[BaseModel], name: str, key: str) -> str:
    if name not in model.model_fields:
        raise SpecError(f"--set {key}: no such key; {did_you_mean(name, model.model_fields)}")
    return name


def _validated(content: dict[str, Any], source: str) -> RunSpec:
    try:
        return RunSpec.model_validate(content)
    except ValidationError as error:
        raise SpecError(f"{source}: {_said(error)}") from None


def _said(error: ValidationError) -> str:
    """The first error in words: field, found, expected. A field that there is not goes first: it may be meant for one
    that lacks."""
    first = max(error.errors(), key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    place = "".join(
        f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"] if str(p) in _PLACES or isinstance(p, int)
    )
    place = place.lstrip(".")
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        owner = _owner(first["loc"])
        where = f"{place}: " if place else ""
        return f"{where}no field {name}; {did_you_mean(name, owner.model_fields)}"
    if first["type"] == "missing":
        return f"{'.'.join(map(str, first['loc']))} is missing"
    said = first["msg"].removeprefix("Value error, ")
    if not place:
        return said
    said = said if "expected" in said else "expected " + said.removeprefix("Input should be ")
    return f"{place}: found {first['input']!r}, {said}"


_PLACES = {
    *RunSpec.model_fields, *MethodSpec.model_fields, *DatasetSpec.model_fields, *ViewSpec.model_fields,
    *SpeedSpec.model_fields,
}  # fmt: skip


def _owner(loc: tuple[int | str, ...]) -> type[BaseModel]:
    owners: dict[str, type[BaseModel]] = {
        "methods": MethodSpec,
        "datasets": DatasetSpec,
        "view": ViewSpec,
        "speed": SpeedSpec,
        "tokenizer": TokenizerSpec,
    }
    return next((owners[str(part)] for part in reversed(loc[:-1]) if str(part) in owners), RunSpec)
