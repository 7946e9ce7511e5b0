"""Places, seeds, histories and funnels of stages; the summary and the tables of rounds."""

import io
import json

import pytest
from rich.console import Console

from model_ops import tables
from model_ops.benchmarks import Items
from model_ops.rounds import write_round
from model_ops.stages import (
    StagePlace,
    items_digest,
    local_model,
    refuse_endpoint,
    round_funnel,
    round_speed,
    training_rows,
)
from model_ops.summary import write_summary
from schemas.artifacts import publish
from schemas.config import BenchmarkConfig, DialogStage, ImagesConfig, RunConfig, SftConfig
from schemas.errors import ConfigError, StoreError
from schemas.manifest import Manifest
from schemas.records import Champion, Evaluation, Metric, RoundRecord, StageRecord
from schemas.store import Store

PER_IMAGE = {"play": {"guesser": "per_image"}}
ENDPOINT = {"kind": "endpoint", "base_url": "http://there/v1", "model_name": "large"}
CHAMPION = Champion(digest="b" * 64, prefix="p", round=1, decision="promote")


def config(**changes: object) -> RunConfig:
    return RunConfig.model_validate({"root": "r", "images": ImagesConfig(limit=8), **changes})


def stage_record(name: str, speed: float) -> StageRecord:
    return StageRecord(name=name, method="dialog", artifacts={}, funnel={"played": 3, "kept": 1},
                       seconds={}, tokens_per_second=speed, model_digest="m")


def record(number: int, value: float) -> RoundRecord:
    metric = Metric(value=value, low=value - 0.1, high=value + 0.1, n=100, chance=0.25)
    return RoundRecord(
        round=number, model="ab"[number] * 64, model_prefix="p", trained_from=None,
        decision=["base", "promote"][number], reasons=["[better]"], funnel={"played": 3},
        seconds={"train": 1.5}, tokens_per_second=9.0, evaluation=Evaluation(
            model_digest="m", metrics={"field/vqa": metric}, items={}, inputs_digest="i"))


def test_stages_have_places_and_seeds_of_their_own() -> None:
    two = config(stages=[DialogStage(), DialogStage()])
    places = [StagePlace(two, number, index) for number in (1, 2) for index in (0, 1)]
    assert places[1].prefix("train") == "rounds/round=0001/01-dialog/train"
    assert len({place.seed for place in places}) == 4
    assert all(0 <= place.seed < 2**31 for place in places)
    assert StagePlace(config(seed=1), 1, 0).seed != StagePlace(config(), 1, 0).seed


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, ["3"]), ({"history": "all"}, ["1", "2", "3"]),
    ({"stages": [DialogStage(train=SftConfig(replay=0.5))]}, ["1", "2", "3"]),
])
def test_history_and_replay_bring_earlier_rows_oldest_first(
    local_store: Store, changes: dict[str, object], expected: list[str]
) -> None:
    manifests = [publish(local_store, Manifest(
        kind="train", prefix=StagePlace(config(), number, 0).prefix("train"),
        inputs_digest=str(number))) for number in (1, 2, 3)]
    rows = training_rows(local_store, StagePlace(config(**changes), 3, 0), manifests[2])
    assert [manifest.inputs_digest for manifest in rows] == expected


@pytest.mark.parametrize(("changes", "named"), [
    ({}, False), ({"history": "all"}, True),
    ({"stages": [DialogStage(train=SftConfig(replay=0.5))]}, True)])
def test_earlier_rows_that_were_moved_away_are_missed(
    local_store: Store, changes: dict[str, object], named: bool
) -> None:
    place = StagePlace(config(**changes), 2, 0)
    current = Manifest(kind="train", prefix=place.prefix("train"), inputs_digest="2")
    write_round(local_store, record(0, 0.5))
    other = record(1, 0.5).model_copy(update={"stages": [stage_record("00-contrastive", 1)]})
    write_round(local_store, other)
    assert training_rows(local_store, place, current) == [current]  # there never were any
    lost = StagePlace(config(), 1, 0).prefix("train")
    made = stage_record("00-dialog", 1).model_copy(update={"artifacts": {"train": lost}})
    write_round(local_store, other.model_copy(update={"stages": [made]}))
    if named:
        with pytest.raises(StoreError, match=f"{lost}, the train rows of round 1, is not there"):
            training_rows(local_store, place, current)
    else:
        assert training_rows(local_store, place, current) == [current]


WORDS = {"good": "good", "bad": "bad"}
CRL = {"objective": "crl", "reward_words": WORDS}


@pytest.mark.parametrize(("earlier", "current", "is_used"), [
    (CRL, CRL, True),
    (CRL, {**CRL, "objective": "sft"}, False),
    (CRL, {**CRL, "objective": "dpo"}, False),
    (CRL, {**CRL, "reward_words": {"good": "fine", "bad": "bad"}}, False),
    ({**CRL, "objective": "sft"}, {"objective": "sft", "reward_words": {}}, True),
    ({"max_turns": 3}, {"max_turns": 4}, True),
])
def test_earlier_rows_for_another_objective_are_left_out(
    local_store: Store, caplog: pytest.LogCaptureFixture, earlier: dict[str, object],
    current: dict[str, object], is_used: bool,
) -> None:
    first, second = (publish(local_store, Manifest(
        kind="train", prefix=StagePlace(config(), number, 0).prefix("train"),
        inputs_digest=str(number), config=made))
        for number, made in ((1, earlier), (2, current)))
    rows = training_rows(local_store, StagePlace(config(history="all"), 2, 0), second)
    assert rows == [*([first] if is_used else []), second]
    assert (first.prefix in caplog.text) is not is_used


