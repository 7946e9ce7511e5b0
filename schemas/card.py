"""The dataset card of published train rows: what the Hugging Face hub and `datasets` read first.

The YAML header names the shards, so `load_dataset(folder)` reads them and nothing else.
"""

import json

from schemas.manifest import Manifest


def dataset_card(manifest: Manifest) -> str:
    """README.md of `manifest`; a pure function of its content (no clock)."""
    return "\n".join([*_header(manifest), *_body(manifest), ""])


def _header(manifest: Manifest) -> list[str]:
    paths = [shard.path for shard in manifest.shards]
    # JSON is YAML, and quotes whatever needs it.
    return ["---", "configs:", "- config_name: default", "  data_files:", "  - split: train",
            f"    path: {json.dumps(paths)}",
            'tags: ["synthetic", "vlm-flywheel", "image-text-to-text"]', "---", ""]


def _body(manifest: Manifest) -> list[str]:
    quarantined = sum(shard.num_quarantined for shard in manifest.shards)
    return [
        f"# {manifest.prefix}", "",
        "Synthetic training rows, made by a vision-language model for its own training "
        "(vlm-flywheel).", "",
        f"- Rows: {manifest.num_rows} in {len(manifest.shards)} shards; "
        f"quarantined: {quarantined} (with reasons, in `quarantine/`)",
        f"- Content digest: `{manifest.digest}`",
        f"- Inputs digest: `{manifest.inputs_digest}`",
        f"- Determinism: {manifest.determinism}", "",
        "## Provenance", "", *_table("input", "digest", manifest.parents), "",
        "## Funnel", "", *_table("step", "rows", manifest.funnel), "",
        "## Configuration", "", "```json",
        json.dumps(manifest.config, indent=1, sort_keys=True), "```",
    ]


def _table(name: str, value: str, cells: dict[str, str] | dict[str, int]) -> list[str]:
    return [f"| {name} | {value} |", "|---|---|", *(f"| {k} | {v} |" for k, v in cells.items())]
