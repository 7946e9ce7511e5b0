"""The configuration refuses what could only fail later, and says what to do."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from schemas.config import (
    BenchmarkConfig,
    ContrastiveStage,
    DialogPlayConfig,
    DialogStage,
    EvaluationConfig,
    GatePolicy,
    ImagesConfig,
    JudgeConfig,
    RunConfig,
    SearchConfig,
)

FIELD = ImagesConfig(uri="nursery://field", limit=8)
PER_IMAGE = {"guesser": "per_image"}


def run(**changes: Any) -> RunConfig:
    given = {"root": "r", "images": FIELD, "stages": [{"play": PER_IMAGE}],
             "model": {"prompts": "nursery"}, **changes}
    return RunConfig.model_validate(given)


def test_every_number_of_images_needs_a_turn_limit() -> None:
    with pytest.raises(ValidationError, match="no limit for games of 3 images: add one"):
        DialogStage(games={3: 10})
    with pytest.raises(ValidationError, match="no limit for games of 8 images"):
        BenchmarkConfig(kind="game", images=FIELD, num_images=8)
    assert BenchmarkConfig(kind="vqa", images=FIELD, num_images=8).slug == "field-vqa"


@pytest.mark.parametrize(("stage", "says"), [
    ({"games": {4: -5}}, "greater than or equal to 0"),
    ({"games": {1: 5}}, "greater than or equal to 2"),
    ({"play": {"max_turns": {2: 0}}}, "greater than or equal to 1"),
    ({"play": {"max_turns": {1: 3}}}, "greater than or equal to 2"),
    ({"curation": {"role_weights": {"ask": -0.5}}}, "greater than or equal to 0"),
    ({"method": "contrastive", "questions": {"per_type": {"Clear": -3}}},
     "greater than or equal to 0")])
def test_counts_have_bounds(stage: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        run(stages=[stage])


def test_nursery_prompts_have_no_joint_guesser() -> None:
    assert run().stages[0].play.guesser == "per_image"
    with pytest.raises(ValidationError, match=r"set play\.guesser to per_image"):
        run(stages=[{}])
    with pytest.raises(ValidationError, match=r"set play\.guesser to per_image"):
        run(evaluation={"benchmarks": [{"kind": "game", "images": FIELD}]})


def test_looks_replace_reasks() -> None:
    with pytest.raises(ValidationError, match=r"set play\.reasks to 0"):
        DialogPlayConfig(looks=["deeper"])
    assert DialogPlayConfig(looks=["deeper"], reasks=0).looks == ["deeper"]


def test_a_difficulty_band_needs_image_orders() -> None:
    band = {"difficulty": (0.2, 0.9)}
    assert DialogStage.model_validate({"curation": band}).curation.difficulty == (0.2, 0.9)
    for play in (PER_IMAGE, {"rotations": False}):
        with pytest.raises(ValidationError, match="or leave difficulty out"):
            DialogStage.model_validate({"play": play, "curation": band})


def test_answers_of_dropped_games_need_looks_and_no_control() -> None:
    asked = {"answers_of_dropped_games": True}
    looked = {"play": {"looks": ["stretched"], "reasks": 0}, "curation": asked}
    assert DialogStage.model_validate(looked).curation.answers_of_dropped_games
    with pytest.raises(ValidationError, match=r"needs play\.looks"):
        DialogStage.model_validate({"curation": asked})
    with pytest.raises(ValidationError, match=r"min_agreement is about play\.looks"):
        DialogStage.model_validate({"curation": {"min_agreement": 1.0}})
    with pytest.raises(ValidationError, match=r"look_share needs play\.looks"):
        DialogStage.model_validate({"curation": {"look_share": 0.5}})
    with pytest.raises(ValidationError, match="'random' is a control"):
        DialogStage.model_validate({**looked, "curation": {**asked, "select": "random"}})


def test_two_benchmarks_may_not_share_a_name() -> None:
    one = BenchmarkConfig(kind="vqa", images=FIELD)
    with pytest.raises(ValidationError, match="two benchmarks are called field-vqa"):
        EvaluationConfig(benchmarks=[one, one.model_copy(update={"num_items": 5})])
    other = one.model_copy(update={"domain": "home"})
    assert len(EvaluationConfig(benchmarks=[one, other]).benchmarks) == 2


def test_the_gate_refuses_figures_that_should_fall() -> None:
    for gate in ({"primary": "field/pie_overask"}, {"guards": {"field/pie-bad_overask": 0.1}},
                 {"base_guards": {"p/pie_parse_error": 0.1}}):
        with pytest.raises(ValidationError, match=r"pie_clear"):
            run(gate=gate)
    assert run(gate={"guards": {"field/pie_clear": 0.05}}).gate.guards == {"field/pie_clear": 0.05}


BENCHMARKS = [
    {"kind": "game", "play": PER_IMAGE}, {"kind": "vqa"}, {"kind": "chair"},
    {"kind": "game", "play": PER_IMAGE, "cross_play": True, "domain": "cross"},
    {"kind": "vqa", "questions_uri": "q.jsonl", "domain": "photos"},
    {"kind": "pie", "pie": {"reward": "bad"}}, {"kind": "pope"},
    {"kind": "pie", "pie": {"num_clear": 0}, "domain": "odd"},
    {"kind": "pope", "pope": {"random_uri": "r.jsonl"}, "domain": "coco"},
]


def gated(**gate: Any) -> RunConfig:
    benchmarks = [{"images": FIELD, **each} for each in BENCHMARKS]
    return run(evaluation={"benchmarks": benchmarks}, gate=gate)


@pytest.mark.parametrize("metric", [
    "cross/game4_crossplay", "cross/game4_success", "field/game4_succes", "field/game2_success",
    "field/pope_f1", "field/pope_recall", "coco/pope_popular", "field/pie-bad_aar_macro",
    "field/pie_aar", "odd/pie_clear", "field/vqa_yesnno", "home/vqa", "field/chair"])
def test_a_gate_refuses_what_no_benchmark_scores_item_by_item(metric: str) -> None:
    for gate in ({"primary": metric}, {"guards": {metric: 0.1}}, {"base_guards": {metric: 0.1}}):
        with pytest.raises(ValidationError, match=f"no benchmark scores {metric} .*field/pope_ran"):
            gated(**gate)
        assert run(gate=gate).gate == GatePolicy.model_validate(gate), "nothing is measured"


@pytest.mark.parametrize("metric", [
    "field/game4_success", "field/game4_rotation", "field/vqa", "field/vqa_yesno",
    "photos/vqa_other", "photos/vqa", "field/chair_clean", "field/chair_recall",
    "field/pie-bad_aar", "field/pie-bad_aar_soft", "field/pie-bad_false_premise",
    "field/pie-bad_clear", "field/pope", "field/pope_adversarial", "coco/pope_random"])
def test_a_gate_takes_what_a_benchmark_scores_item_by_item(metric: str) -> None:
    assert gated(primary=metric, guards={metric: 0.1}).incomparable is None


def test_the_untouched_gate_may_stand_where_runs_only_measure() -> None:
    measuring = run(evaluation={"benchmarks": [{"kind": "vqa", "images": FIELD}]})
    assert "field/game4_success" in (measuring.incomparable or "")
    assert RunConfig.model_validate(measuring.model_dump()) == measuring


def test_nursery_images_need_a_number() -> None:
    with pytest.raises(ValidationError, match=r"images\.limit is needed"):
        run(images={"uri": "nursery://field"})


def test_every_shipped_configuration_is_valid(repo: Path) -> None:
    paths = sorted((repo / "deploy" / "configs").glob("*.yaml"))
    assert len(paths) >= 4
    for path in paths:
        RunConfig.model_validate(yaml.safe_load(path.read_text("utf-8")))


def test_steps_of_one_pair_are_not_checkpointed_every_hundred(repo: Path) -> None:
    path = repo / "deploy" / "configs" / "llava-calibrated.yaml"
    [stage] = RunConfig.model_validate(yaml.safe_load(path.read_text("utf-8"))).stages
    assert (stage.train.batch_size, stage.train.gradient_accumulation) == (1, 1)
    assert 12_856 / stage.train.save_steps < 10, "checkpoints a round"


@pytest.mark.parametrize("words", [{"good": "x", "bad": "x"}, {"good": ""}, {"bad": " bad"}])
def test_reward_words_are_two_words(words: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="give two different words"):
        ContrastiveStage.model_validate({"reward_words": words})


def test_pie_asks_with_the_words_that_a_stage_learns() -> None:
    stage = {"method": "contrastive", "reward_words": {"good": "helpful", "bad": "poor"}}

    def asking(reward: str) -> RunConfig:
        return run(stages=[stage], evaluation={"benchmarks": [
            {"kind": "pie", "images": FIELD, "pie": {"reward": reward}}]})

    slugs = [asking(reward).evaluation.benchmarks[0].slug for reward in ("model", "none", "poor")]
    assert slugs == ["field-pie", "field-pie-none", "field-pie-poor"]
    with pytest.raises(ValidationError, match="no stage learns that word; its words are helpful"):
        asking("bad")


def test_history_is_all_or_a_share() -> None:
    stages = [{"play": PER_IMAGE, "train": {"replay": 0.5}}]
    assert run(stages=stages).history == "round"
    assert run(history="all").stages[0].train.replay == 0
    with pytest.raises(ValidationError, match=r"train\.replay 0\.5 .* set history to 'round', or"):
        run(history="all", stages=stages)


def test_a_run_has_a_stage() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        run(stages=[])


@pytest.mark.parametrize(("judge", "kind"), [
    ({"base_url": "http://there/v1", "model_name": "large"}, "endpoint"),
    ({"model_name": "large"}, "endpoint"), ({"model": "some/model"}, "vlm"),
])
def test_a_judge_that_is_named_has_a_kind(judge: dict[str, str], kind: str) -> None:
    with pytest.raises(ValidationError, match=rf"set judge\.kind to '{kind}'"):
        JudgeConfig.model_validate(judge)
    explicit = JudgeConfig.model_validate({**judge, "kind": "rules"})
    assert JudgeConfig.model_validate(explicit.model_dump()) == explicit


def test_an_endpoint_that_is_named_has_its_kind() -> None:
    there = {"base_url": "http://there/v1", "model_name": "large"}
    with pytest.raises(ValidationError, match=r"set engine\.kind to 'endpoint'"):
        run(engine=there)
    assert run(engine={**there, "kind": "endpoint"}).engine.model_name == "large"
    assert run(engine={**there, "kind": "vllm"}).engine.kind == "vllm"  # switched back for a run


def test_search_presets_have_the_documented_numbers() -> None:
    """methods/calibrated_csr.md, sections 0 and 2: the code, and what the paper says of it."""
    reference = {
        "num_continuations": 5, "keep_top": 1, "keep_bottom": 2, "prune_by": "lm", "lam": 0.9,
        "reward_mode": "rank", "sentence_ends": ["."], "max_sentence_tokens": 70,
        "max_tokens": 1024}
    paper = {**reference, "keep_top": 3, "prune_by": "calibrated", "reward_mode": "paper_raw",
             "max_sentence_tokens": 74}
    for preset, numbers in (("reference", reference), ("paper", paper)):
        found = SearchConfig.model_validate({"preset": preset})
        assert found.model_dump(include=set(numbers)) == numbers
        beside = SearchConfig.model_validate({"preset": preset, "keep_top": 4})
        assert beside.model_dump(include=set(numbers)) == {**numbers, "keep_top": 4}
