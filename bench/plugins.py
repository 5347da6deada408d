"""The one registry of methods, tokenisers and data sets: found by reading source, imported only when used.

Three roads in, the same checks on all: a file below ``methods/`` or ``datasets/``; a path (``--method my/file.py``); an
entry point (``avtbench.methods``, ``avtbench.tokenizers``, ``avtbench.datasets``) of any installed package.
A plugin that cannot run is listed with its reason.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_type_hints

from avtbench.bench.errors import UserError, did_you_mean, one_line

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder that holds ``methods/`` and ``datasets/``."""

State = Literal["ready", "missing", "broken"]


class PluginError(UserError):
    """A plugin is unknown, broken or was asked for with knobs that it does not have."""


@dataclass(frozen=True)
class Kind:
    """What a plugin can be: where its files lie and which contract class it fulfils."""

    name: str
    floor: str
    contract: str
    base: str
    group: str


KINDS = {
    kind.name: kind
    for kind in (
        Kind("method", "methods", "avtbench.methods.contract", "Method", "avtbench.methods"),
        Kind("tokenizer", "methods", "avtbench.methods.tokenizers.contract", "FrozenTokenizer", "avtbench.tokenizers"),
        Kind("dataset", "datasets", "avtbench.datasets.contract", "VideoDataset", "avtbench.datasets"),
    )
}

KNOBS = {"tokenizer": {"statistics": "None"}}
"""Knobs that every plugin of a kind has, whatever its constructor takes: :func:`create` sees to them."""


@dataclass(frozen=True)
class Plugin:
    """What the source of a plugin says about it, without importing it."""

    kind: str
    name: str
    path: Path
    class_name: str
    module: str | None = None
    """Dotted name to import; None for a file given by path."""
    origin: str = "built in"
    literals: Mapping[str, Any] = field(default_factory=dict)
    """Class attributes with literal values, inherited ones included."""
    knobs: Mapping[str, str] = field(default_factory=dict)
    """Constructor keywords and their defaults, as written."""
    state: State = "ready"
    reason: str = ""

    @property
    def summary(self) -> str:
        return str(self.literals.get("summary", ""))

    def note(self, label: str = "") -> str:
        """Why it cannot run as it stands and what mends it; empty when it can. label: its name in a run."""
        if self.reason:
            return self.reason
        if self.literals.get("needs_weights"):
            knob = "tokenizer" if self.kind == "tokenizer" else f"{self.kind}.{label or self.name}"
            return f"needs weights: --set {knob}.weights=PATH"
        return ""


_CLASS = re.compile(r"^class\s+(\w+)\s*(?:\(([^)]*)\))?", re.MULTILINE)


@dataclass(frozen=True)
class _Class:
    """A class header found in a file, before the file is parsed."""

    name: str
    bases: tuple[str, ...]
    path: Path


@cache
def _headers(path: Path) -> list[_Class]:
    text = path.read_text(encoding="utf-8", errors="replace")
    found = []
    for match in _CLASS.finditer(text):
        bases = re.sub(r"\[.*?\]", "", match[2] or "").split(",")
        names = tuple(b.strip().rpartition(".")[2] for b in bases if b.strip() and "=" not in b)
        found.append(_Class(match[1], names, path))
    return found


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


class _Graph:
    """Which class derives from which, over the files of a floor (by name; the same file wins)."""

    def __init__(self, paths: Iterable[Path]):
        self.classes: dict[str, list[_Class]] = {}
        for path in paths:
            for header in _headers(path):
                self.classes.setdefault(header.name, []).append(header)

    def chain(self, header: _Class, seen: frozenset[tuple[str, Path]] = frozenset()) -> Iterator[_Class | str]:
        """The class itself, then its bases depth first; a base from elsewhere comes as its bare name."""
        if (header.name, header.path) in seen:
            return
        yield header
        for base in header.bases:
            known = self.classes.get(base, [])
            parent = next((c for c in known if c.path == header.path and c.name != header.name), None)
            parent = parent or next((c for c in known if c.path != header.path), None)
            if parent is None:
                yield base
            else:
                yield from self.chain(parent, seen | {(header.name, header.path)})

    def of(self, kind: Kind) -> Iterator[tuple[_Class, list[_Class]]]:
        """Classes that reach the contract of ``kind``, each with its line of descent without the contract itself."""
        for headers in self.classes.values():
            for header in headers:
                line = list(self.chain(header))
                names = {c if isinstance(c, str) else c.name for c in line[1:]}
                if kind.base in names:
                    yield header, [c for c in line if isinstance(c, _Class) and c.name != kind.base]


