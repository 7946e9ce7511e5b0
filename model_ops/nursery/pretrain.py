"""Make the nursery's weights: `python -m model_ops.nursery.pretrain`.

Runs the stages of stages.py on home scenes only, writes a checkpoint every so many steps (the
same command and code again go on from it; others begin anew), measures both domains, and leaves
models and model card in `--out`. Seeded: the same command on the same machine and library versions
gives the same weights.
"""

import argparse
import hashlib
import json
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_ops.nursery.architecture import build_clip, build_vlm, save_clip, save_vlm
from model_ops.nursery.card import write_card
from model_ops.nursery.measure import measure_clip, measure_vlm
from model_ops.nursery.skills import check_shares
from model_ops.nursery.stages import Stage, build_heads, clip_stage, vlm_stages

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = Path(__file__).parent / "weights"
CHECKPOINT_EVERY = 200
REPORT_EVERY = 25


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and make the weights."""
    import torch

    check_shares()
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    work = work_folder(options)
    work.mkdir(parents=True, exist_ok=True)
    done = ", ".join(path.stem for path in sorted(work.glob("*.pt"))) or "nothing"
    print(f"work folder {work}; of these options and sources it holds: {done}", flush=True)
    vlm, heads = (
        build_vlm(options.seed).to(options.device),
        build_heads(options.seed).to(options.device),
    )
    for stage in vlm_stages(vlm, heads, options.steps):
        run_stage(stage, torch.nn.ModuleList([vlm, heads]), options.seed, work)
    vlm.eval()
    save_vlm(vlm, options.out / "vlm")
    clip = build_clip(options.seed).to(options.device)
    run_stage(clip_stage(clip, options.clip_steps), clip, options.seed, work)
    clip.eval()
    save_clip(clip, options.out / "clip")
    figures = {
        f"vlm/{domain}": measure_vlm(vlm, domain, options.eval_scenes)
        for domain in ("home", "field")
    }
    figures |= {
        f"clip/{domain}": measure_clip(clip, domain, options.eval_scenes // 2)
        for domain in ("home", "field")
    }
    write_card(options.out, work / "metrics.jsonl", figures, vars(options))
    print(json.dumps(figures, indent=2))


def work_folder(options: argparse.Namespace) -> Path:
    """Where checkpoints and metrics go: a folder for each set of options and of the nursery's
    sources, so that nothing is restored that they did not make."""
    shaping = ("steps", "clip_steps", "seed", "device", "threads")
    made_by = hashlib.sha256(repr([getattr(options, name) for name in shaping]).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        made_by.update(source.read_bytes())
    folder: Path = options.work or options.out / ".pretrain"
    return folder / made_by.hexdigest()[:12]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m model_ops.nursery.pretrain", description=__doc__
    )
    parser.add_argument(
        "--out", type=Path, default=WEIGHTS, help="where the models and the card go"
    )
    parser.add_argument(
        "--work", type=Path, help="folders of checkpoints and metrics (default: OUT/.pretrain)"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=4000,
        help="steps of the answers and skills stages together",
    )
    parser.add_argument(
        "--clip-steps", type=int, default=1000, help="steps of the CLIP, 128 pairs each"
    )
    parser.add_argument(
        "--eval-scenes", type=int, default=1000, help="pictures a domain is measured with"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(arguments)


def run_stage(stage: Stage, module: "nn.Module", seed: int, work: Path) -> None:
    """Train a module through a stage, from its checkpoint where there is one."""
    import torch

    optimiser = torch.optim.AdamW(
        module.parameters(), lr=stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        stage.learning_rate,
        total_steps=stage.steps,
        pct_start=0.08,
        div_factor=10,
        cycle_momentum=False,
    )
    state = {"module": module, "optimiser": optimiser, "schedule": schedule}
    first = _restore(work / f"{stage.name}.pt", state)
    module.train()
    losses: list[float] = []
    began, before = time.monotonic(), 0.0
    for step in range(first, stage.steps):
        loss = stage.loss(
            stage.scenes(seed, step), random.Random(f"rows/{seed}/{stage.name}/{step}")
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in module.parameters() if p.grad is not None], 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        done = step + 1
        if done % REPORT_EVERY == 0 or done == stage.steps:
            seconds = time.monotonic() - began
            left = (stage.steps - done) * seconds / (done - first)
            loss_mean = round(sum(losses) / len(losses), 4)
            figures = {"stage": stage.name, "step": done, "of": stage.steps, "loss": loss_mean}
            _report(
                work, figures | {"window": round(seconds - before, 1), "seconds_left": round(left)}
            )
            before = seconds
            losses.clear()
        if done % CHECKPOINT_EVERY == 0 or done == stage.steps:
            _measure(work, stage, module, done)
            _keep(work / f"{stage.name}.pt", state, done)


def _measure(work: Path, stage: Stage, module: "nn.Module", step: int) -> None:
    if stage.measure is not None:
        module.eval()
        _report(work, {"stage": stage.name, "step": step, "home": stage.measure()})
        module.train()


def _restore(path: Path, state: dict[str, Any]) -> int:
    """Load a checkpoint into the state's objects; the number of steps done, 0 without one."""
    import torch

    if not path.exists():
        return 0
    kept = torch.load(path, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(kept[name])
    print(f"{path.stem}: going on from step {kept['step']}", flush=True)
    return int(kept["step"])


def _keep(path: Path, state: dict[str, Any], step: int) -> None:
    import torch

    partial = path.with_suffix(".partial")
    torch.save({"step": step, **{name: part.state_dict() for name, part in state.items()}}, partial)
    partial.replace(path)


def _report(work: Path, figures: dict[str, Any]) -> None:
    with (work / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(figures) + "\n")
    print(" ".join(f"{name} {value}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
