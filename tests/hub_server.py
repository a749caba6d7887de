"""A model hub on 127.0.0.1 for tests: the protocol that huggingface_hub speaks, and its faults.

Large files come by redirect to a second server that plays the content network.
"""

import hashlib
import json
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = {".h5ad", ".h5", ".tif", ".bin", ".safetensors", ".pt"}


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Fault:
    """What goes wrong with a file, ``times`` times; ``then`` what follows.

    Attributes:
        status: answer with this status instead of the file.
        cut: close the connection after so many bytes of the body.
        corrupt: flip one byte of the body.
        delay: seconds between pieces of the body.
        ignore_range: send the whole file where a part was asked for.
    """

    status: int = 0
    cut: int | None = None
    corrupt: bool = False
    delay: float = 0.0
    ignore_range: bool = False
    times: int = 10**9
    then: "Fault | None" = None


@dataclass
class Request:
    """One request as the server saw it."""

    method: str
    path: str
    range: str | None
    authorized: bool
    host: str


@dataclass
class HubServer:
    """Use as a context manager; ``files`` maps ``datasets/owner/name`` to {path: bytes}.

    Attributes:
        gated: repository → tokens whose owners accepted its conditions.
        tokens: all tokens that exist; others are refused as expired.
        sizes: sizes to claim for a file instead of the true one.
        static: other addresses served as they are.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: dict[str, set[str]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    static: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    sent: Counter = field(default_factory=Counter)

    def __enter__(self) -> "HubServer":
        self.hub, self.network = (self._start(name) for name in ("hub", "network"))
        self.url, self.network_url = (
            f"http://127.0.0.1:{s.server_port}" for s in (self.hub, self.network)
        )
        return self

    def __exit__(self, *_) -> None:
        for server in (self.hub, self.network):
            server.shutdown()
            server.server_close()

    def _start(self, name: str) -> ThreadingHTTPServer:
        handler = type("Handler", (_Handler,), {"world": self, "name": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def commit(self, repo: str) -> str:
        sha = hashlib.sha1(repo.encode())
        for path, data in sorted(self.files[repo].items()):
            sha.update(path.encode() + data)
        return sha.hexdigest()

    def publish(self, repo: str, commit: str, files: dict[str, bytes]) -> None:
        """Serve ``files`` as GitHub does: the tree at ``url``, the bytes below ``url``/raw."""
        tree = [{"path": "folder", "type": "tree", "sha": "0" * 40}]
        for name, data in files.items():
            tree.append({"path": name, "type": "blob", "size": len(data), "sha": git_blob(data)})
            self.static[f"/raw/{repo}/{commit}/{name}"] = data
        body = json.dumps({"sha": commit, "tree": tree, "truncated": False}).encode()
        self.static[f"/repos/{repo}/git/trees/{commit}"] = body

    def transfers(self, path: str = "") -> list[Request]:
        """The requests that asked for the bytes of a file."""
        names = ("/resolve/", "/content/", "/raw/")
        return [
            r
            for r in self.requests
            if r.method == "GET" and any(n in r.path for n in names) and r.path.endswith(path)
        ]


class _Handler(BaseHTTPRequestHandler):
    world: HubServer
    name: str
    protocol_version = "HTTP/1.1"

    log_message = staticmethod(lambda *_: None)

    def handle(self) -> None:
        with suppress(ConnectionError):  # clients hang up when they have seen enough
            super().handle()

    def do_GET(self) -> None:
        self._note()
        path = unquote(urlsplit(self.path).path)
        if self.name == "network":
            repo, _, file = path.removeprefix("/content/").partition("//")
            return self._send(file, self.world.files[repo][file])
        if path in self.world.static:
            return self._send(path, self.world.static[path])
        if path.startswith("/api/"):
            return self._api(path.removeprefix("/api/"))
        return self._resolve(path.lstrip("/"))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._note()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        repo, _, revision = unquote(urlsplit(self.path).path)[5:].partition("/paths-info/")
        if self._known(repo, revision):
            rows = [
                self._row(repo, p) for p in parse_qs(body)["paths"] if p in self.world.files[repo]
            ]
            self._json(rows)

    def _api(self, path: str) -> None:
        if path.endswith("/auth-check"):
            repo = path.removesuffix("/auth-check")
            if self._known(repo, "main") and self._allowed(repo):
                self._json({})
            return
        for verb in ("/revision/", "/tree/"):
            if verb in path:
                repo, _, rest = path.partition(verb)
                revision, _, folder = rest.partition("/")
                break
        else:
            repo, verb, revision, folder = path, "/revision/", "main", ""
        if not self._known(repo, revision):
            return
        if verb == "/revision/":
            return self._json({"id": repo.partition("/")[2], "sha": self.world.commit(repo)})
        names = [p for p in self.world.files[repo] if not folder or p.startswith(folder + "/")]
        if folder and not names:
            return self._refuse(404, "EntryNotFound")
        return self._json([self._row(repo, p) for p in names])

    def _resolve(self, path: str) -> None:
        repo, _, rest = path.partition("/resolve/")
        repo = repo if repo.startswith("datasets/") else f"models/{repo}"
        revision, _, file = rest.partition("/")
        if not self._known(repo, revision) or not self._allowed(repo):
            return
        if file not in self.world.files[repo]:
            return self._refuse(404, "EntryNotFound")
        if PurePosixPath(file).suffix not in LARGE:
            return self._send(file, self.world.files[repo][file], repo)
        self.send_response(302)
        address = f"{self.world.network_url}/content/{repo}//{file}"
        self.send_header("Location", f"{address}?X-Amz-Signature=signed")
        self.send_header("X-Repo-Commit", self.world.commit(repo))
        oid = hashlib.sha256(self.world.files[repo][file]).hexdigest()
        self.send_header("X-Linked-Etag", f'"{oid}"')
        self.send_header("X-Linked-Size", str(len(self.world.files[repo][file])))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _known(self, repo: str, revision: str) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.world.tokens:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repo not in self.world.files:
            # A real hub does not tell strangers which private repositories exist.
            self._refuse(404 if token else 401, "RepoNotFound")
        elif revision not in ("main", self.world.commit(repo)):
            self._refuse(404, "RevisionNotFound")
        else:
            return True
        return False

    def _allowed(self, repo: str) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo in self.world.gated and token not in self.world.gated[repo]:
            self._refuse(403 if token else 401, "GatedRepo")
            return False
        return True

    def _row(self, repo: str, path: str) -> dict:
        data = self.world.files[repo][path]
        size = self.world.sizes.get(path, len(data))
        row = {"type": "file", "path": path, "size": size, "oid": git_blob(data)}
        if PurePosixPath(path).suffix in LARGE:
            oid = hashlib.sha256(data).hexdigest()
            row["lfs"] = {"oid": oid, "size": size, "pointerSize": 130}
        return row

    def _fault(self, name: str) -> Fault:
        fault = self.world.faults.get(name)
        while fault is not None and fault.times <= 0:
            fault = fault.then
        if fault is None or self.command == "HEAD":
            return Fault()
        fault.times -= 1
        return fault

    def _send(self, name: str, data: bytes, repo: str | None = None) -> None:
        fault, start = self._fault(name), 0
        if fault.status:
            return self._refuse(fault.status)
        if (wanted := self.headers.get("Range")) and not fault.ignore_range:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        body = bytearray(data[start:])
        if fault.corrupt:
            body[len(body) // 2] ^= 0xFF
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if repo:
            self.send_header("X-Repo-Commit", self.world.commit(repo))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self._body(name, body, fault)

    def _body(self, name: str, body: bytearray, fault: Fault) -> None:
        piece = max(1, len(body) // 4) if fault.delay else 1 << 16
        end = len(body) if fault.cut is None else min(fault.cut, len(body))
        for at in range(0, end, piece):
            part = body[at : min(at + piece, end)]
            self.world.sent[name] += len(part)
            self.wfile.write(part)
            time.sleep(fault.delay)
        if end < len(body):
            self.wfile.flush()
            self.close_connection = True

    def _json(self, value) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _note(self) -> None:
        path, known = unquote(urlsplit(self.path).path), "Authorization" in self.headers
        request = Request(self.command, path, self.headers.get("Range"), known, self.name)
        self.world.requests.append(request)


def isolate(monkeypatch, home, token: str | None = None) -> None:
    """Cut huggingface_hub off from the user's login, proxies, offline mode and long pauses."""
    from huggingface_hub import close_session, constants, file_download

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    # For child processes; this one has read them already.
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", str(home / "no-home"))
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "no-tokens"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Its own name for the module alone: the server's pauses must stay.
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    close_session()
