"""A small contrastive run on the real engines: `generate`, then `improve` on the same root (which
goes on with training), then both again (which finds nothing left to do)."""

import re
from collections import Counter
from pathlib import Path

import pytest

from model_ops.models import reward_word_of
from model_ops.rounds import read_rounds
from schemas.artifacts import read_manifest, read_rows
from schemas.questions import QUESTION_TYPES, slug
from schemas.records import RoundRecord
from schemas.rows import ImaginedRow, ItemRow, PairRow, TrainRow
from schemas.store import Store
from tests.flows.small_run import BOTH_FLOWS_TWICE, Done, finish, small_contrastive

pytestmark = [pytest.mark.e2e, pytest.mark.prefect, pytest.mark.slow, pytest.mark.engine,
              pytest.mark.ray, pytest.mark.timeout(600)]
STAGE = "rounds/round=0001/00-contrastive"
STEPS = ("slots", "asked", "questions", "imagined", "pairs", "train", "model")
PIES = {"field-pie": "field/pie", "field-pie-none": "field/pie-none",
        "field-pie-bad": "field/pie-bad"}
MADE = ["images", "rounds/round=0000/model", *(f"{STAGE}/{step}" for step in STEPS),
        *(f"rounds/round=000{number}/evaluation/{name}" for number in (0, 1) for name in PIES)]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Done:
    """Both flows, twice."""
    return finish(tmp_path_factory.mktemp("contrastive"), repo, small_contrastive,
                  *BOTH_FLOWS_TWICE)


def last_round(store: Store) -> RoundRecord:
    *_, record = read_rounds(store)
    assert record.round == 1
    return record


def test_generation_goes_from_images_to_rows_and_nothing_is_lost(done: Done) -> None:
    made = {step: read_manifest(done.store, f"{STAGE}/{step}") for step in STEPS}
    assert made["slots"].num_rows == 10 * len(QUESTION_TYPES)
    funnel = made["train"].funnel
    steps = ("planned", "asked", "unique", "imagined", "kept")
    drops = sum(num for name, num in funnel.items() if name not in steps)
    assert funnel["planned"] == 70 == funnel["kept"] + drops
    assert made["imagined"].num_rows == funnel["imagined"] == funnel["unique"]
    assert made["pairs"].num_rows == funnel["kept"] > 0
    kept = {name: num for name, num in made["pairs"].stats.items() if name.startswith("kept/")}
    assert sum(kept.values()) == funnel["kept"]
    assert set(kept) <= {f"kept/{slug(kind)}" for kind in QUESTION_TYPES}


def test_the_model_was_judged_and_learns_each_pair_behind_its_reward_words(done: Done) -> None:
    imagined, pairs, train = (read_manifest(done.store, f"{STAGE}/{step}")
                              for step in ("imagined", "pairs", "train"))
    replies = {row.row_id: row for row in read_rows(done.store, imagined, ImaginedRow)}
    assert all(row.desired_label and row.undesired_label and row.num_calls == 4
               for row in replies.values())
    learnt = list(read_rows(done.store, train, TrainRow))
    words = {(row.source_row_id, row.role): row for row in learnt}
    assert len(words) == len(learnt) == 2 * pairs.num_rows
    for pair in read_rows(done.store, pairs, PairRow):
        source = replies[pair.source_row_id]
        assert (source.desired_label, source.undesired_label) == ("True", "False")
        for word, said in (("good", source.desired), ("bad", source.undesired)):
            row = words[pair.row_id, word]
            assert row.prompt[-1].content[-1].text == f"{word} {source.question}"
            assert row.completion[0].content[0].text == said


def test_the_model_says_what_it_is_asked_with(done: Done) -> None:
    base = read_manifest(done.store, "rounds/round=0000/model")
    model, train = (read_manifest(done.store, f"{STAGE}/{step}") for step in ("model", "train"))
    assert (reward_word_of(base), model.config["reward_word"]) == ("", "good")
    assert model.parents == {"start": base.digest, "train": train.digest}
    assert 1 <= model.stats["steps"] <= 6
    record = last_round(done.store)
    assert record.model == model.digest and record.decision in ("promote", "hold")
    assert record.stages[0].method == "contrastive" and record.stages[0].tokens_per_second > 0


def test_pie_is_measured_with_each_reward_word_before_and_after(done: Done) -> None:
    for record in read_rounds(done.store):
        metrics = record.evaluation.metrics
        for name, metric in PIES.items():
            assert metrics[f"{metric}_aar"].n == 24 and metrics[f"{metric}_overask"].n == 8
            assert all(f"{metric}_{slug(kind)}" in metrics for kind in QUESTION_TYPES)
            answered = read_manifest(done.store, record.evaluation.items[name])
            rows = list(read_rows(done.store, answered, ItemRow))
            assert len({row.row_id for row in rows}) == len(rows) == 32
    items = {name: [row.row_id for row in read_rows(
        done.store, read_manifest(done.store, f"rounds/round=0001/evaluation/{name}"), ItemRow)]
        for name in PIES}
    assert items["field-pie"] == items["field-pie-none"] == items["field-pie-bad"]


def test_a_report_is_written(done: Done) -> None:
    assert done.store.exists("summary.json") and done.store.exists("champion.json")
    page = done.store.read_bytes("report/index.html").decode()
    assert "field/pie_aar" in page


def test_improve_takes_what_was_generated_and_again_nothing_is_made(done: Done) -> None:
    made = Counter(re.findall(r"made: (\S+) \(", done.log))
    assert made == dict.fromkeys(MADE, 1)
    lines = done.log.splitlines()
    assert lines.count(f"generated: {STAGE}/train") == lines.count("rounds: 2") == 2
    assert f"skipped: {STAGE}/imagined is already complete" in done.log
    assert "skipped: round 1 is already complete" in done.log
