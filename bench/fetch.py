"""Fetching published data sets and weights: licence first, verified, resumable, never half there.

A file is written to ``NAME.part`` beside its place and renamed once its size and sha256 are right. A download that
breaks off keeps the part and goes on from there, now or at the next call, if the server still has the same file; a part
that turns out wrong is removed. One downloader serves direct links and Hugging Face repositories, whose hub tells size
and sha256 of every large file.
"""

from __future__ import annotations

import fnmatch
import hashlib
import http.client
import json
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from avtbench.bench.errors import UserError, did_you_mean

CHUNK = 1 << 20
ATTEMPTS = 5
RECORD = ".avtbench-fetch.json"
"""Written into a folder when all of it is there: what it is and where it came from."""

Say = Callable[[str], object]
Progress = Callable[[str, int, int | None], object]
"""Called with the file's name, bytes there and bytes due (None if nobody says)."""


class FetchError(UserError):
    """Something cannot be fetched; one line with what was found, what was expected and what mends it."""


class Link(BaseModel):
    """One file behind a direct link."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    url: str
    size: int | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$")
    """In full, or its first digits where only these are published."""


class Entry(BaseModel):
    """One line of the catalogue, see ``catalogue.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    kind: Literal["data", "weights"]
    summary: str
    licence: str
    licence_url: str
    folder: str = ""
    cache: Literal["", "torch-hub"] = ""
    repo: str = ""
    repo_type: Literal["model", "dataset"] = "model"
    files: tuple[str, ...] = ("*",)
    urls: tuple[Link, ...] = ()
    verified: str = ""
    unpack: bool = False
    use: str = ""

    @model_validator(mode="after")
    def _one_origin(self) -> Entry:
        if bool(self.repo) == bool(self.urls):
            raise ValueError(f"{self.name}: give either repo or urls")
        if self.unpack and len(self.urls) != 1:
            raise ValueError(f"{self.name}: unpack takes one archive")
        return self

    def place(self) -> Path:
        """Where it goes when nobody says otherwise."""
        if self.cache == "torch-hub":
            home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
            return Path(home).expanduser() / "hub" / "checkpoints"
        base = os.environ.get("AVTBENCH_DATA") or "data" if self.kind == "data" else "weights"
        return Path(base).expanduser() / (self.folder or self.name)


@cache
def catalogue() -> dict[str, Entry]:
    """All that can be fetched, by name."""
    import yaml

    text = Path(__file__).with_name("catalogue.yaml").read_text(encoding="utf-8")
    return {name: Entry(name=name, **fields) for name, fields in yaml.safe_load(text).items()}


def entry(name: str) -> Entry:
    """The entry of that name; raises :class:`FetchError` with the nearest names."""
    known = catalogue()
    if name not in known:
        raise FetchError(f"nothing called {name} can be fetched; {did_you_mean(name, known)}")
    return known[name]


def fetch(
    name: str | Entry,
    to: str | Path | None = None,
    accept_licence: bool | Callable[[], bool] = False,
    base_url: str | None = None,
    say: Say = print,
    progress: Progress | None = None,
    pause: float = 1.0,
) -> Path:
    """Fetch an entry of the catalogue and return the folder that holds it.

    to:             the folder; default :meth:`Entry.place`.
    accept_licence: the licence is shown first; without this, or a question that is answered yes, nothing more happens.
    base_url:       a mirror: stands in for scheme and host of every address (also ``HF_ENDPOINT`` for repositories).
    say, progress:  where lines and byte counts go. pause: seconds before the first retry, doubled each time.
    Raises :class:`FetchError` in one line.
    """
    wanted = entry(name) if isinstance(name, str) else name
    folder = Path(to).expanduser() if to is not None else wanted.place()
    say(f"{wanted.name}: {wanted.summary}")
    say(f"  licence: {wanted.licence}")
    say(f"  read it: {wanted.licence_url}")
    if not (accept_licence() if callable(accept_licence) else accept_licence):
        raise FetchError(
            f"the licence of {wanted.name} has not been accepted; read {wanted.licence_url}, then repeat the command "
            "with --accept-licence"
        )
    try:
        if wanted.repo:
            _fetch_repo(wanted, folder, base_url, say, progress, pause)
        elif wanted.unpack:
            _fetch_archive(wanted, folder, base_url, say, progress, pause)
        else:
            for link in wanted.urls:
                asked = _Asked(_moved(link.url, base_url), _base_name(link.url), link.size, link.sha256)
                _download(asked, folder, say, progress, pause)
    except OSError as error:
        at = error.filename or folder
        raise FetchError(
            f"{at}: cannot be written ({error.strerror or error}); give another place with --to"
        ) from error
    say(f"  {wanted.name} is in {folder}")
    if wanted.use:
        say(f"  use it: {wanted.use.format(to=folder)}")
    return folder


