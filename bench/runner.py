"""Plan -> points -> rows: what is to run, running it, and taking up where a killed run left off."""

from __future__ import annotations

import contextlib
import io
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from avtbench.bench import devices, engines, identity, plugins
from avtbench.bench.errors import one_line
from avtbench.bench.plugins import Plugin, PluginError
from avtbench.bench.rows import Preview, Row, Status
from avtbench.bench.spec import DatasetSpec, MethodSpec, RunSpec, shared
from avtbench.bench.store import Store
from avtbench.datasets.contract import Clip, ClipError, ClipRef, VideoDataset, View
from avtbench.datasets.motion import motion

if TYPE_CHECKING:
    import torch

    from avtbench.methods.contract import Method, Tokens

Pass = Literal["quality", "speed"]


@dataclass(frozen=True)
class Entry:
    """One method of a plan: what it is, and the settings to sweep."""

    spec: MethodSpec
    plugin: Plugin
    settings: tuple[float, ...]
    alias: str = ""
    """Its name in the run where the same method runs twice, alike in everything (A/A)."""
    twin: bool = False
    """Added by the speed pass for its noise floor."""

    @property
    def label(self) -> str:
        return self.alias or self.spec.alias or self.plugin.name


@dataclass(frozen=True)
class Job:
    """One method over its settings on one clip: what shares an encode."""

    pass_: Pass
    dataset: int
    ref: ClipRef
    entry: int
    settings: tuple[float, ...]
    slots: tuple[str, ...]
    """One for each setting."""
    preview: bool = False
    launch: int = 0
    """Of a speed job: which of the fresh processes."""


@dataclass(frozen=True)
class Finished:
    """A point has its row."""

    slot: str
    row: Row
    preview: Preview | None = None


@dataclass(frozen=True)
class Known:
    """A point was stored before under the same key."""

    slot: str
    key: str


@dataclass(frozen=True)
class Machine:
    """The environment record of the process that measures."""

    digest: str
    record: Mapping[str, Any]


Event = Finished | Known | Machine


