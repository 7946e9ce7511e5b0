"""The store: whole objects, compare-and-swap, clear errors; the same on a folder and on S3."""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import s3fs

from schemas.arrow import table_to_parquet
from schemas.errors import ConfigError, StoreError
from schemas.store import BucketObjects, Store, _backend, _require_conditional_writes

COUNT_UP = """
import sys
from schemas.store import Store
store, wins = Store(sys.argv[1]), 0
while wins < 15:
    before = store.read_bytes("n")
    wins += store.replace("n", str(int(before) + 1).encode(), before)
"""


def test_an_object_reads_back_as_written(store: Store) -> None:
    store.write_bytes("a/b.bin", b"one")
    store.write_bytes("a/b.bin", b"two")
    assert store.read_bytes("a/b.bin") == b"two"
    assert store.exists("a/b.bin") and not store.exists("a/c.bin") and not store.exists("a")


def test_a_missing_object_is_an_error_that_names_its_uri(store: Store) -> None:
    for read in (store.read_bytes, store.open_parquet):
        with pytest.raises(StoreError, match="nothing/here") as caught:
            read("nothing/here")
        assert store.root in str(caught.value)


def test_create_writes_only_the_first_time(store: Store) -> None:
    assert store.create("x", b"first")
    assert not store.create("x", b"second")
    assert store.read_bytes("x") == b"first"


def test_replace_writes_only_over_the_expected_content(store: Store) -> None:
    assert not store.replace("x", b"new", b"old")
    assert store.replace("x", b"old", None)
    assert not store.replace("x", b"new", None)
    assert not store.replace("x", b"new", b"other")
    assert store.replace("x", b"new", b"old")
    assert store.read_bytes("x") == b"new"


def test_delete_is_silent_about_absent_objects(store: Store) -> None:
    store.write_bytes("x", b"1")
    store.delete("x")
    store.delete("x")
    assert not store.exists("x")


def test_a_parquet_file_is_read_by_row_group(store: Store) -> None:
    store.write_bytes("t.parquet", table_to_parquet(pa.table({"n": list(range(25_000))})))
    with store.open_parquet("t.parquet") as file:
        assert file.num_row_groups == 3
        assert file.read_row_group(2)["n"].to_pylist() == list(range(20_000, 25_000))


def test_a_file_that_is_no_parquet_is_a_store_error(store: Store) -> None:
    store.write_bytes("t.parquet", b"not parquet at all")
    with pytest.raises(StoreError, match=r"t\.parquet"):
        store.open_parquet("t.parquet")


def test_a_store_travels_to_other_processes(store: Store) -> None:
    store.write_bytes("x", b"1")
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store and copy.read_bytes("x") == b"1"


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd"])
def test_paths_outside_the_root_are_refused(local_store: Store, path: str) -> None:
    with pytest.raises(StoreError, match="leaves the root"):
        local_store.write_bytes(path, b"")


def test_a_relative_root_stays_where_it_was_made(tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = Store("runs/demo/")
    monkeypatch.chdir("/")
    made.write_bytes("x", b"1")
    assert (tmp_path / "runs/demo/x").read_bytes() == b"1"
    assert made == Store(f"file://{tmp_path}/runs/demo") and made.is_local


def test_an_unknown_scheme_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="ftp://"):
        Store("ftp://host/x")


def test_an_unwritable_root_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="flywheel doctor"):
        Store(str(tmp_path / "file" / "root")).write_bytes("x", b"")


def test_a_failed_write_leaves_no_draft(local_store: Store) -> None:
    local_store.create("x", b"1")
    local_store.create("x", b"2")
    assert sorted(os.listdir(local_store.root)) == ["x"]


def test_of_many_threads_with_the_same_expectation_one_wins(store: Store) -> None:
    store.write_bytes("x", b"start")
    gate, wins = threading.Barrier(6), []

    def swap(name: int) -> None:
        gate.wait()
        if store.replace("x", str(name).encode(), b"start"):
            wins.append(name)

    threads = [threading.Thread(target=swap, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1 and store.read_bytes("x") == str(wins[0]).encode()


@pytest.mark.slow
def test_two_processes_lose_no_swap(store: Store, child_env: Callable[[], dict[str, str]]) -> None:
    store.write_bytes("n", b"0")
    children = [subprocess.Popen([sys.executable, "-c", COUNT_UP, store.root], env=child_env())
                for _ in range(2)]
    assert [child.wait(timeout=60) for child in children] == [0, 0]
    assert store.read_bytes("n") == b"30"


@pytest.mark.s3
def test_a_server_without_conditional_writes_is_refused(
        s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = BucketObjects._put
    monkeypatch.setattr(BucketObjects, "_put",
                        lambda self, key, data, **condition: put(self, key, data))
    _require_conditional_writes.cache_clear()
    with pytest.raises(StoreError, match="ignores conditional writes"):
        Store(s3_root).create("champion.json", b"")


@pytest.mark.s3
def test_an_absent_bucket_is_a_store_error(s3_endpoint: str) -> None:
    with pytest.raises(StoreError, match="no-such-bucket"):
        Store("s3://no-such-bucket/run").write_bytes("x", b"1")
    with pytest.raises(StoreError, match="no-such-bucket"):
        Store("s3://no-such-bucket/run").create("x", b"1")


@pytest.fixture
def _new_clients() -> Iterator[None]:
    """S3 clients of this test alone: they keep the endpoint and credentials they began with."""
    for begun in (False, True):
        s3fs.S3FileSystem.clear_instance_cache()
        _backend.cache_clear()
        if not begun:
            yield


@pytest.mark.parametrize("changes", [
    {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "me"},
    {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_CONFIG_FILE": "/dev/null",
     "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true"},
], ids=["nobody listens", "no credentials"])
@pytest.mark.slow
def test_storage_that_is_away_is_a_store_error(
        monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], request: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
                        "AWS_MAX_ATTEMPTS": "1", **changes}.items():
        monkeypatch.setenv(name, value)
    request.getfixturevalue("_new_clients")
    store = Store("s3://bucket/run")
    for call in (store.read_bytes, store.exists, store.delete, store.open_parquet,
                 lambda path: store.write_bytes(path, b""), lambda path: store.create(path, b"")):
        with pytest.raises(StoreError, match="flywheel doctor"):
            call("x")


@pytest.mark.s3
def test_a_connection_lost_while_a_parquet_file_is_read_is_a_store_error(
        s3_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ConnectionClosedError

    fetch, lost = s3fs.core.S3File._fetch_range, []

    def fetch_range(*arguments: object) -> Any:
        if lost:
            raise ConnectionClosedError(endpoint_url="s3")
        return fetch(*arguments)

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", fetch_range)
    store = Store(s3_root)
    store.write_bytes("t.parquet", table_to_parquet(pa.table({"n": list(range(10))})))
    with store.open_parquet("t.parquet") as file:
        lost.append(True)
        with pytest.raises(StoreError, match=r"t\.parquet.*ConnectionClosedError"):
            file.read()
