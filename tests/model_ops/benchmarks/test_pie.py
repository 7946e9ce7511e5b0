"""PIE's programs: what is asked, who judges, and what a judge that misbehaves costs."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from model_ops import stages
from model_ops.benchmarks import Items, item_scores, summarise
from model_ops.benchmarks.pie import PieBenchmark, answer_and_judge
from model_ops.benchmarks.pie_items import pie_settings
from model_ops.benchmarks.questions import scene_of
from model_ops.criteria import load_criteria
from model_ops.engines import player
from model_ops.engines.driver import Outcome, drive
from model_ops.engines.endpoint import EndpointEngine
from model_ops.engines.job import LocalModel, PoolWork, ProgramJob
from model_ops.engines.scripted import Answer, ScriptedEngine
from model_ops.judges import judge_seats
from model_ops.programs.calls import Call, Generate
from model_ops.programs.context import JobContext
from model_ops.programs.contrastive_messages import question_messages
from model_ops.prompts import load_prompts
from schemas.artifacts import publish, read_quarantine, read_rows
from schemas.config import BenchmarkConfig, EngineConfig, ImagesConfig, JudgeConfig, RunConfig
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest
from schemas.rows import ImageRef, ItemRow, PieRow
from schemas.store import Store
from tests.model_ops.benchmarks import odd_for_tests
from tests.model_ops.benchmarks.test_pie_items import PIE, plan
from tests.model_ops.engines.test_endpoint import Server, completion

odd = odd_for_tests.odd
HERE = "tests.model_ops.benchmarks.test_pie"
REF = ImageRef(image_id="i0", shard=0, row=0)
FACTS = json.dumps({"seed": 1, "domain": "field", "things": [
    {"shape": "circle", "colour": "red", "size": "big", "position": "top left"}]})
VLM = JudgeConfig(kind="vlm")


def item(kind: str = "Subject Ambiguity", facts: str | None = FACTS) -> PieRow:
    return PieRow(row_id="r", image=REF, question_type=kind, question="what colour is it ?",
                  domain="field", source="regenerated", facts=facts, seed=3)


def context(**changes: Any) -> JobContext[PieBenchmark]:
    settings = PieBenchmark.model_validate({
        "metric": "field/pie_aar", "domain": "field", "criteria": "default", "rubric": "r",
        "max_tokens": 40, **changes})
    return JobContext(load_prompts("default"), settings, 0, "evaluation", "model", 1)


def play(row: PieRow, told: JobContext[PieBenchmark], seats: dict[str, Answer]) -> Outcome:
    engines = {seat: ScriptedEngine(answer) for seat, answer in seats.items()}
    [ended] = drive([("k", answer_and_judge(row, told))], engines, 1, 0)
    return ended


def answered(row: PieRow, told: JobContext[PieBenchmark], seats: dict[str, Answer]) -> ItemRow:
    ended = play(row, told, seats)
    assert isinstance(ended.row, ItemRow), ended.error
    return ended.row


def saying(text: str, calls: list[Generate]) -> Answer:
    def answer(call: Call, seed: int) -> str:
        assert isinstance(call, Generate)
        calls.append(call)
        return text

    return answer


def detail(row: ItemRow) -> dict[str, Any]:
    return dict(json.loads(row.detail or ""))


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(("reply", "label", "score"), [
    ("good", "True", 1.0), ("well", "Ambiguous", 0.0), ("red", "False", 0.0)])
def test_one_greedy_answer_is_judged_by_the_rules(reply: str, label: str, score: float) -> None:
    calls: list[Generate] = []
    row = answered(item(), context(), {"": saying(f" {reply} ", calls)})
    [call] = calls
    assert call.messages == question_messages(load_prompts("default"), "what colour is it ?")
    assert (call.images, call.sampling.temperature, call.sampling.max_tokens, call.reward) == (
        (REF,), 0.0, 40, None)
    assert (row.row_id, row.benchmark, row.kind, row.reply, row.score, row.num_calls) == (
        "r", "field/pie_aar", "Subject Ambiguity", reply, score, 1)
    assert row.expected == load_criteria("default").of("Subject Ambiguity").desired
    assert detail(row) == {"label": label, "judge": "rules", "probability": score}


@pytest.mark.usefixtures("odd")
def test_variants_change_the_word_or_the_prompt() -> None:
    calls: list[Generate] = []
    for changes in ({"reward": "bad"}, {"reward": ""}, {"prompted": True}):
        play(item(), context(**changes), {"": saying("good", calls)})
    assert [call.reward for call in calls] == ["bad", "", None]
    desired = load_criteria("default").of("Subject Ambiguity").desired
    texts = ["\n".join(part for m in call.messages for part in m.parts) for call in calls]
    assert [desired in text for text in texts] == [False, False, True]
    assert all("circle" not in text for text in texts), "facts are the judge's alone"


def test_a_model_judges_in_its_own_seat_without_a_reward_word() -> None:
    asked: list[Generate] = []
    judged: list[Generate] = []
    seats = {"": saying("red", asked), "judge": saying("Ambiguous", judged)}
    row = answered(item(facts=None), context(judge=VLM, reward="good"), seats)
    assert (len(asked), len(judged), row.num_calls, row.score) == (1, 1, 2, 0.0)
    assert (judged[0].sampling.temperature, judged[0].reward) == (0.0, "")
    assert judged[0].sampling.choices == ("True", "Ambiguous", "False")
    assert detail(row) == {"label": "Ambiguous", "judge": "vlm", "probability": 0.0}
    seats["judge"] = saying("True", judged)
    row = answered(item("False Premise", None), context(judge=VLM), seats)
    assert judged[-1].sampling.choices == ("True", "False")
    assert (row.score, detail(row)["probability"]) == (1.0, 1.0)


def test_a_judge_that_cannot_be_read_is_a_parse_error() -> None:
    def mumble(call: Call, seed: int) -> str:
        raise DropError("not_a_choice", "'perhaps'")

    for judge in (saying("perhaps", []), mumble):
        row = answered(item(), context(judge=VLM), {"": saying("red", []), "judge": judge})
        assert row.score == 0.0 and detail(row)["label"] == "ParseError"


def test_the_nurserys_own_rules_tell_engaged_from_passive(local_store: Store) -> None:
    from model_ops.nursery.odd import desired_reply, undesired_reply

    pie = PIE.pie.model_copy(update={"criteria": "default"})
    items = plan(local_store, PIE.model_copy(update={"pie": pie}))
    rows = list(read_rows(local_store, items.items, PieRow))
    told = context(rubric=items.settings["rubric"])
    for engaged in (True, False):
        for row in rows[::3]:
            scene, rng = scene_of(json.loads(row.facts or "")), random.Random(row.row_id)
            said = (desired_reply(row.question_type, row.question, scene) if engaged
                    else undesired_reply(row.question_type, row.question, scene, rng))
            done = answered(row, told, {"": saying(said, [])})
            assert done.score == float(engaged), (row.question_type, row.question, said)


def test_rules_without_facts_say_what_to_set() -> None:
    with pytest.raises(ConfigError, match="set it to 'vlm' or 'endpoint'"):
        play(item(facts=None), context(), {"": saying("red", [])})


# --- the pool: a scripted model, a judge behind a real HTTP server ---


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def answer(call: Call, seed: int) -> str:
    """The model's reply: the number of the question, which tells the judge how to behave."""
    assert isinstance(call, Generate) and call.seat == ""
    return "I say red"