@dataclass(frozen=True)
class Plan:
    """Everything a run will do, in order: pass by pass, clip by clip, method by method."""

    spec: RunSpec
    entries: tuple[Entry, ...]
    jobs: tuple[Job, ...]
    bench: Workbench = field(compare=False, repr=False)
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Methods that ``shared`` names but that cannot be set up here, with the reason."""

    @property
    def slots(self) -> list[str]:
        return [slot for job in self.jobs for slot in job.slots]

    def clips(self) -> dict[str, int]:
        """Number of clips by data set."""
        names = {(self.spec.datasets[job.dataset].label, job.ref.name) for job in self.jobs}
        return {d.label: sum(label == d.label for label, _ in names) for d in self.spec.datasets}


def plan(spec: RunSpec) -> Plan:
    """Resolve a spec. What is wrong with a method, a setting or a data set ends here, before anything runs."""
    bench = Workbench(spec)
    entries: list[Entry] = []
    left_out: dict[str, str] = {}
    chosen = spec.methods
    for wanted in [MethodSpec(name=p.name) for p in shared()] if isinstance(chosen, str) else chosen:
        try:
            entries.append(_entry(bench, wanted, len(entries)))
        except Exception as error:
            if not isinstance(chosen, str):
                raise
            left_out[wanted.name] = one_line(error)
    if bench.timing_only:
        bench.built.tokenizers.clear()
    if not entries:
        reasons = dict.fromkeys(left_out.values())
        said = f": {next(iter(reasons))}" if reasons else ""
        more = f" ({len(reasons) - 1} more reasons)" if len(reasons) > 1 else ""
        raise PluginError(f"no method of the shared tier can run here{said}{more}; see avtbench doctor")
    entries = [_aliased(entry, entries) for entry in entries]
    if "speed" in spec.passes and spec.speed.twin:
        entries.append(_twin(min(entries, key=_wait), spec.speed.settings))
    bench = replace(bench, entries=tuple(entries))
    refs = [_clips(bench.dataset(d), wanted) for d, wanted in enumerate(spec.datasets)]
    jobs = [
        Job(pass_, d, ref, e, settings, _slots(how, entry, settings, wanted, ref), place < spec.previews, launch)
        for pass_ in sorted(set(spec.passes))
        for launch in range(spec.speed.launches if pass_ == "speed" else 1)
        for d, wanted in enumerate(spec.datasets)
        for place, ref in enumerate(refs[d][: spec.speed.clips] if pass_ == "speed" else refs[d])
        for e, entry in enumerate(entries)
        if pass_ == "speed" or not entry.twin
        for how, settings in [_how(spec, pass_, launch, entry)]
    ]
    return Plan(spec, tuple(entries), tuple(jobs), bench, left_out)


def _how(spec: RunSpec, pass_: Pass, launch: int, entry: Entry) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    """What tells points of one pass apart besides method, setting and clip; and the settings of that pass."""
    if pass_ == "quality":
        return (pass_,), entry.settings
    return (pass_, spec.speed.scenario, launch), _spread(entry.settings, spec.speed.settings)


def _spread(settings: tuple[float, ...], number: int | None) -> tuple[float, ...]:
    """So many of the settings, evenly spread over their range: one is the middle one."""
    if number is None or number >= len(settings):
        return settings
    return tuple(settings[(2 * i + 1) * len(settings) // (2 * number)] for i in range(number))


def _slots(
    how: tuple[Any, ...], entry: Entry, settings: tuple[float, ...], dataset: DatasetSpec, ref: ClipRef
) -> tuple[str, ...]:
    return tuple(identity.slot(how, entry.label, setting, dataset.label, ref.name) for setting in settings)


def _wait(entry: Entry) -> int:
    """Order by how long a call takes, from the family alone: the twin of a search might get no sample."""
    families = {"threshold": 0, "bound": 1, "router": 2, "search": 3}
    return families.get(str(entry.plugin.literals.get("family", "threshold")), len(families))


def _twin(entry: Entry, number: int | None) -> Entry:
    """The same method under another name, at the middle one of its settings that are timed: how far two timings of one
    thing lie apart."""
    timed = _spread(entry.settings, number)
    middle = timed[len(timed) // 2]
    return replace(entry, settings=(middle,), alias=f"{entry.label} (again)", twin=True)


def _entry(bench: Workbench, wanted: MethodSpec, place: int) -> Entry:
    plugin = plugins.get("method", wanted.name)
    method = bench.create(wanted)
    if bench.timing_only:
        bench.built.faces[place] = Face.of(method)
    else:
        bench.built.methods[place] = method
    settings = wanted.settings if wanted.settings is not None else list(method.default_settings)
    if not settings:
        raise PluginError(
            f"{plugin.name} has no default settings; give some: --set method.{wanted.label}.settings=[0.1,0.2] "
            f"({method.setting_name})"
        )
    return Entry(wanted, plugin, tuple(method.check_setting(s) for s in settings))


def _aliased(entry: Entry, entries: Sequence[Entry]) -> Entry:
    def same(other: Entry) -> bool:
        a, b = entry.spec, other.spec
        return entry.plugin == other.plugin and a.knobs == b.knobs and a.tokenizer == b.tokenizer

    twin = bool(entry.spec.alias) and sum(map(same, entries)) > 1
    return Entry(entry.spec, entry.plugin, entry.settings, entry.spec.alias) if twin else entry


def _clips(dataset: VideoDataset, wanted: DatasetSpec) -> list[ClipRef]:
    refs = dataset.clips()[: wanted.limit]
    if not refs:
        raise ClipError(f"data set {wanted.label} holds no clip; expected at least one, check its root and list")
    return refs


@dataclass(frozen=True)
class Sight:
    """What reading a clip gave: the clip and what follows from it alone, or why it cannot be read."""

    clip: Clip | None
    digest: str
    """Of the pixels; where there are none, a text that stands for the unreadable clip in keys."""
    error: str = ""
    motion: float | None = None
    seconds: float = 0.0
    """That reading took."""

    @classmethod
    def of(cls, clip: Clip, ref: ClipRef) -> Sight:
        video = clip.video
        if str(video.dtype) != "uint8" or video.ndim != 4 or video.shape[-1] != 3 or 0 in video.shape:
            found = f"{video.dtype} {list(video.shape)}"
            raise ClipError(f"{ref.name}: read as {found}, expected uint8 [T, H, W, 3] with T >= 1")
        return cls(clip, clip.digest, motion=motion(video))


@dataclass(frozen=True)
class _Tag:
    """Name and digest of a tokeniser that is not held any more."""

    name: str
    digest: str


@dataclass(frozen=True)
class Face:
    """What rows and keys say of a method. Stands for it where only spawned processes run it, so that the parent does
    not hold the networks of every configuration."""

    name: str
    tier: Any
    family: str
    weights: Any
    setting_name: str
    parameters: Mapping[str, Any]
    tokenizer: _Tag | None

    @classmethod
    def of(cls, method: Method) -> Face:
        base = getattr(method, "tokenizer", None)
        tag = None if base is None else _Tag(getattr(base, "name", ""), getattr(base, "digest", ""))
        told = (method.name, method.tier, method.family, method.weights, method.setting_name, dict(method.parameters))
        return cls(*told, tag)


@dataclass(frozen=True)
class _Built:
    """What a process has built so far; it stays behind when a workbench is sent to another one."""

    methods: dict[int, Method] = field(default_factory=dict)
    tokenizers: dict[str, Any] = field(default_factory=dict)
    datasets: dict[int, VideoDataset] = field(default_factory=dict)
    sight: dict[tuple[int, str], Sight] = field(default_factory=dict)
    """The clip at hand, by data set and name."""
    ahead: dict[tuple[int, str], Future[Sight]] = field(default_factory=dict)
    """The clip that comes next, once it is being read."""
    reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds of this process in waiting for clips (``reading``), in ``model`` and in ``metrics`` code."""
    faces: dict[int, Face] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def __reduce__(self) -> Any:
        return _Built, ()


