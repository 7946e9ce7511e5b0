"""The plan of a run: counted by hand on small configurations, and honest about what is unknown."""

import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import yaml
from PIL import Image

from model_ops.estimate import NURSERY_IMAGE_TOKENS, Estimate, estimate
from model_ops.images import import_images
from model_ops.rounds import config_digest, write_round
from model_ops.workload import WORDINGS, Calls, kept_games, lesson, mean_turns, play_calls
from model_ops.workload_calibrated import DESCRIBE_TOKENS, search_calls
from model_ops.workload_contrastive import contrastive_calls, num_pairs
from schemas.config import (
    BenchmarkConfig,
    CalibratedStage,
    ContrastiveStage,
    DialogPlayConfig,
    DialogStage,
    EngineConfig,
    EvaluationConfig,
    GatePolicy,
    ImagesConfig,
    ModelConfig,
    RunConfig,
    SftConfig,
    StopRule,
)
from schemas.errors import ConfigError
from schemas.records import Evaluation, RoundRecord
from schemas.store import Store

NURSERY = ImagesConfig(uri="nursery://field", limit=200)
MEASURED = DialogPlayConfig(guesser="per_image", blind=False, reasks=0, counterfactual=False)


def nursery(root: Path, **changes: object) -> RunConfig:
    """A small nursery run; *changes* replace fields."""
    fields = {
        "root": str(root),
        "model": ModelConfig(uri="nursery://vlm", prompts="nursery"),
        "images": NURSERY,
        "engine": EngineConfig(max_model_len=512, num_actors=2),
        "stages": [DialogStage(games={4: 80, 2: 40}, play=DialogPlayConfig(guesser="per_image"),
                               train=SftConfig(adapter="full", batch_size=16))],
        "evaluation": EvaluationConfig(benchmarks=[
            BenchmarkConfig(kind="game", images=NURSERY, num_items=100, play=MEASURED),
            BenchmarkConfig(kind="vqa", images=NURSERY, num_items=300)]),
        "stop": StopRule(rounds=2),
    }
    return RunConfig.model_validate(fields | changes)


def photographs(folder: Path, num: int, size: tuple[int, int] = (1600, 1200)) -> ImagesConfig:
    """A folder with *num* photographs, one text file among them."""
    folder.mkdir()
    for index in range(num):
        Image.new("RGB", size, (index * 25, 90, 90)).save(folder / f"{index:03d}.jpg")
    (folder / "empty.jpg").touch()
    return ImagesConfig(uri=str(folder))


def photo_run(tmp_path: Path, **changes: object) -> RunConfig:
    """A run of a hub model on ten photographs."""
    fields: dict[str, object] = {
        "model": ModelConfig(uri="Qwen/Qwen2.5-VL-7B-Instruct"),
        "engine": EngineConfig(num_gpus=1, num_actors=4),
        "images": photographs(tmp_path / "photos", 10),
        "stages": [DialogStage(games={4: 20}, train=SftConfig(use_gpu=True, num_workers=2))],
    }
    return nursery(tmp_path / "root", **(fields | changes))


def calls_of(plan: Estimate, step: str) -> int:
    return next(each.calls for each in plan.stages[0].calls if each.step == step)


def test_the_nursery_plan_follows_the_formulas(tmp_path: Path) -> None:
    plan = estimate(nursery(tmp_path))
    rules = DialogPlayConfig(guesser="per_image")
    turns = {num: mean_turns(rules, num) for num in (4, 2)}
    assert (plan.images, plan.games, plan.rounds, plan.engines, plan.gpus) == (200, 120, 2, 2, 0)
    assert plan.image_tokens == NURSERY_IMAGE_TOKENS
    assert calls_of(plan, "ask") == round(80 * turns[4] + 40 * turns[2])
    assert calls_of(plan, "verdict") == round(80 * 4 * turns[4] + 40 * 2 * turns[2])
    assert plan.calls == sum(each.calls for each in plan.stages[0].calls)
    assert plan.evaluation_items == 400
    assert plan.evaluation_calls > 300
    assert plan.model_context == 1024
    assert plan.disk_bytes > plan.image_bytes
    assert plan.warnings == []