def _class_node(header: _Class) -> ast.ClassDef:
    return next(n for n in _tree(header.path).body if isinstance(n, ast.ClassDef) and n.name == header.name)


def _literals(node: ast.ClassDef) -> dict[str, Any]:
    found = {}
    for item in node.body:
        if isinstance(item, ast.Assign) and len(item.targets) == 1:
            target, value = item.targets[0], item.value
        elif isinstance(item, ast.AnnAssign) and item.value is not None:
            target, value = item.target, item.value
        else:
            continue
        if isinstance(target, ast.Name):
            try:
                found[target.id] = ast.literal_eval(value)
            except ValueError:
                found[target.id] = _infinite(value)
    return found


class _NotLiteral:
    """Stands for an attribute whose value only running the file would tell."""


NOT_LITERAL = _NotLiteral()


def _infinite(value: ast.expr) -> Any:
    """``float("inf")`` and ``math.inf``, alone or in a tuple: the only calls that settings need."""

    class Swap(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            return ast.Constant(float("inf")) if ast.unparse(node) in ("float('inf')",) else node

        def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
            return ast.Constant(float("inf")) if ast.unparse(node) in ("math.inf", "np.inf", "torch.inf") else node

    try:
        return ast.literal_eval(Swap().visit(ast.parse(ast.unparse(value), mode="eval")))
    except ValueError:
        return NOT_LITERAL


def _functions(node: ast.ClassDef, abstract: bool) -> set[str]:
    return {
        item.name
        for item in node.body
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
        and abstract == any("abstractmethod" in ast.unparse(d) for d in item.decorator_list)
    }


def _knobs(node: ast.ClassDef) -> dict[str, str] | None:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            a = item.args
            plain = [*a.posonlyargs, *a.args][1:]
            defaults = [None] * (len(plain) - len(a.defaults)) + list(a.defaults)
            pairs = [
                *zip(plain, defaults[-len(plain) or None :], strict=False),
                *zip(a.kwonlyargs, a.kw_defaults, strict=True),
            ]
            return {arg.arg: "" if d is None else ast.unparse(d) for arg, d in pairs}
    return None


def _missing_import(path: Path) -> str:
    """The first module imported at the top of a file that is not there."""
    for item in _tree(path).body:
        names = []
        if isinstance(item, ast.Import):
            names = [alias.name for alias in item.names]
        elif isinstance(item, ast.ImportFrom) and item.module and not item.level:
            names = [item.module]
        for name in names:
            if not _importable(name):
                return name
    return ""


@cache
def _importable(name: str) -> bool:
    top, _, rest = name.partition(".")
    if top == "avtbench":
        place = PACKAGE.joinpath(*rest.split(".")) if rest else PACKAGE
        return place.is_dir() or place.with_suffix(".py").is_file()
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def mend_missing(module: str) -> str:
    """The command that installs a missing module: one of the project's extras where one brings it."""
    wanted = module.replace("_", "-").lower()
    for line in importlib.metadata.requires("avtbench") or ():
        head, _, marker = line.partition(";")
        extra = re.search(r'extra\s*==\s*["\']([\w-]+)["\']', marker)
        if extra and re.match(r"[\w-]+", head.strip())[0].replace("_", "-").lower() == wanted:  # type: ignore[index]
            return f"pip install 'avtbench[{extra[1]}]'"
    return f"pip install {module}"


@cache
def _abstract(kind_name: str) -> frozenset[str]:
    kind = KINDS[kind_name]
    path = PACKAGE.joinpath(*kind.contract.split(".")[1:]).with_suffix(".py")
    return frozenset(_functions(_class_node(_Class(kind.base, (), path)), abstract=True))


def _describe(kind: Kind, header: _Class, line: list[_Class], **where: Any) -> Plugin | None:
    """A plugin from its source; None for a base class that is not meant to be one."""
    try:
        nodes = [_class_node(c) for c in line]
        missing = _missing_import(header.path)
    except (SyntaxError, ValueError) as error:
        at = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        said = error.msg if isinstance(error, SyntaxError) else one_line(error)
        stem = header.path.stem if header.path.stem != "__init__" else header.path.parent.name
        return Plugin(
            kind.name, stem, header.path, header.name, state="broken", reason=f"syntax error: {said}{at}", **where
        )
    literals: dict[str, Any] = {}
    done: set[str] = set()
    knobs: dict[str, str] | None = None
    for node in nodes:
        literals = {**_literals(node), **literals}
        done |= _functions(node, abstract=False)
        knobs = _knobs(node) if knobs is None else knobs
    name: Any = literals.get("name")
    if name is None and (header.name.startswith("_") or any(_functions(n, abstract=True) for n in nodes[:1])):
        return None
    plugin = Plugin(
        kind.name, name if isinstance(name, str) and name else header.name, header.path, header.name,
        literals={k: v for k, v in literals.items() if v is not NOT_LITERAL},
        knobs={**(knobs or {}), **KNOBS.get(kind.name, {})}, **where,
    )  # fmt: skip
    return _judge(plugin, literals, _abstract(kind.name) - done, missing)


def _judge(plugin: Plugin, literals: Mapping[str, Any], lacking: Iterable[str], missing: str) -> Plugin:
    name, lacking = literals.get("name"), sorted(lacking)
    requires = literals.get("requires", ())
    settings = literals.get("default_settings", ())
    broken = ""
    if not isinstance(name, str) or not name:
        broken = f'class {plugin.class_name} has no literal name; add a line such as name = "my-{plugin.kind}"'
    elif not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        broken = f"name is {name!r}, expected lower case letters, digits and dashes"
    elif not isinstance(requires, tuple) or not all(isinstance(r, str) for r in requires):
        broken = f"requires is {requires!r}, expected a tuple of module names"
    elif not isinstance(settings, tuple) or not all(isinstance(s, (int, float)) for s in settings):
        broken = (
            f"default_settings is {'computed' if settings is NOT_LITERAL else settings!r}, expected a tuple of numbers"
        )
    elif literals.get("tier", "shared") not in ("shared", "faithful"):
        broken = f"tier is {literals['tier']!r}, expected 'shared' or 'faithful'"
    elif literals.get("family", "bound") not in ("bound", "threshold", "search", "router"):
        broken = f"family is {literals['family']!r}, expected 'bound', 'threshold', 'search' or 'router'"
    elif lacking:
        broken = f"class {plugin.class_name} does not define {', '.join(lacking)}"
    if broken:
        return replace(plugin, state="broken", reason=broken)
    absent = next((r for r in requires if not _importable(r)), "")
    if absent:
        return replace(plugin, state="missing", reason=f"needs {absent}: {mend_missing(absent)}")
    if missing:
        return replace(plugin, state="broken", reason=f"imports {missing}, which is not there: {mend_missing(missing)}")
    return plugin


def _floor_files(root: Path, kind: Kind) -> list[Path]:
    return [p for p in sorted((root / kind.floor).rglob("*.py")) if "__pycache__" not in p.parts]


def _dotted(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    return ".".join(["avtbench", *(parts[:-1] if parts[-1] == "__init__" else parts)])


def _built_in(kind: Kind, root: Path) -> Iterator[Plugin]:
    graph = _Graph(_floor_files(root, kind))
    parents = {base for classes in graph.classes.values() for c in classes for base in c.bases}
    for header, line in graph.of(kind):
        plugin = _describe(kind, header, line, module=_dotted(header.path, root))
        if plugin and not (header.name in parents and "name" not in plugin.literals):
            yield plugin


def _from_file(kind: Kind, path: Path, **where: Any) -> list[Plugin]:
    """Plugins of one file outside the floors; its bases may lie in the floor."""
    graph = _Graph([*_floor_files(PACKAGE, kind), path])
    found = [_describe(kind, header, line, **where) for header, line in graph.of(kind) if header.path == path]
    return [p for p in found if p]


@cache
def _installed() -> Any:
    return importlib.metadata.entry_points()  # once for all groups: it reads the metadata of every package


def _entry_points(kind: Kind) -> Iterator[Plugin]:
    for point in sorted(_installed().select(group=kind.group), key=lambda p: p.name):
        origin = f"entry point of {point.dist.name}" if point.dist else "entry point"
        lost = Plugin(kind.name, point.name, Path(point.module), point.attr or "", point.module, origin, state="broken")
        path = _source_of(point.module)
        if path is None:
            yield replace(
                lost, reason=f"entry point {point.name}: module {point.module} is not there; reinstall the package"
            )
            continue
        found = _from_file(kind, path, module=point.module, origin=origin)
        chosen = [p for p in found if point.attr in (None, "", p.class_name)]
        yield from chosen
        if not chosen:
            wanted = f"class {point.attr}" if point.attr else "a class"
            yield replace(lost, path=path, reason=f"no {wanted} deriving from {kind.base} in {path.name}")


def _source_of(module: str) -> Path | None:
    """The file of a module, without importing the packages above it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    places = [Path(p) for p in spec.submodule_search_locations or ()]
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for place in places:
        for candidate in (place.joinpath(*rest).with_suffix(".py"), place.joinpath(*rest, "__init__.py")):
            if candidate.is_file():
                return candidate
    return None


@cache
def find(kind: str, root: Path = PACKAGE) -> tuple[Plugin, ...]:
    """Every plugin of a kind (``method``, ``tokenizer``, ``dataset``), broken ones too, sorted by name."""
    spec = KINDS[kind]
    roads = [*sorted(_built_in(spec, root), key=lambda p: (str(p.path), p.name)), *_entry_points(spec)]
    taken: dict[str, Plugin] = {}
    listed = []
    for plugin in roads:
        first = taken.get(plugin.name)
        if first is not None:
            plugin = replace(plugin, state="broken", reason=_taken(plugin.name, first))
        elif plugin.state != "broken":
            taken[plugin.name] = plugin
        listed.append(plugin)
    return tuple(sorted(listed, key=lambda p: (p.name, p.state == "broken")))


def _taken(name: str, first: Plugin) -> str:
    return f"duplicate name: {name} is already {first.class_name} in {_near(first.path)}; rename one"


def _near(path: Path) -> str:
    for base in (PACKAGE, Path.cwd()):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)


def get(kind: str, name: str) -> Plugin:
    """The plugin of that name, or of the file ``path.py`` / ``path.py:ClassName``; raises :class:`PluginError`."""
    if name.endswith(".py") or ".py:" in name:
        plugin = _by_path(kind, name)
    else:
        listed = find(kind)
        plugin = next((p for p in listed if p.name == name), None)  # type: ignore[assignment]
        if plugin is None:
            hint = did_you_mean(name, {p.name for p in listed}, "avtbench ls")
            raise PluginError(f"no {kind} is called {name}; {hint}")
    if plugin.state != "ready":
        raise PluginError(f"{kind} {plugin.name} cannot run: {plugin.reason} ({_near(plugin.path)})")
    return plugin


def _by_path(kind: str, given: str) -> Plugin:
    text, _, class_name = given.partition(".py:")
    path = Path(text if text.endswith(".py") else text + ".py").expanduser().resolve()
    if not path.is_file():
        raise PluginError(
            f"{kind} file {given} does not exist; expected a Python file with a class deriving from {KINDS[kind].base}"
        )
    inside = [p for p in find(kind) if p.path == path]
    found = inside or _from_file(KINDS[kind], path, origin=f"file {given}")
    found = [p for p in found if not class_name or p.class_name == class_name]
    if not found:
        wanted = f"class {class_name}" if class_name else "class"
        raise PluginError(
            f"{given} has no {wanted} deriving from {KINDS[kind].base} (avtbench.{KINDS[kind].floor}.contract)"
        )
    if len(found) > 1:
        raise PluginError(
            f"{given} holds {', '.join(p.class_name for p in found)}; choose one: {given}:{found[0].class_name}"
        )
    plugin = found[0]
    first = next((p for p in find(kind) if p.name == plugin.name and p.state != "broken" and p.path != path), None)
    return replace(plugin, state="broken", reason=_taken(plugin.name, first)) if first else plugin


def load(plugin: Plugin) -> type:
    """Import the plugin's class and hold it to its contract; raises :class:`PluginError` in one line."""
    if plugin.state != "ready":
        raise PluginError(f"{plugin.kind} {plugin.name} cannot run: {plugin.reason}")
    kind = KINDS[plugin.kind]
    try:
        module = importlib.import_module(plugin.module) if plugin.module else _import_file(plugin.path)
        cls = getattr(module, plugin.class_name)
    except Exception as error:
        raise PluginError(
            f"{plugin.kind} {plugin.name}: importing {_near(plugin.path)} failed: {one_line(error)}"
        ) from error
    base = getattr(importlib.import_module(kind.contract), kind.base)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise PluginError(
            f"{plugin.kind} {plugin.name}: {plugin.class_name} does not derive from {kind.contract}.{kind.base}"
        )
    lacking = sorted(getattr(cls, "__abstractmethods__", ()))
    if lacking:
        raise PluginError(f"{plugin.kind} {plugin.name}: class does not define {', '.join(lacking)}")
    return cls


def _import_file(path: Path) -> Any:
    name = f"avtbench_file_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def accepts(cls: type, knob: str) -> bool:
    """Whether the constructor takes that keyword."""
    named = inspect.signature(cls).parameters
    return knob in named or any(p.kind is p.VAR_KEYWORD for p in named.values())


def create(
    kind: str, name: str, *, tokenizer: Any = None, defaults: Mapping[str, Any] | None = None, **knobs: Any
) -> Any:
    """Build a plugin: ``create("method", "lit", tokenizer="embedded", reference="previous")``.

    tokenizer: a tokeniser, its name, or a mapping of its name and knobs; ``embedded`` where the method takes one and
               none is given.
    defaults:  knobs handed over only where the constructor takes them (device, dtype, seed).
    Every tokeniser has the knob ``statistics=FILE`` besides its own: per-channel latent statistics measured by
    ``avtbench train statistics``.
    Raises :class:`PluginError` on an unknown knob, with the list of those there are; a contract's own errors pass.
    """
    plugin = get(kind, name)
    cls = load(plugin)
    named = inspect.signature(cls).parameters
    statistics = knobs.pop("statistics", None) if kind == "tokenizer" and "statistics" not in named else None
    given = {k: v for k, v in (defaults or {}).items() if k in named and k not in knobs}
    if not any(p.kind is p.VAR_KEYWORD for p in named.values()):
        for knob in knobs:
            if knob not in named:
                hint = did_you_mean(knob, set(named) - {"tokenizer"})
                raise PluginError(f"{kind} {plugin.name} has no knob {knob}; {hint}")
    given.update({k: _fitting(cls, plugin, k, v) for k, v in knobs.items()})
    if "tokenizer" in named:
        given["tokenizer"] = _tokenizer(tokenizer, defaults)
    elif tokenizer is not None:
        raise PluginError(f"{kind} {plugin.name} takes no tokenizer; leave it out")
    lacking = [
        k
        for k, p in named.items()
        if k not in given and p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if lacking:
        raise PluginError(
            f"{kind} {plugin.name} needs {', '.join(lacking)}: --set {kind}.{plugin.name}.{lacking[0]}=VALUE"
        )
    made = _built(plugin, lambda: cls(**given))
    if statistics is not None:
        from avtbench.methods.calibration import use_statistics

        use_statistics(made, str(statistics))
    return made


def _built(plugin: Plugin, make: Callable[[], Any]) -> Any:
    from avtbench.datasets.contract import ClipError

    try:
        return make()
    except (UserError, ClipError):
        raise
    except Exception as error:
        if type(error).__name__ == "ContractError":
            raise
        raise PluginError(f"{plugin.kind} {plugin.name} could not be set up: {one_line(error)}") from error


def _tokenizer(wanted: Any, defaults: Mapping[str, Any] | None) -> Any:
    if wanted is None:
        wanted = "embedded"
    if isinstance(wanted, str):
        return create("tokenizer", wanted, defaults=defaults)
    if isinstance(wanted, Mapping):
        knobs = dict(wanted)
        return create("tokenizer", knobs.pop("name", "embedded"), defaults=defaults, **knobs)
    return wanted


def _fitting(cls: type, plugin: Plugin, knob: str, value: Any) -> Any:
    """The value as the constructor's annotation wants it; a plain mismatch is the user's error."""
    import pydantic

    try:
        hint = get_type_hints(cls.__init__).get(knob)  # type: ignore[misc]
        adapter = pydantic.TypeAdapter(hint) if hint is not None else None
    except Exception:  # an annotation that pydantic cannot judge is not judged
        return value
    try:
        return adapter.validate_python(value) if adapter else value
    except pydantic.ValidationError as error:
        said = error.errors()[0]["msg"]
        raise PluginError(
            f"{plugin.kind} {plugin.name}: knob {knob} is {value!r}; {said[0].lower()}{said[1:]}"
        ) from None