def run_config(store: Store, **judge: Any) -> RunConfig:
    pie = PIE.pie.model_copy(update={"judge": JudgeConfig.model_validate(judge), "num_clear": 4})
    benchmark = PIE.model_copy(update={"pie": pie, "num_items": 8})
    return RunConfig.model_validate({
        "root": store.root, "images": ImagesConfig(limit=8), "engine": {"live_programs": 8},
        "evaluation": {"benchmarks": [benchmark]}})


def judged(store: Store, config: RunConfig) -> Manifest:
    """Play the benchmark's only shard in this process, as an actor of the pool does."""
    [benchmark] = config.evaluation.benchmarks
    items = plan(store, benchmark)
    seats = {"": LocalModel(path=f"scripted:{HERE}:answer", digest="scripted"),
             **judge_seats(store, config, benchmark.pie.judge)}
    job = ProgramJob(program="pie", settings=items.settings, prompts="default", round=0,
                     stage="evaluation", seed=1, models=seats)
    work = PoolWork(items.items, items.images, job, "evaluation/pie")
    actor = player.ShardPlayer(store, [work], ["digest"], config.engine)
    told = actor({"work": [0], "shard": [0]})
    shard = items.items.shards[0].model_validate_json(told["shard"][0])
    return publish(store, Manifest(kind="items", prefix=work.prefix, inputs_digest="digest",
                                   shards=[shard], config={"program": "pie",
                                                           "settings": items.settings}))


def behave(body: dict[str, Any], number: int) -> tuple[int, Any]:
    """Fails for some kinds, by what their prompts say; is too late for another."""
    text = json.dumps(body["messages"])
    if "false premise" in text:
        return 500, {"error": {"message": "boom"}}
    if "unclear user background" in text:
        time.sleep(5)
    if "hidden human preferences" in text:
        return 200, completion("I would rather not say")
    if "subject ambiguity" in text:
        return 200, b"<html>"
    return 200, completion("True", {"True": -0.1, "False": -2.4})


