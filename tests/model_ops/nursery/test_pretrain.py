"""Pre-training is a pure function of its seed, also across interruptions; the card tells it."""

import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image

from model_ops.nursery import pretrain
from model_ops.nursery.architecture import build_vlm
from model_ops.nursery.card import read_metrics, write_card
from model_ops.nursery.exchange import Exchange
from model_ops.nursery.packing import pack, packed_loss
from model_ops.nursery.skills import SHARES, SKILLS, check_shares
from model_ops.nursery.stages import Stage, build_heads, cell_labels, clip_stage, vlm_stages
from model_ops.nursery.world import Scene, render, sample_scene
from schemas.errors import ConfigError

pytestmark = pytest.mark.slow


class Interrupted(Exception):
    """Stands for the plug being pulled."""


def short_stage(model: torch.nn.Module, stop_before: int | None = None) -> Stage:
    """Six steps of two pictures; stops when asked for the loss of step `stop_before`."""
    seen: list[int] = []

    def loss(scenes: list[Scene], rng: random.Random) -> torch.Tensor:
        if stop_before is not None and len(seen) == stop_before:
            raise Interrupted
        seen.append(1)
        said = Exchange("how many things are there ?", rng.choice(("one", "two", "three")))
        return packed_loss(model, pack([render(scene) for scene in scenes], [[said]] * 2))

    return Stage("short", 6, 2, 1e-3, loss)


def test_an_interrupted_run_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrain, "CHECKPOINT_EVERY", 2)
    whole, broken, resumed = build_vlm(1), build_vlm(1), build_vlm(1)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    pretrain.run_stage(short_stage(whole), whole, 5, one)
    with pytest.raises(Interrupted):
        pretrain.run_stage(short_stage(broken, stop_before=5), broken, 5, two)
    pretrain.run_stage(short_stage(resumed), resumed, 5, two)
    fresh = build_vlm(1).state_dict()
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert any(not torch.equal(weight, fresh[name]) for name, weight in whole.state_dict().items())


def test_other_options_or_sources_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def folder(*arguments: str) -> Path:
        return pretrain.work_folder(pretrain._options(["--out", str(tmp_path), *arguments]))

    first = folder()
    assert first.parent == tmp_path / ".pretrain"
    assert first == folder("--eval-scenes", "9") != folder("--seed", "2")
    (tmp_path / "pretrain.py").write_text("other sources")
    monkeypatch.setattr(pretrain, "__file__", str(tmp_path / "pretrain.py"))
    assert folder() != first


def test_a_skill_without_a_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_shares()
    monkeypatch.setitem(SKILLS, "sing", SKILLS["answer"])
    with pytest.raises(ConfigError, match="'sing' would not be learned: say in ENGAGING"):
        check_shares()
    monkeypatch.delitem(SKILLS, "sing")
    monkeypatch.setitem(SHARES, "dance", 1)
    with pytest.raises(ConfigError, match="'dance', which is not in SKILLS"):
        check_shares()


def test_stages_see_home_only_and_the_same_scenes_for_a_seed() -> None:
    model = build_vlm(1)
    stages = list(vlm_stages(model, build_heads(1), 1000))
    assert [stage.name for stage in stages] == ["cells", "captions", "answers", "skills",
                                                "engaging", "filled"]
    assert [stage.steps for stage in stages[2:]] == [650, 350, 250, 75]
    for stage in [*stages, clip_stage(model, 3)]:
        scenes = stage.scenes(1, 0)
        assert len(scenes) == stage.batch_size
        assert {scene.domain for scene in scenes} == {"home"}
        assert scenes == stage.scenes(1, 0) != stage.scenes(1, 1)


@pytest.mark.parametrize("index", [0, 2, 3, 4, 5])
def test_each_stage_learns_from_its_loss(index: int) -> None:
    """A few steps on one batch lower the loss of that batch."""
    model, heads = build_vlm(2), build_heads(2)
    stage = list(vlm_stages(model, heads, 4))[index]
    scenes = stage.scenes(1, 0)[:4]
    parameters = [*model.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    losses = []
    for _ in range(6):
        loss = stage.loss(scenes, random.Random(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_cell_labels_name_the_things() -> None:
    scene = sample_scene(11, "home")
    labels = cell_labels(scene)
    assert [cell for cell, label in enumerate(labels) if label != [0, 0, 0]] == [
        thing.cell for thing in scene.things
    ]


def test_the_card_has_digests_figures_and_curves(tmp_path: Path) -> None:
    reports = [{"stage": "a", "step": 25, "loss": 2.0, "window": 30.0}]
    reports += [{"stage": "a", "step": step, "loss": 1.0, "window": 30.0} for step in (50, 50)]
    reports += [{"stage": "a", "step": 50, "home": {"vqa": 0.75}}]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in reports), encoding="utf-8")
    assert len(list(read_metrics(metrics))) == 3
    for name in ("vlm", "clip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    write_card(tmp_path, metrics, {"vlm/home": {"vqa": 0.75}}, {"steps": 50, "out": "x"})
    card = (tmp_path / "vlm" / "README.md").read_text("utf-8")
    record = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert all(value in card for value in record["sha256"].values())
    assert "| vlm/home | 0.750 |" in card and "0.2500 @50" in card and "in 1 minutes" in card
    assert "--steps 50" in card and "--out" not in card
    with Image.open(tmp_path / "vlm" / "curves.png") as picture:
        assert len(picture.getcolors(10_000) or []) > 2
