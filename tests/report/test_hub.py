"""`stentor card --push`, by huggingface_hub itself against a small hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from stentor.report.card import rewrite

TOKEN = "hf_test"


@dataclass
class Hub:
    """What was sent to the hub."""

    address: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    summary: str = ""
    token: str = TOKEN


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else self._chunks()
            if self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._answer({"error": "Invalid username or password."}, 401)
            elif self.path == "/api/repos/create":
                hub.created.append(json.loads(body))
                self._answer({"url": f"{hub.address}/me/tiny"})
            elif self.path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif self.path.startswith("/api/models/me/tiny/preupload/"):
                files = json.loads(body)["files"]
                self._answer({"files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in files
                ]})  # fmt: skip
            elif self.path.startswith("/api/models/me/tiny/commit/"):
                for line in map(json.loads, body.decode().splitlines()):
                    if line["key"] == "header":
                        hub.summary = line["value"]["summary"]
                    else:
                        content = base64.b64decode(line["value"]["content"])
                        hub.files[line["value"]["path"]] = content
                oid = "a" * 40
                address = f"{hub.address}/me/tiny/commit/{oid}"
                self._answer({"success": True, "commitOid": oid, "commitUrl": address,
                              "hookOutput": ""})  # fmt: skip
            else:
                self._answer({"error": f"no {self.path}"}, 404)

        def _chunks(self) -> bytes:
            found = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            return found

        def _answer(self, content: dict[str, Any], status: int = 200) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    found.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(tiny_run: Run) -> Path:
    shutil.copytree(tiny_run.path, "run", ignore=shutil.ignore_patterns("checkpoints", "adapters"))
    return Path("run")


def push(hub: Hub, run: Path, repo: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(Path.cwd() / "hf")}
    return subprocess.run(
        [sys.executable, "-m", "stentor.cli", "card", str(run), "--push", repo],
        env=clean | settings | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_model_card_and_report_become_one_commit(hub: Hub, run: Path) -> None:
    done = push(hub, run, "me/tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.address}/me/tiny/commit/{'a' * 40}\n"
    assert hub.created[0]["name"] == "tiny" and hub.created[0]["organization"] == "me"
    assert {
        "README.md", "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
        "generation_config.json", "report.json", "report.html", "recipe.yaml", "plots/loss.png",
        "plots/loss.svg", "metrics.jsonl", "probe.jsonl",
    } <= hub.files.keys()  # fmt: skip
    for name in ("model.safetensors", "config.json"):
        assert hub.files[name] == (run / "model" / name).read_bytes()
    card = hub.files["README.md"].decode()
    assert 'model_id = "me/tiny"' in card and "![loss](plots/loss.png)" in card
    assert 'model_id = "model"' in (run / "README.md").read_text(encoding="utf-8")
    assert hub.summary.startswith("tiny, made with stentor ")


def test_plots_that_were_not_drawn_now_stay_here(hub: Hub, run: Path) -> None:
    shutil.copyfile(run / "plots" / "loss.png", run / "plots" / "x.png")
    (run / "metrics.jsonl").unlink()  # without it there is no curve, and the old one is no news
    done = push(hub, run, "me/tiny")
    assert done.returncode == 0, done.stderr
    sent = [name for name in hub.files if name.startswith("plots/")]
    assert sorted(sent) == [
        "plots/outcomes.png", "plots/outcomes.svg", "plots/refusal.png", "plots/refusal.svg",
    ]  # fmt: skip
    shown = re.findall(r"!\[\w+\]\((.*?)\)", hub.files["README.md"].decode())
    assert shown == ["plots/outcomes.png", "plots/refusal.png"]


def test_what_lies_on_the_hub_is_enough_to_write_card_and_page_again(hub: Hub, run: Path) -> None:
    assert push(hub, run, "me/tiny").returncode == 0
    for name, content in hub.files.items():
        (Path("fetched") / name).parent.mkdir(parents=True, exist_ok=True)
        (Path("fetched") / name).write_bytes(content)
    rewrite(Path("fetched"))
    for name in ("README.md", "report.html"):
        assert (Path("fetched") / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize(
    ("repo", "environment", "code", "text"),
    [
        ("me/tiny", {"HF_TOKEN": "hf_wrong"}, 2, "the hub does not let you in; log in with"),
        ("a/b/c", {}, 2, "--push a/b/c: "),
        ("me/tiny", {"HF_HUB_OFFLINE": "1"}, 2, "HF_HUB_OFFLINE is set"),
        ("me/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "the hub can't be reached"),
    ],
)
def test_what_goes_wrong_is_one_line(
    hub: Hub, run: Path, repo: str, environment: dict[str, str], code: int, text: str
) -> None:
    done = push(hub, run, repo, **environment)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert not hub.files
