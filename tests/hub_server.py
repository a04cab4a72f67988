"""A stand-in for the Hugging Face hub on this machine: as much of its protocol as downloads and uploads need.

Repositories are folders `root/owner/name`; the main branch is all there is, other branches are only counted. Uploads
go through the LFS protocol, so set HF_HUB_DISABLE_XET. Tokens: WRITER may write to `someone`, READER may only read.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

OWNER, WRITER, READER = "someone", "hf_writer", "hf_reader"


class HubServer(ThreadingHTTPServer):
    """Serves the folder `root`; what was asked of it is in the other attributes."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(root)))
        self.root = root
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.objects: dict[str, bytes] = {}
        """Content of LFS files by their sha256."""
        self.commits: list[dict[str, Any]] = []
        """Header of each commit, with the `branch`."""
        self.created: list[dict[str, Any]] = []
        """What each new repository was asked to be."""
        self.branches: set[str] = {"main"}


class _Handler(SimpleHTTPRequestHandler):
    server: HubServer

    # --- downloads: /owner/name/resolve/REVISION/FILE ---

    def translate_path(self, path: str) -> str:
        owner, name, *rest = path.strip("/").split("/")
        return str(Path(self.directory, owner, name, *rest[2:]))

    def do_GET(self) -> None:
        if not self.path.startswith("/api/"):
            super().do_GET()
            return
        folder = self._repository(self.path.partition("?")[0].split("/tree/")[0])
        if not folder.is_dir():
            self._refuse(404, "RepoNotFound")
            return
        files = [path for path in folder.iterdir() if path.is_file()]
        self._answer([{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0"} for path in files])

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            return super().send_head()
        owner, name, *_ = self.path.strip("/").split("/")
        self._refuse(404, "EntryNotFound" if Path(self.directory, owner, name).is_dir() else "RepoNotFound")
        return None

    def end_headers(self) -> None:
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hash(self.path) & 0xFFFFFFFF:064x}"')
        super().end_headers()

    # --- uploads ---

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            self._answer({"warnings": [], "errors": []})
        elif self._may_write(path, body):
            self._write(path, body)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        digest = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == digest
        self.server.objects[digest] = content
        self._answer({})

    def _may_write(self, path: str, body: bytes) -> bool:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        owner = json.loads(body)["organization"] if path == "/api/repos/create" else self._repository(path).parent.name
        if token not in (WRITER, READER):
            self._refuse(401, message="Invalid credentials in Authorization header")
        elif token != WRITER or owner != OWNER:
            self._refuse(403, message="You don't have the rights")
        else:
            return True
        return False

    def _write(self, path: str, body: bytes) -> None:
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif "/branch/" in path:
            self.server.branches.add(path.rpartition("/")[2])
            self._answer({})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self._answer({"files": [{"path": file["path"], "shouldIgnore": False, "uploadMode": _mode(file["path"])}
                                    for file in files]})  # fmt: skip
        elif path.endswith("/info/lfs/objects/batch"):
            self._answer(
                {"transfer": "basic", "objects": [self._upload(entry) for entry in json.loads(body)["objects"]]}
            )
        elif "/commit/" in path:
            self._commit(path, [json.loads(line) for line in body.splitlines()])
        else:
            raise AssertionError(f"the stand-in for the hub does not know {self.command} {self.path}")

    def _create(self, wanted: dict[str, Any]) -> None:
        folder = self.server.root / wanted["organization"] / wanted["name"]
        address = {"url": f"{self.server.endpoint}/{wanted['organization']}/{wanted['name']}"}
        if folder.exists():
            self._answer(address, status=409)
            return
        folder.mkdir(parents=True)
        self.server.created.append(wanted)
        self._answer(address)

    def _upload(self, entry: dict[str, Any]) -> dict[str, Any]:
        action = {"upload": {"href": f"{self.server.endpoint}/objects/{entry['oid']}"}}
        return entry if entry["oid"] in self.server.objects else entry | {"actions": action}

    def _commit(self, path: str, lines: list[dict[str, Any]]) -> None:
        branch = path.rpartition("/")[2]
        if branch not in self.server.branches:
            self._refuse(404, "RevisionNotFound")
            return
        folder = self._repository(path)
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.server.commits.append(value | {"branch": branch})
                case "file":
                    (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
                case "lfsFile":
                    (folder / value["path"]).write_bytes(self.server.objects[value["oid"]])
                case "deletedFile":
                    (folder / value["path"]).unlink()
        address = f"{self.server.endpoint}/{folder.parent.name}/{folder.name}/commit/{'0' * 40}"
        self._answer({"commitUrl": address, "commitOid": "0" * 40})

    # --- both ---

    def _repository(self, path: str) -> Path:
        """Its folder, from /api/models/owner/name/... or /owner/name.git/..."""
        owner, name, *_ = path.removeprefix("/api/models").strip("/").split("/")
        return self.server.root / owner / name.removesuffix(".git")

    def _answer(self, content: Any, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, code: str | None = None, message: str | None = None) -> None:
        self.send_response(status)
        for name, value in (("X-Error-Code", code), ("X-Error-Message", message)):
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def _mode(name: str) -> str:
    return "lfs" if name.endswith((".safetensors", ".png")) else "regular"


@contextmanager
def serving(root: Path) -> Iterator[HubServer]:
    """A hub whose repositories lie under `root`, while the block runs."""
    root.mkdir(parents=True, exist_ok=True)
    server = HubServer(root)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
