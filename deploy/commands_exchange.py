"""The commands that exchange files with other projects: `export`."""

import typer
from rich.text import Text

from deploy.commands_look import split_uri
from deploy.console import AsJson, show
from schemas.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(export)


def export(uri: str, folder: str, as_json: AsJson = False) -> None:
    """Write the pairs at URI (a stage's `pairs` artifact) to FOLDER, for MACAROON's own code.

    FOLDER gets `preference_dataset.json`, `preference_dataset_seperate.json` and `images/`.
    """
    from model_ops.interop.macaroon import export_pairs
    from schemas.artifacts import read_manifest

    store, prefix = split_uri(uri)
    manifest = read_manifest(store, prefix)
    if manifest.kind != "pairs":
        raise ConfigError(f"{uri} holds {manifest.kind}, not pairs: give the `pairs` artifact of a "
                          f"contrastive stage")
    done = export_pairs(store, manifest, folder)
    show({"pairs": done.pairs, "images": done.images, "folder": folder}, as_json,
         lambda: Text(f"{done.pairs} pairs about {done.images} images in {folder}"))