def test_it_is_frozen_json_able_and_can_be_shown(tmp_path: Path) -> None:
    plan = estimate(nursery(tmp_path))
    assert Estimate.model_validate_json(plan.model_dump_json()) == plan
    labels = dict(plan.render())
    assert labels["images"].startswith("200")
    assert "training per round" in plan.text


def test_a_contrastive_stage_and_pie_are_counted(tmp_path: Path) -> None:
    stage = ContrastiveStage.model_validate({
        "questions": {"per_type": {"False Premise": 100, "Clear": 100}},
        "train": {"objective": "crl", "batch_size": 10}})
    pie = {"num_clear": 30, "judge": {"kind": "vlm"}}
    measured = [BenchmarkConfig.model_validate({"kind": "pie", "images": NURSERY, "num_items": 60,
                                                "pie": pie})]
    plan = estimate(nursery(tmp_path, stages=[stage], gate=GatePolicy(primary="field/pie_aar"),
                            evaluation=EvaluationConfig(benchmarks=measured)))
    calls = {each.step: each.calls for each in plan.stages[0].calls}
    assert calls == {"write": 200, "check": 200, "imagine": 280, "judge": 280}
    assert (plan.training_rows, plan.training_steps) == (186, 19)
    assert (plan.evaluation_items, plan.evaluation_calls) == (90, 180)
    assert dict(plan.render())["questions per round"] == "200"
    grammar = stage.model_copy(update={
        "questions": stage.questions.model_copy(update={"source": "grammar"}),
        "train": SftConfig(batch_size=10)})
    plan = estimate(nursery(tmp_path, stages=[grammar]))
    assert "write" not in {each.step for each in plan.stages[0].calls}
    assert plan.training_rows == 93


BARE, LED = 8 + 9, 12 + 8 + 9
"""Prompt tokens of a bare nursery question about its image, and of one under a criterion."""


@pytest.mark.parametrize(("imagine", "prompt_tokens", "num_samples"), [
    ({}, 70 * BARE + 210 * LED, 70 + 210 * 4),
    ({"num_tries": 3}, 70 * BARE + 210 * LED, 70 + 210 * 3),
    ({"temperature": 0}, 70 * BARE + 210 * LED, 280),
    ({"clear_as_asked": False}, 280 * LED, 280 * 4),
    ({"clear_as_asked": False, "num_tries": 1}, 280 * LED, 280),
])
def test_every_sample_is_counted_and_a_clear_question_as_asked_is_short(
    imagine: dict[str, Any], prompt_tokens: int, num_samples: int
) -> None:
    stage = ContrastiveStage.model_validate({
        "questions": {"per_type": {"False Premise": 100, "Clear": 100}}, "imagine": imagine})
    calls = {each.step: each for each in contrastive_calls(stage, 9, "nursery")}
    assert calls["imagine"] == Calls(step="imagine", calls=280, prompt_tokens=prompt_tokens,
                                     output_tokens=8 * num_samples)
    assert calls["judge"] == Calls(step="judge", calls=280, prompt_tokens=280 * (LED + 8),
                                   output_tokens=280)
    odd = ContrastiveStage.model_validate({
        "questions": {"per_type": {"False Premise": 100}}, "imagine": imagine})
    [led] = [each for each in contrastive_calls(odd, 9, "nursery") if each.step == "imagine"]
    assert (led.calls, led.prompt_tokens) == (140, 140 * LED)
    nothing = ContrastiveStage.model_validate({"questions": {"per_type": {}}, "imagine": imagine})
    assert contrastive_calls(nothing, 9, "nursery") == []


