"""The commands that look: `rounds`, `show`, `explain`, `report`. Only the report is written."""

import tempfile
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from deploy.console import AsJson, out, show
from deploy.readable import gist, plain, readable
from schemas.errors import StoreError
from schemas.manifest import Manifest
from schemas.records import RoundRecord
from schemas.store import Store

PLACES = ("images", "benchmarks", "rounds", "evaluations")
"""First folder of every artifact: what stands before it is the root."""
NUM_QUARANTINED = 100
"""Quarantined rows in a table."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(rounds)
    app.command("show")(show_artifact)
    app.command()(explain)
    app.command()(report)


def rounds(root: str, as_json: AsJson = False) -> None:
    """The finished rounds of ROOT: decisions and metrics."""
    from model_ops.rounds import incumbent, read_rounds
    from model_ops.summary import summarise_run
    from model_ops.tables import rounds_table

    store = Store(root)
    records = read_rounds(store)
    _refuse_unplayed(store, records)
    champion = incumbent(store, records)
    show(summarise_run(records, champion), as_json,
         lambda: rounds_table(records, champion))


def show_artifact(
    uri: Annotated[str, typer.Argument(help="Folder of an artifact, with its manifest.json.")],
    row: Annotated[int | None, typer.Option(help="Show this row (from 0) with pictures.")] = None,
    save: Annotated[Path | None, typer.Option(help="Folder for the pictures as PNG files.")] = None,
    draw: Annotated[bool, typer.Option(help="Draw pictures in the terminal.")] = True,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Its quarantined rows.")] = False,
    as_json: AsJson = False,
) -> None:
    """What an artifact holds; with --row one of its rows, pictures included.

    With --quarantine the rows that could not be used, each with its reason.
    """
    from schemas.artifacts import read_manifest, read_quarantine

    store, prefix = split_uri(uri)
    manifest = read_manifest(store, prefix)
    if row is None and quarantine:
        dropped = [each.model_dump() for each in read_quarantine(store, manifest)]
        return show(dropped, as_json, lambda: _dropped(dropped))
    if row is None:
        return show(manifest, as_json, lambda: _artifact(store, manifest))
    num = sum(s.num_quarantined if quarantine else s.num_rows for s in manifest.shards)
    if not 0 <= row < num:
        which = "quarantined rows" if quarantine else "rows"
        raise StoreError(f"{store.uri(prefix)} has {num} {which}: no {row}")
    found = (next(islice(read_quarantine(store, manifest), row, None)).model_dump() if quarantine
             else _rows(store, manifest, row, 1)[0])
    _show_row(store, prefix, found, save, draw, as_json)


def explain(root: str, row_id: str, as_json: AsJson = False) -> None:
    """Where a row of ROOT came from, and which model learnt from it."""
    from model_ops.lineage import explain as walk

    lineage = walk(Store(root), row_id)

    def told() -> Group:
        return Group(*(Text.assemble((f"{step.what}: ", "bold"), plain(step.text),
                                     f"\n    {step.uri}") for step in lineage.steps))

    show(lineage, as_json, told)


def report(root: str, as_json: AsJson = False) -> None:
    """Write the report of ROOT again, and say where it is."""
    from model_ops.report import write_report
    from model_ops.rounds import read_rounds

    store = Store(root)
    _refuse_unplayed(store, read_rounds(store))
    uri = write_report(store)
    show({"report": uri}, as_json, lambda: Text(uri))


def _refuse_unplayed(store: Store, records: list[RoundRecord]) -> None:
    """Raise `StoreError` where there is nothing to look at, such as a misspelt root."""
    if not records:
        raise StoreError(f"{store.root} has no finished round: is it the root of a run?")


def split_uri(uri: str) -> tuple[Store, str]:
    """The root and the prefix of an artifact's URI (its folder, or a file in it)."""
    parts = uri.rstrip("/").split("/")
    if parts[-1] == "manifest.json" or parts[-1].endswith(".parquet"):
        parts = parts[:-1]
    for place in range(len(parts) - 1, -1, -1):
        if parts[place] in PLACES and not (parts[place] == "images" and "benchmarks" in parts):
            return Store("/".join(parts[:place]) or "."), "/".join(parts[place:])
    raise StoreError(f"{uri} is no artifact of a root: its path has none of {', '.join(PLACES)}")


def _artifact(store: Store, manifest: Manifest) -> Group:
    about = Table(show_header=False, box=None)
    for name in ("kind", "num_rows", "digest", "inputs_digest", "determinism", "created_at"):
        about.add_row(name, str(getattr(manifest, name)))
    about.add_row("shards", str(len(manifest.shards)))
    about.add_row("quarantined", str(sum(shard.num_quarantined for shard in manifest.shards)))
    for name, value in {**manifest.parents, **manifest.funnel, **manifest.stats}.items():
        about.add_row(name, str(value))
    rows = _rows(store, manifest, 0, 10)
    gists = [gist(row) for row in rows]
    columns = ["row", "row_id / image_id", *(["about"] if any(gists) else [])]
    first = Table(*columns, title="first rows", title_justify="left")
    for place, (row, line) in enumerate(zip(rows, gists, strict=True)):
        cells = (str(place), str(row.get("row_id", row.get("image_id", ""))), line)
        first.add_row(*(Text(cell) for cell in cells[: len(columns)]))
    return Group(Text(store.uri(manifest.prefix)), about, *([first] if manifest.shards else []))


def _dropped(rows: list[dict[str, Any]]) -> Table:
    table = Table("row", "row_id", "reason", "detail", "source", title_justify="left",
                  title=f"{min(len(rows), NUM_QUARANTINED)} of {len(rows)} quarantined rows")
    for place, row in enumerate(rows[:NUM_QUARANTINED]):
        told = (row[name] for name in ("row_id", "reason", "detail", "source"))
        table.add_row(str(place), *(Text(plain(text)) for text in told))
    return table


def _rows(store: Store, manifest: Manifest, start: int, num: int) -> list[dict[str, Any]]:
    """Rows `start` to `start + num` of an artifact, counted over its shards in order."""
    rows: list[dict[str, Any]] = []
    for shard in sorted(manifest.shards, key=lambda shard: shard.index):
        if start < shard.num_rows and len(rows) < num:
            table = store.open_parquet(f"{manifest.prefix}/{shard.path}").read()
            rows += table.slice(start, num - len(rows)).to_pylist()
        start = max(0, start - shard.num_rows)
    return rows


def _show_row(
    store: Store, prefix: str, row: dict[str, Any], save: Path | None, draw: bool, as_json: bool
) -> None:
    from deploy import pictures

    found = pictures.pictures_of(store, prefix, row)
    folder = save or (Path(tempfile.mkdtemp(prefix="flywheel-row-")) if as_json else None)
    files = [str(path) for path in pictures.save(found, folder)] if folder else []
    shown = {name: _without_bytes(value) for name, value in row.items()}
    if as_json:
        return show({"row": shown, "pictures": files}, True, Table)
    for name, value in readable(shown):
        out.print(Text(f"{name}: ", style="bold") + Text(value))
    for picture in found if draw and out.is_terminal else []:
        out.print(pictures.drawn(picture))
    for file in files:
        out.print(Text(file))


def _without_bytes(value: Any) -> Any:
    """A value as text can show it."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {name: _without_bytes(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_bytes(part) for part in value]
    return value
