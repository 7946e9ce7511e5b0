"""Fixtures for all tests: one store on a folder, one on a real S3 server (moto) of this process."""

import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.store import Store


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "s3: needs the local S3 server (moto)")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of an S3 server; the AWS variables point every client of this test run at it."""
    from moto.moto_server import threaded_moto_server as server_module
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    class OneAtATime(DomainDispatcherApplication):
        """S3 checks a condition and writes in one step; moto does so only for one request."""

        turn = threading.Lock()

        def __call__(self, environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
            with self.turn:
                return list(super().__call__(environ, start_response))

    patch = pytest.MonkeyPatch()
    patch.setattr(server_module, "DomainDispatcherApplication", OneAtATime)
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test",
                        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        patch.setenv(name, value)
    yield url
    server.stop()
    patch.undo()


@pytest.fixture
def s3_root(s3_endpoint: str) -> str:
    """A fresh `s3://bucket/prefix`."""
    import fsspec

    bucket = f"b-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(bucket)
    return f"s3://{bucket}/run"


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store, once on a folder and once on S3."""
    if request.param == "s3":
        return Store(request.getfixturevalue("s3_root"))
    return Store(str(tmp_path / "root"))


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    """An empty store on a folder."""
    return Store(str(tmp_path / "root"))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def child_env(repo: Path) -> Callable[[], dict[str, str]]:
    """Environment for a child process that imports the rooms (taken when called)."""
    return lambda: {**os.environ, "PYTHONPATH": str(repo)}