def test_a_desired_reply_is_asked_for_once_in_every_light() -> None:
    """The numbers are those of the first round of nursery-contrastive.yaml."""
    stage = ContrastiveStage.model_validate({
        "questions": {"source": "grammar", "min_type_probability": None,
                      "max_share_per_opening": None,
                      "per_type": {"False Premise": 1850, "Clear": 6500}},
        "imagine": {"looks": ["stretched", "deeper", "deepest"]}})
    imagine, judge = contrastive_calls(stage, 9, "nursery")
    assert (imagine.calls, judge.calls) == (5 * 8350, 2 * 8350)
    assert imagine.prompt_tokens == 6500 * 4 * BARE + (5 * 8350 - 6500 * 4) * LED
    assert imagine.output_tokens == 8 * 8350 * (4 + 4), "one sample a light, four undesired"
    assert num_pairs(stage) == pytest.approx(5519, rel=0.02), "so many were kept"


@pytest.mark.parametrize(("curation", "num"), [
    ({}, 2 * 46.55), ({"require_judge": False}, 2 * 66.5), ({"select": "unfiltered"}, 140),
    ({"include_clear": False}, 46.55), ({"max_per_type": 10}, 20)])
def test_pairs_that_are_kept_follow_curation(curation: dict[str, Any], num: float) -> None:
    stage = ContrastiveStage.model_validate({
        "questions": {"per_type": {"False Premise": 100, "Clear": 100}}, "curation": curation})
    assert num_pairs(stage) == pytest.approx(num)


def test_checks_that_are_off_cost_no_call() -> None:
    bare = DialogPlayConfig(rotations=False, blind=False, reasks=0, counterfactual=False)
    steps = {each.step for each in play_calls(bare, {4: 10}, 300, "default")}
    assert steps == {"ask", "answer", "decide", "guess"}
    full = {each.step for each in play_calls(DialogPlayConfig(), {4: 10}, 300, "default")}
    assert full - steps == {"rotations", "blind", "re-ask", "counterfactual"}


def test_a_joint_prompt_holds_all_images() -> None:
    calls = {c.step: c for c in play_calls(DialogPlayConfig(), {4: 10}, 1000, "default")}
    assert calls["ask"].prompt_tokens / calls["ask"].calls > 4000
    assert calls["answer"].prompt_tokens / calls["answer"].calls < 1500
    each = calls["decide"].output_tokens / calls["decide"].calls
    assert each == WORDINGS["default"].output["decide"]


def test_kept_games_respect_selection_and_caps() -> None:
    joint = DialogStage(games={4: 1000})
    assert kept_games(joint, 10_000) == 250
    assert kept_games(joint, 20) == 40
    blind = {"games": {4: 1000}, "curation": {"select": "unfiltered"}}
    assert kept_games(DialogStage.model_validate(blind), 20) == 970
    assert kept_games(DialogStage(games={4: 1000}, play=MEASURED), 10_000) == 450


LOOKED = {"guesser": "per_image", "max_turns": {2: 3, 4: 4}, "reasks": 0,
          "looks": ["stretched", "dimmed", "deeper", "deepest"]}


def test_what_is_learnt_follows_curation() -> None:
    """Of 100 games of four images and 3.4 turns 45 are kept."""
    def rows(**curation: Any) -> float:
        return lesson(DialogStage.model_validate(
            {"games": {4: 100}, "play": LOOKED, "curation": curation}), 1000).rows

    turns = 45 * 3.4
    assert rows() == round(turns * (1 + 1 + 1 + 1.5))
    assert rows(min_agreement=1.0) == round(0.75 * turns * 4.5)
    assert rows(closed_answers_only=True) == round(turns * (0.6 + 1 + 0.6 * 2.5))
    assert rows(look_share=0.5) == round(1.5 * turns * 4.5)
    assert rows(balance_answers=True) == round(turns * (0.4 + 0.36 + 1 + 2))
    assert rows(answers_of_dropped_games=True) == round(97 * 3.4 + turns * 3.5)
    assert rows(answers_of_dropped_games=True, role_weights={"ask": 1}) == round(turns)


def test_the_demos_lesson_is_about_what_it_was(repo: Path) -> None:
    """Its first round has trained on 4,045 rows, in 254 steps."""
    config = yaml.safe_load((repo / "deploy" / "configs" / "demo.yaml").read_text("utf-8"))
    planned = lesson(RunConfig.model_validate(config).stages[0], 2000)
    assert planned.rows == pytest.approx(4045, rel=0.05)
    assert planned.steps == pytest.approx(254, rel=0.05)