@dataclass(frozen=True)
class Workbench:
    """What one process needs to run jobs: methods and data sets, built on first use, and the clip at hand."""

    spec: RunSpec
    entries: tuple[Entry, ...] = ()
    finished: frozenset[str] = frozenset()
    """Keys that are stored already."""
    previewed: frozenset[str] = frozenset()
    """Keys whose pictures are stored already."""
    built: _Built = field(default_factory=_Built, compare=False, repr=False)

    # building

    @cached_property
    def device(self) -> torch.device:
        import torch

        name = self.spec.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(devices.require(name, "device", "--set device=cpu"))

    @property
    def defaults(self) -> dict[str, Any]:
        """Knobs for whatever takes them."""
        return {"device": str(self.device), "dtype": self.spec.dtype, "seed": self.spec.seed}

    def create(self, wanted: MethodSpec) -> Method:
        """A method with its tokeniser; tokenisers are shared by the methods that name the same one."""
        cls = plugins.load(plugins.get("method", wanted.name))
        tokenizer = None
        if plugins.accepts(cls, "tokenizer"):
            told = wanted.tokenizer or self.spec.tokenizer
            name = identity.canonical(told.model_dump())
            if name not in self.built.tokenizers:
                self.built.tokenizers[name] = plugins.create(
                    "tokenizer", told.name, defaults=self.defaults, **told.knobs
                )
            tokenizer = self.built.tokenizers[name]
        elif wanted.tokenizer is not None:
            raise PluginError(f"method {wanted.label} takes no tokenizer; leave it out")
        return plugins.create("method", wanted.name, tokenizer=tokenizer, defaults=self.defaults, **wanted.knobs)

    @property
    def timing_only(self) -> bool:
        """Whether every method runs in a spawned process of its own."""
        return set(self.spec.passes) == {"speed"}

    def method(self, entry: int) -> Method:
        if self.timing_only and entry in self.built.faces:
            name = self.built.faces[entry].name
            raise TypeError(f"{name} is not held here: the run only times it, in processes of their own")
        if entry not in self.built.methods:
            self.built.methods[entry] = self.create(self.entries[entry].spec)
        return self.built.methods[entry]

    def face(self, entry: int) -> Face:
        """What rows and keys say of a method."""
        if entry not in self.built.faces:
            self.built.faces[entry] = Face.of(self.method(entry))
            if self.timing_only:
                self.built.methods.pop(entry)
                self.built.tokenizers.clear()
        return self.built.faces[entry]

    @contextlib.contextmanager
    def _spending(self, on: str) -> Iterator[None]:
        import torch

        began = time.perf_counter()
        try:
            yield
        finally:
            if on == "model" and self.device.type == "cuda":  # else the metrics would wait for it
                torch.cuda.synchronize(self.device)
            self.built.spent[on] += time.perf_counter() - began

    def dataset(self, d: int) -> VideoDataset:
        if d not in self.built.datasets:
            wanted = self.spec.datasets[d]
            self.built.datasets[d] = plugins.create(
                "dataset", wanted.name, defaults={"seed": self.spec.seed}, **wanted.knobs
            )
        return self.built.datasets[d]

    def sight(self, job: Job) -> Sight:
        """The clip of a job, read once while jobs on it follow one another; an error is kept like a clip."""
        place = (job.dataset, job.ref.name)
        if place not in self.built.sight:
            begun = self.built.ahead.pop(place, None)
            with self._spending("reading"):
                found = begun.result() if begun else self._read(self.dataset(job.dataset), job)
            self.built.sight.clear()
            self.built.sight[place] = found
        return self.built.sight[place]

    def prepare(self, job: Job) -> None:
        """Begin to read the clip of the job that comes next, beside what runs."""
        place = (job.dataset, job.ref.name)
        if place not in self.built.sight and place not in self.built.ahead:
            self.built.ahead[place] = self.built.reader.submit(self._read, self.dataset(job.dataset), job)

    def _read(self, dataset: VideoDataset, job: Job) -> Sight:
        began = time.perf_counter()
        try:
            clip = dataset.read(job.ref, self.spec.view_of(self.spec.datasets[job.dataset]))
            read = time.perf_counter() - began
            return replace(Sight.of(clip, job.ref), seconds=read)
        except ClipError as error:
            return Sight(None, f"unreadable {job.ref.dataset}/{job.ref.name}: {error}", str(error))
        except Exception as error:  # whatever else a reader throws is about this clip, too
            return Sight(None, f"unreadable {job.ref.dataset}/{job.ref.name}: {error}", one_line(error))

    # identity

    def _profile(self, job: Job) -> Any:
        """How a point is measured: part of its key."""
        from avtbench.bench.metrics import quality

        how = {"device": str(self.device), "dtype": self.spec.dtype, "seed": self.spec.seed}
        if job.pass_ == "quality":
            return {**how, **quality.identity(self.spec.lpips, self.spec.profile)}
        speed = self.spec.speed
        told = {"scenario": speed.scenario, "launch": job.launch, "threads": speed.threads}
        return {**how, **told, "beside": self._beside}

    @cached_property
    def _beside(self) -> str:
        """All that is timed in one sitting: samples are pairs only within it, so that others make another point."""

        def told(entry: Entry) -> str:
            base = (entry.spec.tokenizer or self.spec.tokenizer).model_dump(mode="json")
            timed = _spread(entry.settings, self.spec.speed.settings)
            return identity.canonical([entry.plugin.name, entry.alias, entry.spec.knobs, base, timed])

        return identity.digest(sorted(map(told, self.entries)))

    @cached_property
    def _environment(self) -> Machine:
        from avtbench.bench import environment

        record = environment.fingerprint(self.device)
        return Machine(environment.digest(record), record)

    @property
    def _machine(self) -> dict[str, Any]:
        """What a timing belongs to; libraries and the project's own source stand in the environment record alone."""
        return {group: self._environment.record.get(group) for group in ("hardware", "driver", "numerics", "threads")}

    def keys(self, job: Job, clip: str) -> list[str]:
        entry, method = self.entries[job.entry], self.face(job.entry)
        tokenizer = method.tokenizer
        told = entry.spec.tokenizer or self.spec.tokenizer
        sources = [entry.plugin, *([plugins.get("tokenizer", told.name)] if tokenizer is not None else [])]
        knobs = {
            **entry.spec.knobs,
            **({"tokenizer": identity.with_files(told.knobs)} if tokenizer is not None else {}),
        }
        weights = "" if tokenizer is None else tokenizer.digest
        named = f"{self.spec.datasets[job.dataset].label}/{job.ref.name} {clip}"
        made = identity.method_identity(sources, {**method.parameters, "tokenizer weights": weights}, knobs)
        return [
            identity.point_key(
                method=made, alias=entry.alias, setting=setting, clip=named, pass_=job.pass_,
                view=self._view(job), profile=self._profile(job),
                machine=self._machine if job.pass_ == "speed" else None,
            )
            for setting in job.settings
        ]  # fmt: skip

    def _view(self, job: Job) -> dict[str, Any]:
        view: View = self.spec.view_of(self.spec.datasets[job.dataset])
        return dict(view.as_dict())

    def tell(self, machine: Machine) -> Iterator[Machine]:
        """An environment record, once."""
        if machine.digest not in self.built.told:
            self.built.told.add(machine.digest)
            yield machine

    # running

    def do(self, job: Job) -> Iterator[Event]:
        """Run one job: an event for each of its points."""
        yield from self.tell(self._environment)
        sight = self.sight(job)
        todo: list[Point] = []
        for slot, setting, key in zip(job.slots, job.settings, self.keys(job, sight.digest), strict=True):
            if key in self.finished and not (job.preview and key not in self.previewed):
                yield Known(slot, key)
            else:
                todo.append(Point(slot, setting, key))
        if not todo:
            return
        method = self.method(job.entry)
        if sight.clip is None:
            status, reason = Status.FAILED, sight.error
        else:
            status, reason = Status.SKIPPED, self._skip(method, sight.clip)
        if sight.clip is None or reason:
            for point in todo:
                yield Finished(point.slot, self.row(job, point, sight, status=status, reason=reason))
            return
        yield from self._quality(job, sight, sight.clip, method, todo)

    def _seed(self) -> None:
        import torch

        if self.device.type == "cpu":  # a hundred times faster than asking every kind of device
            torch.default_generator.manual_seed(self.spec.seed)
        else:
            torch.manual_seed(self.spec.seed)

    def _skip(self, method: Method, clip: Clip) -> str:
        if method.weights == "random":
            return "its weights are random, which no quality table takes; give it trained ones with weights=PATH"
        frames, height, width = clip.video.shape[:3]
        return method.skip((frames, height, width)) or ""

    def lost(self, job: Job, seen: Sequence[Event], reason: str) -> list[Event]:
        """Rows for the points of a job whose process died; their keys are computed here, in the parent."""
        had = {event.slot for event in seen if not isinstance(event, Machine)}
        sight = self.sight(job)
        points = zip(job.slots, job.settings, self.keys(job, sight.digest), strict=True)
        status = Status.OUT_OF_MEMORY if "out of memory" in reason else Status.FAILED
        return [
            Finished(slot, self.row(job, Point(slot, setting, key), sight, status=status, reason=reason))
            for slot, setting, key in points
            if slot not in had
        ]

    def _quality(self, job: Job, sight: Sight, clip: Clip, method: Method, todo: list[Point]) -> Iterator[Event]:
        import torch

        from avtbench.bench.metrics import conventions, rate
        from avtbench.methods.contract import Tokens
        from avtbench.methods.stages import counting

        original = torch.from_numpy(clip.video)
        since = time.perf_counter()
        latents, encodes = None, {}
        failed: tuple[Status, str] | None = None
        for point in todo:
            row: dict[str, Any] = {}
            preview = None
            try:
                if failed is None and latents is None:
                    with self._spending("model"), torch.inference_mode(), counting() as nfe:
                        self._seed()
                        latents = (method.encode(original.clone()),)
                    encodes = dict(nfe)
            except Exception as error:
                failed = _outcome(error)
            try:
                if failed is None and latents is not None:
                    with torch.inference_mode(), counting() as nfe:
                        self._seed()
                        with self._spending("model"):
                            tokens = _is_tokens(method.select(latents[0], point.setting), method)
                        # what cannot be serialised does not reach the receiver
                        tokens = Tokens.from_bytes(tokens.to_bytes(), tokens.values.device)
                        with self._spending("model"):
                            video = method.decode(tokens)
                        video = _is_video(video, clip, method)
                    row["evaluations"] = {k: encodes.get(k, 0) + nfe.get(k, 0) for k in {**encodes, **nfe}}
                    with self._spending("metrics"):
                        row["rate"] = rate.count(tokens)
                        row["quality"] = conventions.measure(
                            self.spec.profile, original.to(video.device), video, lpips=self.spec.lpips
                        )
                    if job.preview:
                        preview = picture(point.key, clip, video, tokens)
                status, reason = failed or (Status.DONE, "")
            except Exception as error:
                status, reason = _outcome(error)
                row = {}
            now = time.perf_counter()
            row["seconds"], since = now - since, now
            yield Finished(point.slot, self.row(job, point, sight, status=status, reason=reason, **row), preview)

    def row(self, job: Job, point: Point, sight: Sight, **given: Any) -> Row:
        entry, method = self.entries[job.entry], self.face(job.entry)
        extent: dict[str, Any] = {}
        if sight.clip is not None:
            frames, height, width = sight.clip.video.shape[:3]
            extent = {"clip_digest": sight.digest, "frames": frames, "height": height, "width": width}
            extent |= {"motion": sight.motion, "source": sight.clip.source}
        return Row(
            key=point.key,
            pass_=job.pass_,
            method=method.name,
            alias=entry.alias,
            tier=method.tier,
            family=method.family,
            weights=method.weights,
            tokenizer="" if method.tokenizer is None else method.tokenizer.name,
            parameters=identity.plain({**entry.spec.knobs, **method.parameters}),
            setting_name=method.setting_name,
            setting=point.setting,
            dataset=self.spec.datasets[job.dataset].label,
            clip=job.ref.name,
            view=self._view(job),
            **{"source": job.ref.source, "environment": self._environment.digest, **extent, **given},
        )


