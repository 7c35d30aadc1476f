"""Models by folder, by file and by name on a hub."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from kvarn.planner import ModelShape, ShapeError
from kvarn.planner.source import find_shape, serve_arguments
from tests.planner.builders import config_path, real_shape

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The part of a hub that a model's config comes from."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def _answer(self, *, with_body: bool) -> None:
        if self.headers.get("Authorization") == "Bearer wrong":
            self._refuse(401, "Invalid credentials in Authorization header")
            return
        if self.path.startswith("/org/gated/"):
            self._refuse(403, "Access to model org/gated is restricted", code="GatedRepo")
            return
        known = self.path == "/org/model/resolve/main/config.json"
        body = config_path("Qwen3-8B").read_bytes() if known else b""
        self.send_response(200 if known else 404)
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        self.wfile.write(body if with_body else b"")

    def _refuse(self, status: int, words: str, code: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Message", words)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def inspect(source: str, home: Path, **environment: str) -> tuple[int, dict[str, object]]:
    """Exit status and report; `huggingface_hub` reads its environment when it is imported."""
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-m", "kvarn.planner.inspect", source],
        env=clean | {"HF_HOME": str(home)} | environment,
        capture_output=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_a_name_is_looked_up_on_the_hub_and_then_in_the_cache(hub: str, tmp_path: Path) -> None:
    code, report = inspect("hf://org/model", tmp_path, HF_ENDPOINT=hub)
    assert (code, ModelShape.from_dict(report)) == (0, real_shape("Qwen3-8B"))

    assert inspect("org/model", tmp_path, HF_HUB_OFFLINE="1") == (0, report)


def test_a_model_that_the_hub_has_not_is_named_with_the_remedies(hub: str, tmp_path: Path) -> None:
    code, report = inspect("org/absent", tmp_path, HF_ENDPOINT=hub)

    assert (code, report["reason"]) == (1, "UnknownModel")
    assert "set HF_TOKEN" in str(report["message"])


def test_a_token_that_the_hub_refuses_is_named(hub: str, tmp_path: Path) -> None:
    code, report = inspect("org/model", tmp_path, HF_ENDPOINT=hub, HF_TOKEN="wrong")

    assert (code, report["reason"]) == (1, "Unauthorized")
    assert "correct HF_TOKEN" in str(report["message"])


def test_a_model_with_terms_says_to_accept_them(hub: str, tmp_path: Path) -> None:
    code, report = inspect("org/gated", tmp_path, HF_ENDPOINT=hub)

    assert (code, report["reason"]) == (1, "Unauthorized")
    assert "accept the model's terms" in str(report["message"])


def test_what_is_built_in_is_planned_for_without_a_hub(tmp_path: Path) -> None:
    code, report = inspect("Qwen/Qwen3-8B", tmp_path, HF_ENDPOINT="http://127.0.0.1:1")

    assert (code, ModelShape.from_dict(report)) == (0, real_shape("Qwen3-8B"))


def test_a_hub_that_does_not_answer_is_named(tmp_path: Path) -> None:
    code, report = inspect("org/model", tmp_path, HF_ENDPOINT="http://127.0.0.1:1")

    assert (code, report["reason"]) == (1, "HubUnreachable")
    assert "http://127.0.0.1:1 does not answer" in str(report["message"])


@pytest.mark.parametrize("source", ["", "model", "a/b/c", "hf://", "hf://model", "s3://a/b"])
def test_what_is_no_name_is_refused_without_asking_anybody(source: str) -> None:
    with pytest.raises(ShapeError, match="give a folder"):
        find_shape(source)


def test_a_folder_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "org/model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(config_path("Qwen3-8B").read_bytes())
    monkeypatch.chdir(tmp_path)

    assert find_shape("org/model") == real_shape("Qwen3-8B")


def test_vllm_is_told_of_the_folder_or_the_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()

    for source in (tmp_path, tmp_path / "config.json"):
        assert serve_arguments(str(source)) == (str(tmp_path),)
    assert serve_arguments("hf://org/model@v1") == ("org/model", "--revision", "v1")


def test_vllm_is_not_told_of_a_config_that_lies_in_no_models_folder(tmp_path: Path) -> None:
    (tmp_path / "Qwen3-8B.json").touch()

    assert serve_arguments(str(tmp_path / "Qwen3-8B.json")) == ("MODEL",)
