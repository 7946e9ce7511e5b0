"""What a round compares, and what it refuses; its steps are played by the test."""

from typing import Any

import pytest

from flows import improve as improve_module
from flows.evaluate import evaluate
from flows.improve import improve, improve_round
from model_ops.benchmarks import Items
from model_ops.rounds import write_round
from model_ops.stages import StartModels, items_digest
from schemas.artifacts import publish
from schemas.config import GatePolicy, ImagesConfig, RunConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.records import Champion, Evaluation, RoundRecord
from schemas.store import Store

MADE = Manifest(kind="questions", prefix="p", inputs_digest="1")
PLANNED = {"field-vqa": Items(MADE, MADE, "vqa", {})}


def config_of(store: Store, **changes: Any) -> RunConfig:
    return RunConfig(root=store.root, images=ImagesConfig(limit=8), **changes)


def evaluation(name: str, inputs_digest: str) -> Evaluation:
    return Evaluation(model_digest=name, metrics={}, items={}, inputs_digest=inputs_digest)


def play_round(
    store: Store, monkeypatch: pytest.MonkeyPatch, config: RunConfig, champion: int, items: str
) -> tuple[list[str], list[str], list[Manifest]]:
    """Round 2 after two rounds that were measured on `items`: what was measured, the names of
    candidate, rival and base at the gate, and the images that were checked."""
    measured: list[str] = []
    judged: list[str] = []
    checked: list[Manifest] = []
    for number in (0, 1):
        model = publish(store, Manifest(kind="model", prefix=f"model{number}", inputs_digest=""))
        write_round(store, RoundRecord(
            round=number, model=model.digest, model_prefix=model.prefix, trained_from=None,
            decision="base", reasons=[], evaluation=evaluation(f"old {number}", items)))

    def measure(config: RunConfig, model: Manifest, rival: Any, prefix: str, number: int) -> Any:
        measured.append(f"{model.prefix} in {prefix.rpartition('/')[2]}")
        return evaluation(f"new {model.prefix}", "now")

    def decide(config: RunConfig, *evaluations: Evaluation) -> None:
        judged.extend(each.model_digest for each in evaluations)

    class Trained:
        model = Manifest(kind="model", prefix="candidate", inputs_digest="")
        record = None

    replaced: dict[str, Any] = {
        "import_images": lambda config: MADE, "plan_benchmarks": lambda config: PLANNED,
        "refuse_training_images": lambda config, images, planned: checked.append(images),
        "incumbent": lambda store, records: Champion(digest="", prefix="", round=champion,
                                                     decision="promote"),
        "start_models": lambda *_: StartModels(MADE, MADE), "_run_stages": lambda *_: [Trained],
        "measure": measure, "decide": decide, "round_record": lambda *_: None,
        "record_round": lambda *_: None, "show_round": lambda *_: None}
    for name, stand_in in replaced.items():
        monkeypatch.setattr(improve_module, name, stand_in)
    improve_round.fn(config, 2)
    return measured, judged, checked


@pytest.mark.parametrize(("champion", "guards", "again", "judged"), [
    (1, {"m": 0.1}, ["model1 in rival", "model0 in base"], ["new model1", "new model0"]),
    (1, {}, ["model1 in rival"], ["new model1", "new model1"]),
    (0, {"m": 0.1}, ["model0 in rival"], ["new model0", "new model0"]),
])
def test_champion_and_base_are_measured_again_on_changed_benchmarks(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, champion: int, guards: dict[str, float],
    again: list[str], judged: list[str],
) -> None:
    config = config_of(local_store, gate=GatePolicy(base_guards=guards))
    measured, compared, checked = play_round(local_store, monkeypatch, config, champion, "before")
    assert measured == ["candidate in evaluation", *again]
    assert compared == ["new candidate", *judged]
    assert checked == [MADE]


def test_nothing_is_measured_again_on_the_same_benchmarks(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(local_store, gate=GatePolicy(base_guards={"m": 0.1}))
    same = items_digest(config, PLANNED)
    measured, compared, _ = play_round(local_store, monkeypatch, config, 1, same)
    assert measured == ["candidate in evaluation"]
    assert compared == ["new candidate", "old 1", "old 0"]


def test_an_endpoint_is_neither_improved_nor_measured(local_store: Store) -> None:
    config = config_of(local_store, engine={"kind": "endpoint", "base_url": "http://there/v1",
                                            "model_name": "large"})
    with pytest.raises(ConfigError, match=r"set engine\.kind to 'vllm'"):
        improve.fn(config)
    with pytest.raises(ConfigError, match=r"set engine\.kind to 'vllm'"):
        evaluate.fn(config, "nursery://vlm")
    assert not local_store.exists("lock.json")


def test_a_gate_that_could_never_promote_is_refused_before_anything_begins(
    local_store: Store
) -> None:
    measured = {"benchmarks": [{"kind": "vqa", "images": {"limit": 8}}]}
    config = config_of(local_store, evaluation=measured)
    with pytest.raises(ConfigError, match=r"no benchmark scores field/game4_success .* field/vqa"):
        improve.fn(config)
    assert not local_store.exists("lock.json")