def test_earlier_pairs_are_no_rows(local_store: Store) -> None:
    place = StagePlace(config(history="all"), 2, 0)
    publish(local_store, Manifest(kind="pairs", prefix="rounds/round=0001/00-dialog/train",
                                  inputs_digest="1"))
    current = Manifest(kind="train", prefix=place.prefix("train"), inputs_digest="2")
    assert training_rows(local_store, place, current) == [current]


@pytest.mark.parametrize(("changes", "slug"), [
    ({"kind": "game"}, "field-game4"), ({"kind": "vqa", "domain": "home"}, "home-vqa"),
    ({"kind": "game", "num_images": 2, "cross_play": True}, "field-game2-cross"),
])
def test_a_benchmark_is_named_by_what_it_measures(changes: dict[str, object], slug: str) -> None:
    benchmark = BenchmarkConfig.model_validate({"images": ImagesConfig(limit=8), **changes})
    assert benchmark.slug == slug


def test_scores_pair_only_if_items_and_rules_are_the_same() -> None:
    made = Manifest(kind="questions", prefix="p", inputs_digest="1")
    items = Items(made, made, "vqa", {"metric": "m", "scoring": "exact"})
    other = made.model_copy(update={"inputs_digest": "2"})
    same = items_digest(config(engine={"num_actors": 2}), {"b": items})
    assert same == items_digest(config(), {"b": items})
    digests = [
        same,
        items_digest(config(), {"b": items._replace(items=other)}),
        items_digest(config(), {"b": items._replace(program="game_benchmark")}),
        items_digest(config(), {"b": items._replace(settings={**items.settings, "metric": "n"})}),
        items_digest(config(model={"prompts": "nursery"}, stages=[PER_IMAGE]), {"b": items}),
        items_digest(config(engine={"max_model_len": 512}), {"b": items}),
        items_digest(config(engine={"max_image_pixels": 4096}), {"b": items}),
    ]
    assert len(set(digests)) == len(digests)


def test_scores_of_other_code_do_not_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Manifest(kind="questions", prefix="p", inputs_digest="1")
    planned = {"b": Items(made, made, "vqa", {"metric": "m", "scoring": "exact"})}
    before = items_digest(config(), planned)
    monkeypatch.setattr("model_ops.stages.code_version", lambda program: f"new {program}")
    assert items_digest(config(), planned) != before


def test_an_endpoint_may_generate_under_its_own_digest_but_not_be_measured(
    local_store: Store
) -> None:
    model = Manifest(kind="model", prefix="m", inputs_digest="1")
    remote = config(engine=ENDPOINT)
    seated = local_model(local_store, model, remote)
    assert seated.digest != model.digest
    larger = config(engine={**ENDPOINT, "model_name": "larger"})
    assert seated.digest != local_model(local_store, model, larger).digest
    with pytest.raises(ConfigError, match="use it with the flow `generate` only"):
        refuse_endpoint(remote)
    refuse_endpoint(config())


def test_a_round_of_several_stages_keeps_their_funnels_apart() -> None:
    one, two = stage_record("00-dialog", 10), stage_record("01-dialog", 20)
    assert round_funnel([one]) == {"played": 3, "kept": 1}
    assert round_funnel([one, two])["01-dialog/kept"] == 1
    assert (round_speed([one, two]), round_speed([])) == (15, 0)


def test_the_summary_has_the_agreed_shape(local_store: Store) -> None:
    write_summary(local_store, [record(0, 0.5), record(1, 0.7)], CHAMPION)
    summary = json.loads(local_store.read_bytes("summary.json"))
    assert set(summary) == {"champion", "rounds"} and summary["champion"] == "b" * 64
    assert set(summary["rounds"][1]) == {"round", "model", "decision", "reasons", "funnel",
                                         "evaluation", "seconds", "tokens_per_second"}
    metric = summary["rounds"][1]["evaluation"]["field/vqa"]
    assert set(metric) == {"value", "low", "high", "n"} and metric["n"] == 100


def test_tables_show_base_champion_and_candidate() -> None:
    base, candidate = record(0, 0.5), record(1, 0.7)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables.round_table(candidate, base, base))
    console.print(tables.rounds_table([base, candidate], CHAMPION))
    text = console.export_text()
    assert "0.500 ± 0.100" in text and "0.700 ± 0.100" in text and "(champion)" in text
    assert text.count("chance") == text.count("0.25") == 2
    rows = tables.evaluation_rows(candidate, base, base)
    assert (rows[0]["candidate"], rows[0]["chance"]) == ("0.700 (0.600-0.800)", "0.25")
    markdown = tables.rounds_markdown([base, candidate], CHAMPION)
    assert "| 1 | promote (champion) |" in markdown and "| field/vqa (chance 0.25) |" in markdown


def test_local_reports_are_linked_as_files() -> None:
    assert tables.link("/runs/report/index.html") == "file:///runs/report/index.html"
    assert tables.link("s3://bucket/report/index.html") == "s3://bucket/report/index.html"


def test_a_model_is_seated_with_the_word_of_its_manifest(local_store: Store) -> None:
    model = Manifest(kind="model", prefix="m", inputs_digest="1")
    worded = model.model_copy(update={"config": {"reward_word": "good"}})
    assert local_model(local_store, model, config()).reward_word == ""
    assert local_model(local_store, worded, config()).reward_word == "good"