def test_training_is_capped_by_rows_and_steps(tmp_path: Path) -> None:
    train = SftConfig(batch_size=4, max_rows=40, epochs=2)
    stage = DialogStage(games={4: 100}, play=MEASURED, train=train)
    assert estimate(nursery(tmp_path, stages=[stage])).training_steps == 20
    short = stage.model_copy(update={"train": train.model_copy(update={"max_steps": 3})})
    assert estimate(nursery(tmp_path, stages=[short])).training_steps == 3


def test_a_folder_is_counted_without_decoding(tmp_path: Path) -> None:
    plan = estimate(photo_run(tmp_path))
    assert plan.images == 10
    assert plan.image_tokens == -(-1600 * 1200 // 784)
    assert plan.gpus == 4
    assert plan.model_context is None
    assert any("Qwen2.5-VL-7B-Instruct" in note for note in plan.notes)
    assert any("1 files cannot be used" in note for note in plan.notes)


def test_images_that_overflow_the_context_are_counted(tmp_path: Path) -> None:
    config = photo_run(tmp_path)
    assert any(w.startswith("10 images are too large") for w in estimate(config).warnings)
    small = config.engine.model_copy(update={"max_image_pixels": 602_112})
    assert not any("too large" in w for w in estimate(
        config.model_copy(update={"engine": small})).warnings)


def test_what_was_imported_is_read_from_its_manifest(tmp_path: Path) -> None:
    config = photo_run(tmp_path)
    (Path(config.images.uri) / "text.jpg").write_text("no picture")
    assert estimate(config).images == 11
    import_images(Store(config.root), config.images)
    plan = estimate(config)
    assert plan.images == 10
    assert not any("not imported" in note for note in plan.notes)


def test_what_was_imported_from_elsewhere_is_not_counted(tmp_path: Path) -> None:
    config = photo_run(tmp_path)
    import_images(Store(config.root), ImagesConfig(uri="nursery://field", limit=7))
    assert estimate(config).images == 10
    import_images(Store(config.root), config.images)
    fewer = config.images.model_copy(update={"limit": 4})
    plan = estimate(config.model_copy(update={"images": fewer}))
    assert plan.images == 4 and any("not imported" in note for note in plan.notes)
    absent = ImagesConfig(uri=str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="is not a folder"):
        estimate(config.model_copy(update={"images": absent}))


def finish(config: RunConfig, num_rounds: int) -> None:
    """Write the records of the base and of *num_rounds* rounds made with *config*."""
    for number in range(num_rounds + 1):
        write_round(Store(config.root), RoundRecord(
            round=number, model="m", model_prefix="", trained_from=None, reasons=[],
            decision="promote" if number else "base", config_digest=config_digest(config, number),
            evaluation=Evaluation(model_digest="m", metrics={}, items={}, inputs_digest="")))


def test_finished_rounds_are_told(tmp_path: Path) -> None:
    config = nursery(tmp_path)
    assert not any("finished" in note for note in estimate(config).notes)
    finish(config, 1)
    [told] = [note for note in estimate(config).notes if "finished" in note]
    assert told == f"{tmp_path} holds the base and 1 finished round: round 2 is next"
    finish(config, 2)
    changed = nursery(tmp_path, seed=1)
    [told, kept, *_] = estimate(changed).notes
    assert told.endswith("no further one would be played (all 2 rounds are done)")
    assert kept.startswith("rounds 1, 2: made with another configuration, kept as made; no round")
    [_, kept, *_] = estimate(nursery(tmp_path, seed=1, stop=StopRule(rounds=3))).notes
    assert kept == "rounds 1, 2: made with another configuration, kept as made"


def test_the_root_of_another_base_model_is_refused(tmp_path: Path) -> None:
    finish(nursery(tmp_path), 0)
    other = ModelConfig(uri="Qwen/Qwen2.5-VL-7B-Instruct", prompts="nursery")
    with pytest.raises(ConfigError, match="another base model"):
        estimate(nursery(tmp_path, model=other))


def test_a_bucket_root_out_of_reach_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("schemas.store.BucketObjects.exists", _refuse)
    config = nursery(tmp_path).model_copy(update={"root": "s3://nowhere/run"})
    assert "not known whether the root holds finished rounds" in estimate(config).notes[0]


def test_image_tokens_of_other_models_are_called_a_guess(tmp_path: Path) -> None:
    config = photo_run(tmp_path)
    assert not any("image tokens" in note for note in estimate(config).notes)
    other = config.model_copy(update={"model": ModelConfig(uri="llava-hf/llava-v1.6-mistral-7b")})
    assert any("image tokens are counted as Qwen2.5-VL" in note for note in estimate(other).notes)


@pytest.mark.parametrize("content", [None, "", "no picture"], ids=["absent", "empty", "text"])
def test_a_folder_without_images_is_an_error(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "photos"
    if content is not None:
        folder.mkdir()
        if content:
            (folder / "note.jpg").write_text(content)
    with pytest.raises(ConfigError, match="photos"):
        estimate(nursery(tmp_path, images=ImagesConfig(uri=str(folder))))


def test_too_few_images_for_a_game_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="games of 4 images"):
        estimate(nursery(tmp_path, images=ImagesConfig(uri="nursery://field", limit=3)))


def test_a_benchmark_folder_that_is_missing_is_an_error(tmp_path: Path) -> None:
    absent = ImagesConfig(uri=str(tmp_path / "absent"))
    benchmarks = [BenchmarkConfig(kind="game", images=absent, play=MEASURED)]
    with pytest.raises(ConfigError, match="absent"):
        estimate(nursery(tmp_path, evaluation=EvaluationConfig(benchmarks=benchmarks)))


def test_contradictions_are_warned_of(tmp_path: Path) -> None:
    engine = EngineConfig(max_model_len=4096, num_gpus=1, tensor_parallel_size=2)
    plan = estimate(nursery(tmp_path, engine=engine, evaluation=EvaluationConfig()))
    assert any("exceeds the model's context of 1,024" in each for each in plan.warnings)
    assert any("tensor_parallel_size 2" in each for each in plan.warnings)
    assert any("gate.primary" in each for each in plan.warnings)


def test_what_a_run_refuses_at_once_is_refused(tmp_path: Path) -> None:
    measured = [BenchmarkConfig(kind="vqa", images=NURSERY, num_items=300)]
    with pytest.raises(ConfigError, match="no benchmark scores field/game4_success"):
        estimate(nursery(tmp_path, evaluation=EvaluationConfig(benchmarks=measured)))
    remote = EngineConfig(kind="endpoint", base_url="http://there/v1", model_name="large")
    with pytest.raises(ConfigError, match=r"set engine\.kind to 'vllm'"):
        estimate(nursery(tmp_path, engine=remote))


@pytest.mark.parametrize(("uri", "says"), [
    ("nursery://vml", "vml: no such folder"), ("/no/such/model", "no such folder, and not a hub"),
    ("{tmp_path}", "holds no weights; save the model as safetensors")])
def test_a_model_that_is_not_on_this_machine_is_refused(
    tmp_path: Path, uri: str, says: str
) -> None:
    model = ModelConfig(uri=uri.format(tmp_path=tmp_path), prompts="nursery")
    config = nursery(tmp_path / "root", model=model)
    with pytest.raises(ConfigError, match=says):
        estimate(config)
    finish(config, 0)  # now the root has the model itself
    assert estimate(config).rounds == 2


def test_a_bucket_out_of_reach_is_planned_by_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.find", _refuse)
    images = ImagesConfig(uri="memory://photos", limit=500)
    plan = estimate(nursery(tmp_path, images=images))
    assert plan.images == 500
    assert any("cannot be listed" in each for each in plan.warnings)
    with pytest.raises(ConfigError, match=r"images\.limit"):
        estimate(nursery(tmp_path, images=ImagesConfig(uri="memory://photos")))


def _refuse(*_: object, **__: object) -> None:
    raise PermissionError("403")


@pytest.mark.slow
def test_no_model_is_loaded(repo: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(nursery(tmp_path).model_dump(mode="json")))
    code = (
        "import sys, yaml\n"
        "from model_ops.estimate import estimate\n"
        "from schemas.config import RunConfig\n"
        f"estimate(RunConfig.model_validate(yaml.safe_load(open({str(config)!r}))))\n"
        "print(sorted({'torch', 'vllm', 'ray', 'transformers'} & set(sys.modules)))\n"
    )
    done = run([sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("stage", [
    {"method": "contrastive"}, {"method": "dialog", "games": {2: 10}, "play": MEASURED}])
def test_a_rehearsal_is_a_description_and_a_row_a_prompt(
        tmp_path: Path, stage: dict[str, Any]) -> None:
    [without] = estimate(nursery(tmp_path, stages=[stage])).stages
    [rehearsed] = estimate(nursery(tmp_path, stages=[
        {**stage, "rehearsal": {"limit": 30, "max_tokens": 20}}])).stages
    *calls, last = rehearsed.calls
    assert calls == without.calls and (last.step, last.calls) == ("rehearse", 30)
    assert last.output_tokens == 30 * 20 and last.prompt_tokens == 30 * (6 + 9)
    assert rehearsed.training.rows == without.training.rows + 30
    [every] = estimate(nursery(tmp_path, stages=[{**stage, "rehearsal": {}}])).stages
    assert every.calls[-1].calls == NURSERY.limit


def test_a_calibrated_stage_with_pope_and_chair_is_counted(tmp_path: Path) -> None:
    stage = CalibratedStage.model_validate({
        "search": {"preset": "reference", "max_sentences": 3, "max_sentence_tokens": 5},
        "train": {"batch_size": 10}})
    measured = [BenchmarkConfig.model_validate(each) for each in (
        {"kind": "pope", "images": NURSERY, "num_items": 5000},
        {"kind": "chair", "images": NURSERY, "num_items": 500, "chair": {"max_tokens": 20}})]
    plan = estimate(nursery(tmp_path, stages=[stage], gate=GatePolicy(primary="field/pope"),
                            evaluation=EvaluationConfig(benchmarks=measured)))
    search, score = plan.stages[0].calls
    assert (plan.games, search.calls, score.calls) == (200, 200 * (1 + 3 + 3), 200 * 3)
    assert search.output_tokens == 200 * 7 * 5 * 5 and score.output_tokens == 0
    shared = DESCRIBE_TOKENS["nursery"] + NURSERY_IMAGE_TOKENS
    assert search.prompt_tokens == 200 * (7 * shared + 3 * 5 + 3 * 10)
    looked = stage.model_copy(update={"search": stage.search.model_copy(
        update={"looks": ["stretched", "dimmed"]})})
    assert search_calls(looked, 200, NURSERY_IMAGE_TOKENS, "nursery") == [Calls(
        step="search", calls=3 * search.calls, prompt_tokens=3 * search.prompt_tokens,
        output_tokens=3 * search.output_tokens), score]
    assert (plan.training_rows, plan.training_steps) == (190, 19)
    pope, chair = plan.benchmarks
    assert (pope.name, pope.items) == ("field/pope", 3 * 6 * 200)
    assert (chair.name, chair.items, chair.calls[0].output_tokens) == ("field/chair", 200, 200 * 20)
    assert dict(plan.render())["searches per round"] == "200"


def test_a_prompt_file_and_its_limit_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "prompts.json"
    file.write_text('[{"id": "1", "image": "1.jpg", "input": "Describe."}, {"id": "2"}]')
    for limit, num in ((None, 2), (1, 1)):
        stage = CalibratedStage.model_validate({"prompts": {"uri": str(file), "limit": limit}})
        assert estimate(nursery(tmp_path / "root", stages=[stage])).games == num
    stage = CalibratedStage.model_validate({"prompts": {"uri": str(tmp_path / "none.json")}})
    with pytest.raises(ConfigError, match=r"none\.json"):
        estimate(nursery(tmp_path / "root", stages=[stage]))
