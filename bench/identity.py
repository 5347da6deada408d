"""The identity of a result: what a stored point's key is made of. A name alone is never an identity.

A key covers the source of the method, of its tokeniser and of whatever they import from their floor; every parameter
and weight file; the setting; the pixels of the clip and the view that cut them; the metric profile; the pass; the row
schema. A speed point also carries the machine it was timed on and what it was timed beside.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from avtbench.bench.plugins import PACKAGE, Plugin
from avtbench.bench.rows import ROW_SCHEMA


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, infinities by name, paths and arrays by what they hold."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v) for v in value), key=str)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def digest(*parts: Any) -> str:
    """32 hex digits of sha256 over the parts."""
    return sha256(canonical(parts).encode()).hexdigest()[:32]


@cache
def source_digest(path: Path) -> str:
    """Digest of a plugin's file, of its package folder where it has one, and of all they import from their floor."""
    return sha256("\0".join(_content(p) for p in sources(path)).encode()).hexdigest()[:16]


def sources(start: Path) -> list[Path]:
    """The files a plugin's behaviour rests on: its own and those its imports reach, in a fixed order.

    Followed: ``avtbench.methods`` / ``avtbench.datasets`` imports at any depth of the file, relative imports. Installed
    packages are not: their versions stand in the environment record.
    """
    waiting = [start]
    if (start.parent / "__init__.py").is_file() and start.parent not in (PACKAGE / "methods", PACKAGE / "datasets"):
        waiting += sorted(start.parent.glob("*.py"))
    seen: dict[Path, None] = {}
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen[path] = None
            waiting += _imports(path)
    return [start, *sorted(set(seen) - {start})]


@cache
def _content(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


@cache
def _imports(path: Path) -> list[Path]:
    found: list[Path] = []
    try:
        tree = ast.parse(_content(path))
    except SyntaxError:
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found += _floor_file(alias.name)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = path.parents[node.level - 1]
                stem = base.joinpath(*(node.module or "").split(".")) if node.module else base
                found += _module_file(stem)
                found += [f for alias in node.names for f in _module_file(stem / alias.name)]
            elif node.module:
                found += _floor_file(node.module)
                found += [f for alias in node.names for f in _floor_file(f"{node.module}.{alias.name}")]
    return found


def _floor_file(module: str) -> list[Path]:
    top, _, rest = module.partition(".")
    return _module_file(PACKAGE.joinpath(*rest.split("."))) if top == "avtbench" and rest else []


def _module_file(stem: Path) -> list[Path]:
    return [p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()]


def with_files(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs in which each path to an existing file is joined by the digest of its content."""
    told = {}
    for name, value in knobs.items():
        told[name] = value
        if isinstance(value, (str, Path)) and value and Path(value).expanduser().is_file():
            told[f"{name} sha256"] = file_digest(Path(value).expanduser())
    return told


def file_digest(path: Path) -> str:
    """sha256 (16 hex digits) of a file; remembered while its size and time of change stay the same."""
    stat = path.stat()
    return _file_digest(path, stat.st_size, stat.st_mtime_ns)


@cache
def _file_digest(path: Path, size: int, changed: int) -> str:
    content = sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            content.update(block)
    return content.hexdigest()[:16]


def method_identity(
    plugins: Iterable[Plugin], parameters: Mapping[str, Any], knobs: Mapping[str, Any]
) -> dict[str, Any]:
    """What a method brings to the key of each of its points: source, declared parameters, knobs and their files."""
    return {
        "class": [p.class_name for p in plugins],
        "source": [source_digest(p.path) for p in plugins],
        "parameters": parameters,
        "knobs": with_files(knobs),
    }


def point_key(
    *,
    method: Mapping[str, Any],
    alias: str,
    setting: float,
    clip: str,
    view: Mapping[str, Any],
    profile: Any,
    pass_: str,
    machine: Any = None,
) -> str:
    """The key of one point.

    ``clip``: its names and its digest, or what stands for that where it cannot be read. The names tell apart clips of
    the same pixels, which are a point each.
    """
    return digest(method, alias, float(setting), clip, view, profile, pass_, machine, ROW_SCHEMA)


def slot(how: tuple[Any, ...], label: str, setting: float, dataset: str, clip: str) -> str:
    """The place of a point in a run's plan, by name: where a row with a new key replaces one with an old key."""
    return canonical([*how, label, float(setting), dataset, clip])
