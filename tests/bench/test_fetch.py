"""Fetching from a server that misbehaves in every way that servers do; all on 127.0.0.1."""

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from avtbench.bench.fetch import ATTEMPTS, RECORD, Entry, FetchError, Link, catalogue, entry, fetch

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Served:
    """What a path of the server does: its content, and how it goes wrong."""

    def __init__(self, content=CONTENT, breaks=(), declared=None, ranges=True, etag='"v1"', status=200, to=None):
        self.content, self.declared, self.ranges, self.etag = content, declared, ranges, etag
        self.status, self.to = status, to
        self.breaks = list(breaks)
        """How many bytes come before the connection ends, answer by answer."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        path, _, _ = self.path.partition("?")
        server.asked.append((path, {k.lower(): v for k, v in self.headers.items()}))
        served = server.paths.get(path)
        if served is None or served.status != 200:
            self.send_response(served.status if served else 404)
            if served and served.to:
                self.send_header("Location", served.to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = self._start(served)
        body = served.content[start:]
        if start and not body:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
        self.send_header("Content-Length", str(len(body) if served.declared is None else served.declared - start))
        if served.etag:
            self.send_header("ETag", served.etag)
        self.end_headers()
        self.wfile.write(body[: served.breaks.pop(0)] if served.breaks else body)

    def _start(self, served):
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if not asked or not served.ranges or (condition and condition != served.etag):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server whose ``paths`` say what it does; ``asked`` is what it was asked for."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.paths, http.asked = {}, []
    http.base = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield http
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setenv("HF_TOKEN_PATH", "/nonexistent")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def link(size=None, sha256=None, **more):
    """A catalogue entry with one file, ``weights.bin``."""
    fields = {"name": "thing", "kind": "weights", "summary": "a thing", "licence": "MIT", "licence_url": "https://l"}
    urls = (Link(url="https://example.org/files/weights.bin", size=size, sha256=sha256),)
    return Entry(**{**fields, "urls": urls, **more})


def get(wanted, folder, server, said=None):
    say = print if said is None else said.append
    return fetch(wanted, folder, accept_licence=True, base_url=server.base, say=say, pause=0)


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) if folder.exists() else []


FILE = "/files/weights.bin"


# --- the licence comes first -------------------------------------------------------------------------------------


def test_the_licence_is_shown_and_nothing_is_asked_before_it_is_accepted(server, tmp_path):
    server.paths[FILE] = Served()
    said = []
    with pytest.raises(FetchError, match="--accept-licence"):
        fetch(link(), tmp_path / "to", base_url=server.base, say=said.append)
    assert any("MIT" in line for line in said)
    assert any("https://l" in line for line in said)
    assert server.asked == []
    assert not (tmp_path / "to").exists()


def test_unknown_names_get_a_hint():
    with pytest.raises(FetchError, match="did you mean tokenbench-240p"):
        fetch("tokenbench-240")


# --- a file that comes right -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "sha256", "proof"),
    [
        (len(CONTENT), SHA256, "sha256 verified"),
        (None, SHA256[:8], "first 8 digits of sha256 verified"),
        (len(CONTENT), None, "size verified, no sha256 published"),
        (None, None, "neither size nor sha256 published"),
    ],
)
def test_what_was_verified_is_said(server, tmp_path, size, sha256, proof):
    server.paths[FILE] = Served()
    said = []
    folder = get(link(size, sha256), tmp_path, server, said)
    assert (folder / "weights.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["weights.bin"]
    assert any(proof in line for line in said)


def test_a_file_that_is_there_is_verified_not_fetched(server, tmp_path):
    (tmp_path / "weights.bin").write_bytes(CONTENT)
    get(link(sha256=SHA256), tmp_path, server)
    assert server.asked == []
    server.paths[FILE] = Served()
    (tmp_path / "weights.bin").write_bytes(CONTENT[:-1] + b"x")
    get(link(sha256=SHA256), tmp_path, server)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT


# --- a connection that breaks off --------------------------------------------------------------------------------


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    server.paths[FILE] = Served(breaks=[4000, 3000])
    get(link(len(CONTENT), SHA256), tmp_path, server)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
    assert [h.get("range") for _, h in server.asked] == [None, "bytes=4000-", "bytes=7000-"]
    assert [h.get("if-range") for _, h in server.asked] == [None, '"v1"', '"v1"']
    assert names(tmp_path) == ["weights.bin"]


def test_a_later_call_goes_on_where_the_last_one_gave_up(server, tmp_path):
    server.paths[FILE] = Served(breaks=[4000, *[0] * ATTEMPTS])
    with pytest.raises(FetchError, match="repeat the command to go on from byte 4000"):
        get(link(len(CONTENT), SHA256), tmp_path, server)
    assert not (tmp_path / "weights.bin").exists()
    server.paths[FILE].breaks.clear()
    server.asked.clear()
    get(link(len(CONTENT), SHA256), tmp_path, server)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
    assert server.asked[0][1]["range"] == "bytes=4000-"


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(b"old" * 100)
    (tmp_path / "weights.bin.part.etag").write_text('"v0"')
    server.paths[FILE] = Served()
    get(link(), tmp_path, server)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.paths[FILE] = Served(breaks=[4000], ranges=False)
    get(link(len(CONTENT), SHA256), tmp_path, server)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT


def test_a_part_that_cannot_be_told_apart_is_not_used(server, tmp_path):
    """No etag and no hash: nothing says whether the rest belongs to it."""
    (tmp_path / "weights.bin.part").write_bytes(b"x" * 4000)
    server.paths[FILE] = Served(etag=None)
    get(link(), tmp_path, server)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
    assert "range" not in server.asked[0][1]


def test_a_wrong_part_is_found_out_by_the_hash(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(b"x" * 4000)
    server.paths[FILE] = Served(etag=None)
    get(link(sha256=SHA256), tmp_path, server)
    assert (tmp_path / "weights.bin").read_bytes() == CONTENT
    assert [h.get("range") for _, h in server.asked] == ["bytes=4000-", None]


def test_a_part_that_is_already_whole_is_taken(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(CONTENT)
    (tmp_path / "weights.bin.part.etag").write_text('"v1"')
    server.paths[FILE] = Served()
    get(link(len(CONTENT), SHA256), tmp_path, server)
    assert names(tmp_path) == ["weights.bin"]


def test_a_server_that_is_not_there(tmp_path, server):
    server.base = "http://127.0.0.1:9"
    with pytest.raises(FetchError, match="no connection"):
        get(link(), tmp_path, server)
    assert names(tmp_path) == []


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.paths[FILE] = Served(status=503)
    with pytest.raises(FetchError, match="answers 503"):
        get(link(), tmp_path, server)
    assert len(server.asked) == ATTEMPTS


# --- a server that lies ------------------------------------------------------------------------------------------


def test_a_wrong_hash_leaves_nothing(server, tmp_path):
    server.paths[FILE] = Served(CONTENT[:-1] + b"?")
    with pytest.raises(FetchError, match=f"has sha256 [0-9a-f]{{64}}, expected {SHA256}; nothing was kept"):
        get(link(len(CONTENT), SHA256), tmp_path, server)
    assert names(tmp_path) == []


def test_a_length_other_than_published_leaves_nothing(server, tmp_path):
    server.paths[FILE] = Served(CONTENT + b"more")
    with pytest.raises(FetchError, match=f"offers {len(CONTENT) + 4} bytes, expected {len(CONTENT)}"):
        get(link(len(CONTENT)), tmp_path, server)
    assert names(tmp_path) == []


def test_more_declared_than_sent(server, tmp_path):
    server.paths[FILE] = Served(declared=len(CONTENT) + 500)
    with pytest.raises(FetchError, match="repeat the command"):
        get(link(), tmp_path, server)
    assert not (tmp_path / "weights.bin").exists()


def test_less_declared_than_sent(server, tmp_path):
    server.paths[FILE] = Served(declared=500)
    with pytest.raises(FetchError, match="expected"):
        get(link(sha256=SHA256), tmp_path, server)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("status", "says"), [(404, "may have moved"), (403, "HF_TOKEN"), (401, "agree to the terms")])
def test_refusals_say_what_to_do(server, tmp_path, status, says):
    server.paths[FILE] = Served(status=status)
    with pytest.raises(FetchError, match=says):
        get(link(), tmp_path, server)
    assert len(server.asked) == 1


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    server.paths[FILE] = Served()
    with pytest.raises(FetchError, match="cannot be written"):
        get(link(), tmp_path / "file" / "folder", server)


# --- archives ----------------------------------------------------------------------------------------------------

ARCHIVE = "/files/set.zip"


def archive(**members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        for name, text in members.items():
            zipped.writestr(name.replace("__", "/"), text)
    return content.getvalue()


def packed(content, **more):
    digest = hashlib.sha256(content).hexdigest()
    return link(
        urls=(Link(url=f"https://example.org{ARCHIVE}", size=len(content), sha256=digest),), unpack=True, **more
    )


def test_an_archive_becomes_its_folder(server, tmp_path):
    content = archive(DAVIS__ImageSets__val="dog", DAVIS__readme="text")
    server.paths[ARCHIVE] = Served(content, breaks=[50])
    wanted = packed(content, use="look in {to}")
    said = []
    folder = get(wanted, tmp_path / "data" / "DAVIS", server, said)
    assert names(folder) == [RECORD, "ImageSets", "ImageSets/val", "readme"]
    assert names(tmp_path / "data")[0] == "DAVIS"
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["DAVIS"]
    assert said[-1] == f"  use it: look in {folder}"
    record = json.loads((folder / RECORD).read_text())
    assert record["origin"] == f"https://example.org{ARCHIVE}"
    asked = len(server.asked)
    get(wanted, folder, server)
    assert len(server.asked) == asked


def test_an_archive_without_a_top_folder(server, tmp_path):
    content = archive(a="1", b="2")
    server.paths[ARCHIVE] = Served(content)
    assert names(get(packed(content), tmp_path / "x", server)) == [RECORD, "a", "b"]


def test_an_archive_cannot_write_outside_its_folder(server, tmp_path):
    content = archive(**{"../../evil": "x", "top__ok": "y"})
    server.paths[ARCHIVE] = Served(content)
    get(packed(content), tmp_path / "inner" / "x", server)
    assert [p.name for p in tmp_path.iterdir()] == ["inner"]
    assert [p.name for p in (tmp_path / "inner").iterdir()] == ["x"]


def test_an_archive_that_is_none_leaves_nothing(server, tmp_path):
    server.paths[ARCHIVE] = Served(CONTENT)
    with pytest.raises(FetchError, match="no whole zip"):
        get(packed(CONTENT), tmp_path / "x", server)
    assert names(tmp_path) == []


def test_a_folder_of_somebody_else_is_not_touched(server, tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(FetchError, match="was not fetched by this command"):
        get(packed(CONTENT), tmp_path, server)
    assert names(tmp_path) == ["mine.txt"]


# --- Hugging Face repositories -----------------------------------------------------------------------------------


def serve_repo(server, files, kind="models", listed=None):
    """A hub that lists ``files`` of owner/name at commit c0ffee, with size, and sha256 for all but json."""
    siblings = []
    for name, content in files.items():
        large = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        siblings.append({"rfilename": name, "size": len(content), **({} if ".json" in name else {"lfs": large})})
        prefix = "/datasets" if kind == "datasets" else ""
        server.paths[f"{prefix}/owner/name/resolve/c0ffee/{name.replace(' ', '%20')}"] = Served(content)
    listing = {"sha": "c0ffee", "siblings": listed or siblings, "cardData": {"license": "apache-2.0"}}
    server.paths[f"/api/{kind}/owner/name/revision/main"] = Served(json.dumps(listing).encode())


REPO = {"urls": (), "repo": "owner/name"}


def test_a_repository_is_fetched_at_one_commit(server, tmp_path):
    serve_repo(server, {"vae/model.bin": CONTENT, "vae/config.json": b"{}", "other/big.bin": b"no"})
    said = []
    folder = get(link(**REPO, files=("vae/*",)), tmp_path, server, said)
    assert names(folder) == [RECORD, "vae", "vae/config.json", "vae/model.bin"]
    record = json.loads((folder / RECORD).read_text())
    assert (record["commit"], record["licence_stated"]) == ("c0ffee", "apache-2.0")
    assert record["sha256"]["vae/model.bin"] == SHA256
    assert any("licence stated by the repository: apache-2.0" in line for line in said)
    assert not any("big.bin" in path for path, _ in server.asked)


def test_a_data_set_repository_with_spaces_in_names(server, tmp_path):
    serve_repo(server, {"a clip.mp4": CONTENT}, kind="datasets")
    get(link(**REPO, repo_type="dataset"), tmp_path, server)
    assert (tmp_path / "a clip.mp4").read_bytes() == CONTENT


def test_a_repository_file_that_is_not_what_the_hub_says(server, tmp_path):
    serve_repo(server, {"a.bin": CONTENT, "b.bin": b"second"})
    server.paths["/owner/name/resolve/c0ffee/b.bin"] = Served(b"forged")
    with pytest.raises(FetchError, match=r"b\.bin: the file has sha256"):
        get(link(**REPO), tmp_path, server)
    assert names(tmp_path) == ["a.bin"]


def test_a_repository_cannot_write_outside_its_folder(server, tmp_path):
    serve_repo(server, {}, listed=[{"rfilename": "../evil", "size": 1}])
    with pytest.raises(FetchError, match="outside its own folder"):
        get(link(**REPO), tmp_path / "x", server)
    assert names(tmp_path) == []


def test_a_repository_without_the_files(server, tmp_path):
    serve_repo(server, {"a.bin": CONTENT})
    with pytest.raises(FetchError, match="no file like"):
        get(link(**REPO, files=("vae/*",)), tmp_path, server)


def test_a_gated_repository(server, tmp_path):
    server.paths["/api/models/owner/name/revision/main"] = Served(status=401)
    with pytest.raises(FetchError, match="agree to the terms on the repository's page"):
        get(link(**REPO), tmp_path, server)


def test_the_token_is_sent_to_the_hub_and_not_to_where_it_redirects(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    serve_repo(server, {"a.bin": CONTENT})
    server.paths["/cdn/a.bin"] = Served(CONTENT)
    server.paths["/owner/name/resolve/c0ffee/a.bin"] = Served(status=302, to=f"{server.base}/cdn/a.bin")
    get(link(**REPO), tmp_path, server)
    sent = {path: headers.get("authorization") for path, headers in server.asked}
    assert sent["/owner/name/resolve/c0ffee/a.bin"] == "Bearer secret"
    assert sent["/cdn/a.bin"] is None
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


# --- the catalogue -----------------------------------------------------------------------------------------------


def test_the_catalogue_is_complete_and_honest():
    known = catalogue()
    repos = {e.repo for e in known.values()}
    for wanted in ("qyoo/infotok-flex", "qyoo/tokenbench_240p", "qyoo/davis_240p", "LargeWorldModel/ElasticTok-VAE",
                   "nvidia/Cosmos-0.1-Tokenizer-CV8x8x8", "nvidia/Cosmos-1.0-Tokenizer-CV8x8x8"):  # fmt: skip
        assert wanted in repos
    assert "davis" in known
    for one in known.values():
        assert one.licence
        assert one.licence_url.startswith("https://")
        assert all(link.url.startswith("https://") for link in one.urls)
        assert one.verified or not any(link.size or link.sha256 for link in one.urls), "a hash needs its origin"


def test_where_things_go(monkeypatch, tmp_path):
    monkeypatch.setenv("AVTBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert entry("davis").place() == tmp_path / "DAVIS"
    assert entry("tokenbench-240p").place() == tmp_path / "tokenbench"
    assert entry("lpips-squeeze").place() == tmp_path / "torch" / "hub" / "checkpoints"
    monkeypatch.delenv("AVTBENCH_DATA")
    assert entry("davis").place().parts == ("data", "DAVIS")
    assert entry("infotok-flex").place().parts == ("weights", "infotok-flex")


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_lists_shows_and_fetches(server, tmp_path, monkeypatch, capsys):
    from avtbench.bench import fetch as fetching
    from avtbench.bench.cli import _main

    assert _main(["fetch"]) == 0
    assert "tokenbench-240p" in capsys.readouterr().out
    assert _main(["fetch", "davsi"]) == 2
    assert "did you mean davis" in capsys.readouterr().err
    monkeypatch.setattr(fetching, "catalogue", lambda: {"thing": link(len(CONTENT), SHA256)})
    arguments = ["fetch", "thing", "--to", str(tmp_path / "x"), "--mirror", server.base]
    assert _main(arguments) == 2
    shown = capsys.readouterr()
    assert "licence: MIT" in shown.out
    assert "--accept-licence" in shown.err
    server.paths[FILE] = Served()
    assert _main([*arguments, "--accept-licence"]) == 0
    assert "sha256 verified" in capsys.readouterr().out
    assert (tmp_path / "x" / "weights.bin").read_bytes() == CONTENT


def test_the_answer_to_the_question_decides(server, tmp_path):
    server.paths[FILE] = Served()
    with pytest.raises(FetchError, match="has not been accepted"):
        fetch(link(), tmp_path, accept_licence=lambda: False, base_url=server.base)
    fetch(link(), tmp_path, accept_licence=lambda: True, base_url=server.base)
    assert names(tmp_path) == ["weights.bin"]
