"""How models come in, are published and read back."""

import pickle
import shutil
from pathlib import Path

import pytest

from model_ops.models import (
    fetch_model,
    hash_files,
    locate_model,
    publish_base,
    publish_model,
    reward_word_of,
)
from schemas.artifacts import find_manifest, read_manifest
from schemas.config import ModelConfig
from schemas.errors import ConfigError, StoreError
from schemas.store import Store

PREFIX = "rounds/round=0000/model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The nursery's model as somebody's own folder, with things that do not belong to it."""
    place = tmp_path / "mine"
    shutil.copytree(locate_model("nursery://vlm"), place)
    (place / "README.md").write_text("card")
    (place / "modeling.py").write_text("raise SystemExit")
    (place / "optimizer.pt").write_bytes(pickle.dumps(1))
    (place / "manifest.json").write_text("{}")
    return place


def test_the_same_files_are_the_same_model_wherever_they_came_from(store: Store, folder: Path,
                                                                   tmp_path: Path) -> None:
    base = publish_base(store, ModelConfig(uri="nursery://vlm"))
    other = publish_base(Store(str(tmp_path / "other")), ModelConfig(uri=str(folder)))
    assert base.digest == other.digest and base.kind == "model" and base.prefix == PREFIX
    assert set(base.files) == set(hash_files(folder))
    assert not any(name.endswith((".py", ".pt", ".md")) for name in base.files)
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    assert publish_base(Store(str(tmp_path / "third")),
                        ModelConfig(uri=str(folder))).digest != base.digest


def test_a_model_of_an_earlier_run_keeps_its_reward_word(store: Store, tmp_path: Path) -> None:
    trained = publish_model(Store(str(tmp_path)), locate_model("nursery://vlm"), "trained",
                            "inputs", {}, {"reward_word": "good"})
    assert reward_word_of(trained) == "good"
    taken = publish_base(store, ModelConfig(uri=str(tmp_path / "trained")))
    assert reward_word_of(taken) == "good"
    bare = publish_base(store, ModelConfig(uri="nursery://vlm"), "bare")
    assert reward_word_of(bare) == "" and bare.digest != taken.digest


def test_a_model_survives_the_store(store: Store, folder: Path, tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_CACHE", str(tmp_path / "cache"))
    made = publish_model(store, folder, "m", "inputs", {"start": "d"}, stats={"steps": 2})
    assert read_manifest(store, "m") == made
    fetched = fetch_model(store, made)
    assert hash_files(fetched) == made.files
    assert fetched == (Path(store.uri("m")) if store.is_local
                       else tmp_path / "cache" / "models" / made.digest)
    assert fetch_model(store, made) == fetched
    assert not list((tmp_path / "cache").glob("models/.partial*"))


@pytest.mark.s3
def test_a_changed_file_never_reaches_the_cache(s3_root: str, folder: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_CACHE", str(tmp_path / "cache"))
    store = Store(s3_root)
    made = publish_model(store, folder, "m", "inputs", {})
    store.write_bytes("m/config.json", b"{}")
    with pytest.raises(StoreError, match="sha256 differs"):
        fetch_model(store, made)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


@pytest.mark.s3
def test_a_base_in_a_bucket(s3_root: str, folder: Path, tmp_path: Path,
                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_CACHE", str(tmp_path / "cache"))
    source = Store(s3_root)
    for path in folder.iterdir():
        source.write_bytes(f"models/{path.name}", path.read_bytes())
    target = Store(str(tmp_path / "root"))
    base = publish_base(target, ModelConfig(uri=source.uri("models")))
    assert base.files == hash_files(folder)
    assert locate_model(source.uri("models")) == locate_model(source.uri("models"))
    with pytest.raises(ConfigError, match="no model at"):
        locate_model(source.uri("nowhere"))


def test_other_inputs_take_the_manifest_away_before_the_files(local_store: Store, folder: Path,
                                                              monkeypatch: pytest.MonkeyPatch
                                                              ) -> None:
    publish_model(local_store, folder, "m", "first", {})

    def fail(self: Store, path: str, data: bytes) -> None:
        raise StoreError("disk full")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="disk full"):
        patch.setattr(Store, "write_bytes", fail)
        publish_model(local_store, folder, "m", "second", {})
    assert find_manifest(local_store, "m", "first") is None
    again = publish_model(local_store, folder, "m", "second", {})
    assert find_manifest(local_store, "m", "second") == again


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize("is_complete", [True, False])
def test_another_model_in_its_place_keeps_no_file_of_the_one_before(
    store: Store, folder: Path, is_complete: bool
) -> None:
    (folder / INDEX).write_text("{}")
    first = publish_model(store, folder, "m", "first", {})
    store.write_bytes("m/metrics.jsonl", b"beside the model")
    if not is_complete:
        store.delete("m/manifest.json")
    (folder / INDEX).unlink()
    second = publish_model(store, folder, "m", "second", {})
    assert INDEX in first.files and INDEX not in second.files
    if is_complete or store.is_local:  # a bucket's is fetched file by file, as the manifest says
        assert not store.exists(f"m/{INDEX}")
    assert store.exists("m/metrics.jsonl") and store.exists("m/config.json")


def test_a_removed_file_is_named(local_store: Store, folder: Path) -> None:
    made = publish_model(local_store, folder, "m", "inputs", {})
    local_store.delete("m/model.safetensors")
    with pytest.raises(StoreError, match=r"lacks model\.safetensors"):
        fetch_model(local_store, made)


def test_pickled_weights_are_refused(local_store: Store, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="run code when loaded"):
        publish_base(local_store, ModelConfig(uri=str(folder)))
    (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": list(range(999))}))
    with pytest.raises(ConfigError, match="not a safetensors file"):
        publish_model(local_store, folder, "m", "inputs", {})


@pytest.mark.parametrize("uri", ["no such folder", "nursery://nothing"])
def test_a_name_that_is_no_model(uri: str) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        locate_model(uri)


def test_offline_the_hub_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*args: object, **kwargs: object) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ConfigError, match="hf download some/model --local-dir"):
        locate_model("some/model")