@dataclass(frozen=True)
class _Asked:
    """A file to download: from where, under which name, and what is known of it."""

    url: str
    name: str
    size: int | None = None
    sha256: str | None = None
    token: str | None = None


def _base_name(url: str) -> str:
    return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name


def _moved(url: str, base_url: str | None) -> str:
    if base_url is None:
        return url
    parts = urllib.parse.urlsplit(url)
    return base_url.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")


# --- one file --------------------------------------------------------------------------------------------------------


class _BrokenOff(Exception):
    """The connection ended before the file did; what came is kept."""


def _download(asked: _Asked, folder: Path, say: Say, progress: Progress | None, pause: float) -> Path:
    """Get one file whole and right, or raise :class:`FetchError` and leave nothing under its name."""
    target = folder / asked.name
    if target.is_file():
        wrong = _judge(target, asked)
        if not wrong:
            say(f"  {asked.name}: already there ({_proof(asked)})")
            return target
        say(f"  {asked.name}: is there but {wrong}; fetched again")
    target.parent.mkdir(parents=True, exist_ok=True)
    part, tag = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.etag")
    _room(target.parent, asked)
    broken, furthest = 0, _size(part)
    while True:
        try:
            resumed = _receive(asked, part, tag, progress)
        except _BrokenOff as error:
            now = _size(part)
            broken = 1 if now > furthest else broken + 1
            furthest = max(furthest, now)
            if broken >= ATTEMPTS:
                raise FetchError(
                    f"{asked.url}: {error}, {ATTEMPTS} times in a row; repeat the command to go on from byte {now}"
                ) from error
            say(f"  {asked.name}: {error}; going on from byte {now}")
            time.sleep(pause * 2 ** (broken - 1))
            continue
        wrong = _judge(part, asked)
        if not wrong:
            break
        _drop(part, tag)
        if not resumed:
            raise FetchError(
                f"{asked.url}: the file {wrong}; nothing was kept, try later or tell the owner of the file"
            )
        say(f"  {asked.name}: the resumed file {wrong}; starting over")
    os.replace(part, target)
    tag.unlink(missing_ok=True)
    say(f"  {asked.name}: {target.stat().st_size} bytes ({_proof(asked)})")
    return target