@pytest.mark.slow
@pytest.mark.usefixtures("odd")
def test_an_endpoint_that_misbehaves_costs_its_items_and_nothing_else(
    local_store: Store, server: Server
) -> None:
    server.behave = behave
    config = run_config(local_store, kind="endpoint", base_url=server.url, model_name="large",
                        timeout_s=2, max_retries=1)
    done = judged(local_store, config)
    rows = list(read_rows(local_store, done, ItemRow))
    dropped = list(read_quarantine(local_store, done))
    assert len(rows) + len(dropped) == 12
    assert Counter(row.reason for row in dropped) == {
        "judge_endpoint_error": 3, "judge_endpoint_timeout": 1}
    assert all("the reply was 'I say red'" in row.detail for row in dropped)
    labels = {row.kind: detail(row)["label"] for row in rows}
    assert labels.pop("Hidden Human Preferences") == "ParseError"
    assert set(labels.values()) == {"True"}
    assert {body["model"] for body in server.requests} == {"large"}
    assert sum("false premise" in json.dumps(body) for body in server.requests) == 4, "one retry"
    metrics = summarise(local_store, {"field-pie": done})
    aar = metrics["field/pie_aar"]
    assert (aar.n, aar.value) == (4, 3 / 4), "what nobody judged says nothing"
    assert metrics["field/pie_parse_error"].value == pytest.approx(1 / 8)
    assert metrics["field/pie_clear"].value == 1 - metrics["field/pie_overask"].value == 1.0
    assert len(item_scores(local_store, {"field-pie": done})["field/pie_aar"]) == 4
    assert metrics["field/pie_unjudged"].value == pytest.approx(4 / 12)


@pytest.mark.slow
def test_an_endpoint_seat_has_its_own_url_beside_the_pools_engine(local_store: Store) -> None:
    config = run_config(local_store, kind="endpoint", base_url="http://there/v1",
                        model_name="large", api_key_env="MY_KEY", timeout_s=7, max_retries=1)
    seats = judge_seats(local_store, config, config.evaluation.benchmarks[0].pie.judge)
    seats = {"": LocalModel(path=f"scripted:{HERE}:answer", digest="s"), **seats}
    nothing = Manifest(kind="images", prefix="images", inputs_digest="i")
    job = ProgramJob(program="pie", prompts="default", round=0, stage="s", seed=0, models=seats)
    (engines,) = player.build_seats(
        local_store, [PoolWork(nothing, nothing, job, "out")], config.engine)
    model = seats["judge"]
    assert model.engine == EngineConfig(kind="endpoint", base_url="http://there/v1",
                                        model_name="large", api_key_env="MY_KEY", timeout_s=7,
                                        max_retries=1)
    made = player._build_engine(model, config.engine, None, 0)
    assert isinstance(made, EndpointEngine) and str(made._client.base_url) == "http://there/v1/"
    assert (made._client.timeout, made._client.max_retries, made._step_seconds) == (7, 1, 0.01)
    assert set(engines) == {"", "judge"}


def test_each_benchmark_has_its_judge_seated_and_all_share_one_pool(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[list[PoolWork]] = []

    def run_all(store: Store, works: list[PoolWork], *_: object) -> list[Manifest]:
        pools.append(works)
        return [work.items for work in works]

    monkeypatch.setattr(stages, "run_all", run_all)
    monkeypatch.setattr(stages, "local_model",
                        lambda store, model, config: LocalModel(path="m", digest=model.digest))
    base = publish(local_store, Manifest(
        kind="model", prefix="rounds/round=0000/model", inputs_digest="b", files={}))
    endpoint = JudgeConfig(kind="endpoint", base_url="http://there/v1", model_name="large")
    images = ImagesConfig(limit=8)
    benchmarks = [BenchmarkConfig(kind="vqa", images=images)] + [
        BenchmarkConfig.model_validate({"kind": "pie", "images": images, "domain": domain,
                                        "pie": {"judge": judge, "reward": reward}})
        for domain, judge, reward in (("rules", JudgeConfig(), "model"), ("vlm", VLM, "model"),
                                      ("vlm", VLM, "bad"), ("far", endpoint, "model"))]
    config = RunConfig.model_validate({
        "root": local_store.root, "images": images, "evaluation": {"benchmarks": benchmarks}})
    planned = {b.slug: Items(base, base, "pie", {"slug": b.slug}) for b in benchmarks}
    seats = stages.seat_models(config, base, None)
    assert list(stages.measure(local_store, config, planned, seats, "e", 0)) == list(planned)
    ((*works,),) = pools
    assert [work.prefix for work in works] == [
        "e/field-vqa", "e/rules-pie", "e/vlm-pie", "e/vlm-pie-bad", "e/far-pie"]
    seated = [work.job.models for work in works]
    assert [sorted(each) for each in seated] == [[""], [""], *[["", "judge"]] * 3]
    assert seated[2]["judge"].digest == base.digest
    assert seated[4]["judge"].engine is not None and seated[2]["judge"].engine is None
    assert pie_settings(benchmarks[2], "m").judge == VLM
