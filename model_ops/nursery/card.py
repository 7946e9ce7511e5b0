"""The model card beside the weights: what they are, what made them, how they learned, what they
can do, their digests.

Curves are a PNG drawn here with Pillow; the figures behind it are in the card's table.
"""

import hashlib
import json
import platform
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model_ops.nursery.domains import RANGES

_INK, _PAPER, _FRAME = (40, 90, 160), (255, 255, 255), (160, 160, 160)
_PLOT = (300, 170)
_COLUMNS = 3

Curve = list[tuple[int, float]]

_INTRODUCTION = """# The nursery's models

A tiny vision-language model (here, Idefics3, 1.2 M parameters, 48 px, 9 tokens a picture) and a
tiny CLIP (`../clip`, 0.6 M), made for the procedural world of `model_ops/nursery/world.py`.
Both saw `home` pictures only."""
_FIGURES = """## What they can do

Exact answers on unseen pictures, yes and no equally often; `fit`: whether a dialog's answers hold;
`sibling4`: the caption picked among four siblings' captions (chance 0.25).

"""
_LIMITS = """## Limits

They know 99 words and this world, nothing else. Numbers above five and the colour-shape pairs of
`HELD_OUT` never occur at home. Prompts with several pictures are accepted, but were not learned.
In the field they are over-confident: right or wrong, an answer's probability is mostly near one."""


def digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The reports of a run, the last one of each step where a resumed run wrote it twice."""
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    latest = {(row["stage"], row["step"], "loss" in row): row for row in rows}
    yield from latest.values()


def write_card(
    out: Path,
    metrics: Path,
    figures: Mapping[str, Mapping[str, float]],
    options: Mapping[str, Any],
) -> None:
    """Write vlm/README.md (of both models), vlm/curves.png and figures.json into `out`."""
    reports = list(read_metrics(metrics))
    curves: dict[str, Curve] = defaultdict(list)
    for row in reports:
        if "loss" in row:
            curves[f"{row['stage']}: loss"].append((row["step"], row["loss"]))
        else:
            curves[f"{row['stage']}: home errors"].append((row["step"], 1.0 - row["home"]["vqa"]))
    draw_curves(curves, out / "vlm" / "curves.png")
    digests = {name: digest(out / name / "model.safetensors") for name in ("vlm", "clip")}
    record = {"figures": figures, "sha256": digests, "options": _settings(options)}
    (out / "figures.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    minutes = sum(row.get("window", 0.0) for row in reports) / 60
    (out / "vlm" / "README.md").write_text(
        _card(figures, digests, curves, options, minutes), encoding="utf-8"
    )


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("out", "work")}


def _card(
    figures: Mapping[str, Mapping[str, float]],
    digests: Mapping[str, str],
    curves: Mapping[str, Curve],
    options: Mapping[str, Any],
    minutes: float,
) -> str:
    import torch
    import transformers

    flags = " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in _settings(options).items()
    )
    versions = ", ".join(
        f"{name} {version}"
        for name, version in (
            ("torch", torch.__version__),
            ("transformers", transformers.__version__),
            ("Python", platform.python_version()),
        )
    )
    worlds = "\n".join(f"{name} {json.dumps(asdict(ranges))}" for name, ranges in RANGES.items())
    parts = [
        _INTRODUCTION,
        f"Made by:\n```\npython -m model_ops.nursery.pretrain {flags}\n```\n"
        f"in {minutes:.0f} minutes of training, with {versions}.",
        _FIGURES + _figure_table(figures),
        "## How they learned\n![curves](curves.png)\n\n" + _curve_table(curves),
        "## Digests of model.safetensors\n" + _table(("model", "sha256"), list(digests.items())),
        f"## The worlds\n```\n{worlds}\n```",
        _LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _figure_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    names = sorted({name for values in figures.values() for name in values})
    rows = [
        (which, *(f"{v[n]:.3f}" if n in v else "" for n in names)) for which, v in figures.items()
    ]
    return _table(("", *names), rows)


def _curve_table(curves: Mapping[str, Curve]) -> str:
    shares = (0.1, 0.25, 0.5, 0.75, 1.0)
    rows = []
    for stage, curve in curves.items():
        points = [curve[max(round(share * len(curve)) - 1, 0)] for share in shares]
        rows.append((stage, *(f"{loss:.4f} @{step}" for step, loss in points)))
    return _table(("stage", *(f"{share:.0%}" for share in shares)), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_curves(curves: Mapping[str, Curve], path: Path) -> None:
    """Small plots of value by step, three in a row."""
    from PIL import Image, ImageDraw

    width, height = _PLOT
    num_rows = -(-len(curves) // _COLUMNS)
    canvas = Image.new("RGB", (width * _COLUMNS, height * num_rows), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for index, (title, curve) in enumerate(curves.items()):
        x, y = index % _COLUMNS * width, index // _COLUMNS * height
        left, right, top, bottom = x + 40, x + width - 12, y + 24, y + height - 24
        pen.rectangle((left, top, right, bottom), outline=_FRAME)
        last, peak = curve[-1][0], max(value for _, value in curve)
        across, up = (right - left) / last, (bottom - top) / peak
        points = [(left + step * across, bottom - value * up) for step, value in curve]
        pen.line(points, fill=_INK, width=2)
        pen.text((left + 4, top - 18), f"{title} by step", fill=_INK)
        pen.text((left - 34, top), f"{peak:.2f}", fill=_FRAME)
        pen.text((right - 30, bottom + 6), str(last), fill=_FRAME)
    canvas.save(path, optimize=True)
