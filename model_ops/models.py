"""Model folders: how they come in, how they are published, how they are read back.

Its one idea: a model is what its files are. A base has the same digest whether it came from the
hub, a bucket or a folder; a trained one adds what it was trained from. Weights are safetensors
only: a pickle runs code when it is loaded, so none is ever copied, published or read, and neither
is Python code beside the weights. What a model is used for is left to the engines and `training`.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.artifacts import find_manifest, publish, read_manifest
from schemas.config import ModelConfig
from schemas.errors import ConfigError, StoreError
from schemas.manifest import Manifest, digest
from schemas.store import Store

WEIGHTS = ".safetensors"
SUFFIXES = (WEIGHTS, ".json", ".jinja", ".txt", ".model", ".tiktoken")
"""Files that belong to a model: weights, configuration, tokenizer, processor, chat template."""
_NOT_MODEL = {"manifest.json", "trainer_state.json", "summary.json"}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NURSERY = Path(__file__).parent / "nursery" / "weights"


def publish_base(store: Store, config: ModelConfig,
                 prefix: str = "rounds/round=0000/model") -> Manifest:
    """Copy the base model that `config.uri` names into the root, once.

    Its digest depends on its files alone: the same files from elsewhere are the same model. A
    model of an earlier run (the folder has that run's manifest) keeps its reward word.
    """
    folder = locate_model(config.uri)
    asked = _asked_with(folder)
    identity = digest(["model", hash_files(folder), *asked.values()])
    return publish_model(store, folder, prefix, identity, {}, asked)


def publish_model(store: Store, local_dir: Path, prefix: str, inputs_digest: str,
                  parents: Mapping[str, str], config: Mapping[str, Any] | None = None,
                  stats: Mapping[str, float] | None = None) -> Manifest:
    """Publish the model files in `local_dir`: the files first, the manifest (their sha256) last.

    A model that is there, made from the same inputs, is left as it is. One made from other inputs
    loses its manifest first, then the files that the new one has not (an index of other shards),
    so that no reader ever sees files of two models.
    """
    present = find_manifest(store, prefix, inputs_digest)
    files = hash_files(local_dir)
    if present is not None and present.files == files:
        return present
    leftover = _published_files(store, prefix) - files.keys()
    store.delete(f"{prefix}/manifest.json")
    for name in sorted(leftover):
        store.delete(f"{prefix}/{name}")
    for name in files:
        store.write_bytes(f"{prefix}/{name}", (local_dir / name).read_bytes())
    return publish(store, Manifest(kind="model", prefix=prefix, inputs_digest=inputs_digest,
                                   parents=dict(parents), files=files, config=dict(config or {}),
                                   stats=dict(stats or {})))


def _published_files(store: Store, prefix: str) -> set[str]:
    """Names of the model files at `prefix`: what a manifest names, and in a folder, which is read
    in place, also what a killed publisher left."""
    is_complete = store.exists(f"{prefix}/manifest.json")
    names = set(read_manifest(store, prefix).files) if is_complete else set()
    folder = Path(store.uri(prefix))
    if store.is_local and folder.is_dir():
        names |= {path.name for path in folder.iterdir()
                  if path.name.endswith(SUFFIXES) and path.name not in _NOT_MODEL}
    return names


def fetch_model(store: Store, manifest: Manifest) -> Path:
    """A local folder with the model's files.

    A local root is read in place. From a bucket the files are downloaded once to a cache folder
    named by the model's digest, which appears only when every file has the manifest's sha256.
    """
    if not store.is_local:
        return _fetch_to_cache(store, manifest)
    folder = Path(store.uri(manifest.prefix))
    lacking = [name for name in manifest.files if not (folder / name).is_file()]
    if lacking:
        raise StoreError(f"{folder} lacks {', '.join(lacking)}: the model was removed after it was "
                         f"published; delete {folder}/manifest.json and run again to make it anew")
    return folder


def reward_word_of(model: Manifest) -> str:
    """The word that the model has to be asked with (it was trained with objective `crl`, or starts
    from one that was); "" for all others."""
    return str(model.config.get("reward_word", ""))


def _asked_with(folder: Path) -> dict[str, str]:
    """The reward word in the manifest beside the weights, if it is one of ours and has one."""
    beside = folder / "manifest.json"
    try:
        manifest = Manifest.model_validate_json(beside.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}
    word = reward_word_of(manifest)
    return {"reward_word": word} if word else {}


def locate_model(uri: str) -> Path:
    """The local folder of an outside model: `nursery://NAME`, a folder, a bucket, or a hub id.

    Raises `ConfigError` that says what to do if there is none, or none with safetensors weights.
    """
    local = Path(uri).expanduser()
    if is_downloaded(uri):
        folder = _download_folder(uri) if "://" in uri else _download_from_hub(uri)
    elif uri.startswith("nursery://"):
        folder = _NURSERY / uri.removeprefix("nursery://")
    elif local.is_dir():
        folder = local
    else:
        raise ConfigError(f"model.uri {uri!r}: no such folder, and not a hub id (owner/name)")
    model_files(folder)
    return folder


def is_downloaded(uri: str) -> bool:
    """Whether `locate_model` has to reach a bucket or the hub for it."""
    if "://" in uri:
        return not uri.startswith("nursery://")
    return not Path(uri).expanduser().is_dir() and _HUB_ID.fullmatch(uri) is not None


def model_files(folder: Path) -> list[str]:
    """Names of the model's files in `folder`, sorted; `ConfigError` without safe weights."""
    if not folder.is_dir():
        raise ConfigError(f"no model at {folder}: no such folder")
    present = sorted(path.name for path in folder.iterdir() if path.is_file())
    names = [name for name in present if name.endswith(SUFFIXES) and name not in _NOT_MODEL]
    weights = [name for name in names if name.endswith(WEIGHTS)]
    pickles = [name for name in present if name.endswith(_PICKLES)]
    if not weights:
        found = f"only pickles ({', '.join(pickles)}), which run code when loaded" if pickles \
            else "no weights"
        raise ConfigError(f"{folder} holds {found}; save the model as safetensors: "
                          f"model.save_pretrained(folder)")
    for name in weights:
        _check_safetensors(folder / name)
    return names


def hash_files(folder: Path) -> dict[str, str]:
    """File name -> sha256 of the model in `folder`."""
    return {name: _sha256(folder / name) for name in model_files(folder)}


def _check_safetensors(path: Path) -> None:
    """A safetensors file starts with the length of its JSON header; a renamed pickle does not."""
    with path.open("rb") as file:
        length, start = int.from_bytes(file.read(8), "little"), file.read(1)
    if start != b"{" or length > path.stat().st_size:
        raise ConfigError(f"{path} is not a safetensors file, whatever its name says; save the "
                          f"model again with model.save_pretrained(folder)")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cache() -> Path:
    default = Path.home() / ".cache" / "vlm-flywheel"
    return Path(os.environ.get("FLYWHEEL_CACHE", default)) / "models"


def _fetch_to_cache(store: Store, manifest: Manifest) -> Path:
    place = _cache() / manifest.digest
    if place.is_dir():
        return place
    with tempfile.TemporaryDirectory(dir=_made(_cache()), prefix=".partial-") as partial:
        for name, sha256 in manifest.files.items():
            data = store.read_bytes(f"{manifest.prefix}/{name}")
            if hashlib.sha256(data).hexdigest() != sha256:
                raise StoreError(f"{store.uri(manifest.prefix)}/{name} is not what its manifest "
                                 f"says (sha256 differs): delete the manifest and run again")
            (Path(partial) / name).write_bytes(data)
        return _complete(Path(partial), place)


def _download_folder(uri: str) -> Path:
    """A bucket folder, in a cache folder named by its uri and its files' names, sizes and tags."""
    import fsspec

    files, root = fsspec.url_to_fs(uri)
    try:
        found = {Path(path).name: about for path, about in files.find(
            root, maxdepth=1, detail=True).items() if path.endswith(SUFFIXES)}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the model at {uri}: {type(error).__name__}: {error}; "
                          f"check the address and the bucket's credentials") from error
    if not found:
        raise ConfigError(f"no model at {uri}: no {WEIGHTS} or configuration files there")
    stamps = [[name, about["size"], about.get("ETag", "")] for name, about in found.items()]
    place = _cache() / digest([uri, sorted(stamps)])
    if place.is_dir():
        return place
    with tempfile.TemporaryDirectory(dir=_made(_cache()), prefix=".partial-") as partial:
        _copy_down(files, (about["name"] for about in found.values()), Path(partial))
        return _complete(Path(partial), place)


def _copy_down(files: Any, sources: Iterable[str], folder: Path) -> None:
    for source in sources:
        files.get_file(source, str(folder / Path(source).name))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _complete(partial: Path, place: Path) -> Path:
    """Give a whole download its name, atomically; another process may have been first."""
    ready = partial.with_name(f"{partial.name}-ready")
    shutil.move(str(partial), ready)
    partial.mkdir()  # for the TemporaryDirectory to remove
    try:
        ready.rename(place)
    except OSError:
        shutil.rmtree(ready)
        if not place.is_dir():
            raise
    return place


def _download_from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    patterns = [f"*{suffix}" for suffix in SUFFIXES]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns,
                                      ignore_patterns=["consolidated*", "*/*"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise ConfigError(
            f"cannot get {repository!r} from the hub ({type(error).__name__}). Offline: run "
            f"`hf download {repository} --local-dir FOLDER` where there is a network, bring FOLDER "
            f"here and set model.uri to it. Gated: accept its licence on the hub and run "
            f"`hf auth login`. Not there at all: check the name (no local folder has it either)"
        ) from error