@dataclass(frozen=True)
class Point:
    """One place of a plan with the key of what belongs there."""

    slot: str
    setting: float
    key: str


def _is_tokens(tokens: Any, method: Method) -> Tokens:
    from avtbench.methods.contract import ContractError, Tokens

    if not isinstance(tokens, Tokens):
        raise ContractError(f"{method.name}: select gave {type(tokens).__name__}, expected Tokens")
    return tokens


def _is_video(video: Any, clip: Clip, method: Method) -> torch.Tensor:
    import torch

    from avtbench.methods.contract import ContractError

    if not isinstance(video, torch.Tensor) or tuple(video.shape) != clip.video.shape or not video.is_floating_point():
        found = f"{video.dtype} {list(video.shape)}" if isinstance(video, torch.Tensor) else type(video).__name__
        raise ContractError(f"{method.name}: decode gave {found}, expected float {list(clip.video.shape)}")
    return video


def _outcome(error: Exception) -> tuple[Status, str]:
    import torch

    exhausted = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in str(error) or "can't allocate memory" in str(error))
    )
    if exhausted:
        with contextlib.suppress(Exception):
            torch.cuda.empty_cache()
        return Status.OUT_OF_MEMORY, one_line(error)
    return Status.FAILED, one_line(error)


def picture(key: str, clip: Clip, video: torch.Tensor, tokens: Tokens) -> Preview:
    """The middle frame as PNGs: original, reconstruction, and the keep mask of the latent frame that covers it."""
    import numpy as np

    frame = len(clip.video) // 2
    shown = (video[frame].clamp(0, 1) * 255 + 0.5).floor().byte().cpu().numpy()
    keep = tokens.keep.cpu().numpy()
    if tokens.mask_kind == "positions":
        step = -(-(len(clip.video) - 1) // max(len(keep) - 1, 1))
        keep = keep[min(-(-frame // max(step, 1)), len(keep) - 1)]
    return Preview(
        key=key, frame=frame, original=_png(clip.video[frame]), reconstruction=_png(shown),
        keep=_png(keep.astype(np.uint8) * 255),
    )  # fmt: skip


def _png(pixels: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


@dataclass
class Outcome:
    """How a run ended."""

    run: str
    planned: int
    finished: int = 0
    """Measured now."""
    known: int = 0
    """Stored before."""
    failed: dict[str, int] = field(default_factory=dict)
    """Reasons of points that failed, with their number."""
    seconds: float = 0.0
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds of the quality pass by what they went into; empty where other processes ran it, or nobody."""

    def shares(self) -> str:
        """``model 81 %, metrics 16 %, reading 1 %, harness 2 %``: where the time of the quality pass went."""
        whole = sum(self.spent.values())
        return ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in self.spent.items()) if whole else ""

    def summary(self) -> str:
        failures = sum(self.failed.values())
        parts = [f"{self.finished + self.known - failures} of {self.planned} points"]
        if self.known:
            parts.append(f"{self.known} stored before")
        if failures:
            parts.append(f"{failures} failed")
        return ", ".join(parts)


def run(
    todo: Plan, store: Store, *, workers: int = 0, fresh: bool = False, on_event: Callable[[Event], None] | None = None
) -> Outcome:
    """Run a plan into a store: a point whose key is there is linked, any other is measured, a failed one tried again.

    workers: spawned processes for the quality pass; 0 runs in this process. The speed pass has processes of its own.
    fresh:   measure again what is stored.
    """
    began = time.perf_counter()
    run_id = todo.spec.id
    store.begin(run_id, todo.spec.name, todo.spec.model_dump(mode="json"), todo.slots)
    known = frozenset() if fresh else frozenset(store.finished())
    work = replace(todo.bench, finished=known, previewed=frozenset(store.previewed()))
    outcome = Outcome(run_id, len(todo.slots))
    work.built.spent.clear()
    measured, named = 0.0, dict[str, float]()
    for event in _events(work, todo.jobs, workers):
        if isinstance(event, Machine):
            store.put_environment(event.digest, event.record)
        elif isinstance(event, Known):
            store.link(run_id, event.slot, event.key)
            outcome.known += 1
        else:
            store.put(run_id, event.slot, event.row, event.preview)
            outcome.finished += 1
            if event.row.status not in (Status.DONE, Status.SKIPPED):
                outcome.failed[event.row.reason] = outcome.failed.get(event.row.reason, 0) + 1
        if on_event:
            on_event(event)
        if isinstance(event, Finished) and event.row.pass_ == "quality":
            measured = time.perf_counter() - began
            named = {name: work.built.spent[name] for name in ("model", "metrics", "reading")}
    if measured and workers == 0:
        outcome.spent = {**named, "harness": max(measured - sum(named.values()), 0.0)}
    outcome.seconds = time.perf_counter() - began
    return outcome


def stored(todo: Plan, store: Store) -> set[str]:
    """Slots of a plan that need not run, as far as can be told without reading a clip: the clips' digests are taken
    from the store."""
    filled = store.filled(todo.spec.id)
    found = set()
    for job in todo.jobs:
        clip = next((filled[slot][1] for slot in job.slots if slot in filled), None)
        if clip:
            keys = zip(job.slots, todo.bench.keys(job, clip), strict=True)
            found |= {slot for slot, key in keys if slot in filled and filled[slot][0] == key}
    return found


def _events(work: Workbench, jobs: Iterable[Job], workers: int) -> Iterator[Event]:
    jobs = list(jobs)
    quality = [job for job in jobs if job.pass_ == "quality"]
    speed = [job for job in jobs if job.pass_ == "speed"]
    if workers > 0 and quality:
        yield from engines.spawned(work, quality, workers)
    else:
        yield from engines.inprocess(work, quality)
    if speed:
        from avtbench.bench.timing.speed_pass import events

        yield from events(work, speed)


@dataclass
class Estimate:
    """Time that is left, from what points of the same method took: stored ones first, then those of this run."""

    plan: Plan
    store: Mapping[tuple[str, str], float]
    """Seconds per million pixels by (method, pass), see :meth:`Store.seconds`."""

    def __post_init__(self) -> None:
        self.taken: dict[tuple[str, str], list[float]] = {}
        self.left: dict[tuple[str, str], int] = {}
        self.of: dict[str, tuple[str, str]] = {}
        for job in self.plan.jobs:
            kind = (self.plan.entries[job.entry].plugin.name, job.pass_)
            self.left[kind] = self.left.get(kind, 0) + len(job.slots)
            self.of.update(dict.fromkeys(job.slots, kind))

    def drop(self, slots: Iterable[str]) -> None:
        """Points that need not run."""
        for slot in slots:
            self.left[self.of[slot]] -= 1

    def note(self, event: Event) -> None:
        if isinstance(event, Finished):
            self.drop([event.slot])
            self.taken.setdefault(self.of[event.slot], []).append(event.row.seconds)

    def per_point(self, kind: tuple[str, str]) -> float | None:
        if times := self.taken.get(kind):
            return sum(times) / len(times)
        view = self.plan.spec.view
        if kind in self.store and view.size and view.frames:
            return self.store[kind] * view.size**2 * view.frames / 1e6
        return None

    def remaining(self) -> tuple[float, list[str]]:
        """Seconds left over the methods whose cost is known, and the methods whose cost is not."""
        total, unknown = 0.0, []
        for kind, points in self.left.items():
            cost = self.per_point(kind)
            if points > 0 and cost is None:
                unknown.append(kind[0])
            elif points > 0 and cost is not None:
                total += points * cost
        return total, sorted(set(unknown))
