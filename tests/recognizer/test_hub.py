"""push_to_hub and from_pretrained("org/name"), against a stand-in for the Hub on the loop-back interface."""

import base64
import builtins
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from arcface_pl import Recognizer
from arcface_pl.errors import PretrainedError

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "1" * 40


class Hub(ThreadingHTTPServer):
    """Repositories as dicts of files, behind the few addresses that huggingface_hub asks for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.created: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, content: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, code: int = 200, **headers: str) -> None:
        self._answer(json.dumps(value).encode(), code, Content_Type="application/json", **headers)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0].strip("/").split("/")
        if path[:2] == ["api", "models"]:
            name = "/".join(path[2:4])
            if name not in self.server.repositories:
                self._json({"error": "no such repository"}, 404, X_Error_Code="RepoNotFound")
                return
            files = [{"rfilename": file} for file in self.server.repositories[name]]
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in self.server.repositories[name].items()
            ]
            self._json(tree if "tree" in path else {"id": name, "sha": COMMIT, "siblings": files, "private": False})
            return
        content = self.server.repositories.get("/".join(path[:2]), {}).get(path[-1])
        if content is None:
            self._json({"error": "not found"}, 404)
            return
        self._answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815  # the name that http.server calls

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        path = self.path.partition("?")[0].strip("/").split("/")
        if path[-1] == "create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.server.created.append({**asked, "name": name})
            self.server.repositories.setdefault(name, {})
            self._json({"url": f"{self.server.address}/{name}", "name": name})
        elif "preupload" in path:
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            self._json({"files": [{**each, "shouldIgnore": False} for each in files]})
        elif path[-1] == "validate-yaml":
            self._json({"errors": [], "warnings": []})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            for each in (line["value"] for line in lines if line["key"] == "file"):
                content = base64.b64decode(each["content"])
                self.server.repositories["/".join(path[2:4])][each["path"]] = content
            address = f"{self.server.address}/{'/'.join(path[2:4])}/commit/{COMMIT}"
            self._json({"commitUrl": address, "commitOid": COMMIT, "success": True})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_made_up")
        yield running
        running.shutdown()


@pytest.mark.timeout(60)
def test_a_model_goes_to_the_hub_and_comes_back(
    server: Hub, recognizer: Recognizer, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    address = recognizer.push_to_hub("ada/digits")
    assert COMMIT in address
    assert server.created[0]["visibility"] == "private"
    assert set(server.repositories["ada/digits"]) == {"config.json", "model.safetensors", "README.md"}
    again = Recognizer.from_pretrained("ada/digits")
    assert torch.equal(again.embed(images, framed=True), recognizer.embed(images, framed=True))
    asked = len(server.asked)
    recognizer.save_pretrained("ada/digits")  # what is here comes first, without a question
    Recognizer.from_pretrained("ada/digits")
    assert len(server.asked) == asked


@pytest.mark.timeout(60)
def test_what_is_not_there_is_one_line(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PretrainedError, match="ada/nosuch: neither a folder here nor to be had from the Hub"):
        Recognizer.from_pretrained("ada/nosuch")
    for name in ("nosuch", "./ada/nosuch", "/ada/nosuch", "a/b/c"):
        asked = len(server.asked)
        with pytest.raises(PretrainedError):
            Recognizer.from_pretrained(name)
        assert len(server.asked) == asked


def test_a_damaged_model_of_the_hub_is_refused(
    server: Hub, recognizer: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recognizer.push_to_hub("ada/digits")
    weights = bytearray(server.repositories["ada/digits"]["model.safetensors"])
    weights[-1] ^= 1
    server.repositories["ada/digits"]["model.safetensors"] = bytes(weights)
    with pytest.raises(PretrainedError, match="model.safetensors"):
        Recognizer.from_pretrained("ada/digits")


def test_without_the_package_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    genuine = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(PretrainedError, match=r"pip install 'arcface_pl\[hub\]'"):
        Recognizer.from_pretrained("ada/digits")