def _receive(asked: _Asked, part: Path, tag: Path, progress: Progress | None) -> bool:
    """Append to the part what is missing; True where it was resumed. Raises ``_BrokenOff`` if the rest did not come."""
    have = _size(part)
    etag = tag.read_text() if tag.exists() else ""
    if have and not etag and not asked.sha256:
        have = 0  # nothing could tell whether the rest belongs to this beginning
    request = urllib.request.Request(asked.url, headers={"User-Agent": "avtbench", "Accept-Encoding": "identity"})
    if asked.token:
        request.add_unredirected_header("Authorization", f"Bearer {asked.token}")
    if have:
        request.add_header("Range", f"bytes={have}-")
        if etag:
            request.add_header("If-Range", etag)
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            if have == asked.size:
                return True
            _drop(part, tag)
            raise _BrokenOff("the server has no bytes after those kept") from error
        raise _refused(asked.url, error) from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise _BrokenOff(f"no connection ({getattr(error, 'reason', error)})") from error
    with response:
        resumed = bool(have) and response.status == 206
        if resumed and not str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            _drop(part, tag)
            raise _BrokenOff("the server went on from another byte than asked")
        have = have if resumed else 0
        declared = response.headers.get("Content-Length")
        total = have + int(declared) if declared and declared.isdigit() else None
        if asked.size is not None and total is not None and total != asked.size:
            _drop(part, tag)
            raise FetchError(
                f"{asked.url}: the server offers {total} bytes, expected {asked.size}; nothing was kept, try later or "
                "tell the owner of the file"
            )
        given = response.headers.get("ETag", "")
        tag.write_text("" if given.startswith("W/") else given)
        with part.open("ab" if resumed else "wb") as file:
            while True:
                try:
                    piece = response.read(CHUNK)
                except (http.client.HTTPException, OSError) as error:
                    if isinstance(error, http.client.IncompleteRead):
                        file.write(error.partial)
                    raise _BrokenOff(f"the connection broke off ({type(error).__name__})") from error
                if not piece:
                    break
                file.write(piece)
                have += len(piece)
                if progress:
                    progress(asked.name, have, total)
    if total is not None and have < total:
        raise _BrokenOff(f"the connection broke off at {have} of {total} bytes")
    return resumed


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _drop(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _refused(url: str, error: urllib.error.HTTPError) -> Exception:
    if error.code in (401, 403):
        return FetchError(
            f"{url}: the server refuses ({error.code} {error.reason}); agree to the terms on the repository's page, "
            "then log in with `hf auth login` or set HF_TOKEN"
        )
    if error.code in (408, 425, 429) or error.code >= 500:
        return _BrokenOff(f"the server answers {error.code} {error.reason}")
    return FetchError(f"{url}: the server answers {error.code} {error.reason}; the file may have moved")


def _judge(path: Path, asked: _Asked) -> str:
    """What is wrong with a file; empty if it is as published."""
    size = path.stat().st_size
    if asked.size is not None and size != asked.size:
        return f"has {size} bytes, expected {asked.size}"
    if asked.sha256:
        found = _sha256(path)
        if not found.startswith(asked.sha256):
            return f"has sha256 {found[: len(asked.sha256)]}, expected {asked.sha256}"
    return ""


def _sha256(path: Path) -> str:
    content = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            content.update(piece)
    return content.hexdigest()


def _proof(asked: _Asked) -> str:
    if asked.sha256:
        return "sha256 verified" if len(asked.sha256) == 64 else f"first {len(asked.sha256)} digits of sha256 verified"
    return "size verified, no sha256 published" if asked.size is not None else "neither size nor sha256 published"


def _room(folder: Path, asked: _Asked) -> None:
    free = shutil.disk_usage(folder).free
    if asked.size is not None and asked.size > free:
        raise FetchError(
            f"{folder}: {free} bytes are free, {asked.name} needs {asked.size}; make room or give another --to"
        )


# --- archives --------------------------------------------------------------------------------------------------------


def _fetch_archive(
    wanted: Entry, folder: Path, base_url: str | None, say: Say, progress: Progress | None, pause: float
) -> None:
    """Download a zip beside its folder, unpack it into a new folder, and only then give that its name."""
    link = wanted.urls[0]
    if (folder / RECORD).is_file():
        say(f"  already there: {folder}")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FetchError(
            f"{folder}: is there already and was not fetched by this command; move it or give another --to"
        )
    asked = _Asked(_moved(link.url, base_url), _base_name(link.url), link.size, link.sha256)
    archive = _download(asked, folder.parent, say, progress, pause)
    say(f"  unpacking {archive.name}")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
        whole = Path(unfinished) / "whole"
        try:
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(whole)
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            archive.unlink()
            raise FetchError(f"{asked.url}: is no whole zip archive ({error}); nothing was kept, try again") from error
        inside = list(whole.iterdir())
        top = inside[0] if len(inside) == 1 and inside[0].is_dir() else whole
        _record(top, wanted, {asked.name: _sha256(archive)})
        if folder.exists():
            folder.rmdir()
        os.replace(top, folder)
    archive.unlink()


def _record(folder: Path, wanted: Entry, sha256: dict[str, str], **more: Any) -> None:
    origin = wanted.repo or wanted.urls[0].url
    content = {"name": wanted.name, "origin": origin, "licence": wanted.licence, **more, "sha256": sha256}
    (folder / RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# --- Hugging Face repositories ---------------------------------------------------------------------------------------


def _fetch_repo(
    wanted: Entry, folder: Path, base_url: str | None, say: Say, progress: Progress | None, pause: float
) -> None:
    """Download the files of a repository that match, all from one commit."""
    endpoint = (base_url or os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    token = _token()
    listing = _listing(f"{endpoint}/api/{wanted.repo_type}s/{wanted.repo}/revision/main?blobs=true", token, say, pause)
    stated = (listing.get("cardData") or {}).get("license") or "none"
    say(f"  licence stated by the repository: {stated}")
    prefix = "datasets/" if wanted.repo_type == "dataset" else ""
    found = []
    for file in listing.get("siblings", ()):
        name = str(file["rfilename"])
        if not any(fnmatch.fnmatch(name, pattern) for pattern in wanted.files):
            continue
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise FetchError(f"{wanted.repo}: lists a file {name!r} outside its own folder; not fetched")
        large = file.get("lfs") or {}
        url = f"{endpoint}/{prefix}{wanted.repo}/resolve/{listing['sha']}/{urllib.parse.quote(name)}"
        found.append(_Asked(url, name, large.get("size", file.get("size")), large.get("sha256"), token))
    if not found:
        raise FetchError(
            f"{endpoint}/{prefix}{wanted.repo}: has no file like {', '.join(wanted.files)}; it may have been rearranged"
        )
    due = sum(asked.size or 0 for asked in found)
    say(f"  {len(found)} file{'s' * (len(found) != 1)}, {due} bytes, commit {listing['sha']}")
    for asked in found:
        _download(asked, folder, say, progress, pause)
    _record(folder, wanted, {a.name: a.sha256 or "" for a in found}, commit=listing["sha"], licence_stated=stated)


def _listing(url: str, token: str | None, say: Say, pause: float) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"User-Agent": "avtbench"})
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    for attempt in range(ATTEMPTS):
        try:
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    listing = json.load(response)
                if not isinstance(listing, dict) or "sha" not in listing:
                    raise FetchError(f"{url}: the answer is not the list of a repository; check the address of the hub")
                return listing
            except urllib.error.HTTPError as error:
                raise _refused(url, error) from error
            except json.JSONDecodeError as error:
                raise FetchError(f"{url}: the answer is not the list of a repository ({error})") from error
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                raise _BrokenOff(f"no connection ({getattr(error, 'reason', error)})") from error
        except _BrokenOff as error:
            if attempt == ATTEMPTS - 1:
                raise FetchError(
                    f"{url}: {error}, {ATTEMPTS} times in a row; is there an internet connection?"
                ) from error
            say(f"  {error}; trying again")
            time.sleep(pause * 2**attempt)
    raise AssertionError("unreachable")


def _token() -> str | None:
    """The user's Hugging Face token: from the environment, or as ``hf auth login`` stored it."""
    if os.environ.get("HF_TOKEN"):
        return os.environ["HF_TOKEN"]
    try:
        from huggingface_hub import get_token
    except ImportError:
        return None
    return get_token()
