"""A second judge of what a root has measured: the rules, or a person with a file."""

import json
from pathlib import Path

import pytest

from model_ops.second_opinion import agree, find_answers, write_sample
from schemas.artifacts import publish, read_manifest, read_rows
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.records import Evaluation, RoundRecord
from schemas.rows import ItemRow, PieReplyRow
from schemas.store import Store
from tests.model_ops.benchmarks import odd_for_tests
from tests.model_ops.benchmarks.test_pie import run_config
from tests.model_ops.benchmarks.test_pie_items import plan
from tests.model_ops.test_agreement import ANSWERED, answered

odd = odd_for_tests.odd


@pytest.fixture
def root(local_store: Store, odd: None) -> Store:
    """Two rounds whose models answered `field-pie`; the judge called every reply True."""
    config = run_config(local_store, kind="vlm")
    [benchmark] = config.evaluation.benchmarks
    answered(local_store, plan(local_store, benchmark, f"benchmarks/{benchmark.slug}").items)
    publish(local_store, Manifest(kind="questions", prefix="benchmarks/field-vqa/items",
                                  inputs_digest="q"))
    for number in range(2):
        prefix = ANSWERED if number else "rounds/round=0000/evaluation/field-pie"
        measured = Evaluation(model_digest="m", metrics={}, inputs_digest="",
                              items={"field-pie": prefix, "field-vqa": "v", "gone": "g"})
        record = RoundRecord(round=number, model="m", model_prefix="p", trained_from=None,
                             decision="hold" if number else "base", reasons=[],
                             evaluation=measured)
        local_store.write_bytes(f"rounds/round={number:04d}/round.json",
                                record.model_dump_json().encode())
    return local_store


def test_rules_judge_a_sample_of_the_last_rounds_replies(root: Store) -> None:
    found = agree(root, "field-pie", "rules", num=9)
    sample = list(read_rows(root, read_manifest(root, f"{ANSWERED}-rules/sample"), PieReplyRow))
    right = sum(row.reply == "good" or row.question_type == "Clear" for row in sample)
    assert found == (pytest.approx(right / 9), pytest.approx(0.0), 9)
    assert agree(root, "field-pie", "rules", num=9) == found
    assert agree(root, "field-pie", "rules").n == 12


def test_a_person_labels_a_sample_without_seeing_the_verdicts(root: Store, tmp_path: Path) -> None:
    out = tmp_path / "labels.jsonl"
    written = write_sample(root, "field-pie", str(out), num=5)
    assert written == (5, root.uri(f"{ANSWERED}-file/sample"))
    entries = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(entry["label"] is None and entry["question"] and entry["reply"]
               for entry in entries)
    with pytest.raises(ConfigError, match="is there already"):
        write_sample(root, "field-pie", str(out))
    with pytest.raises(ConfigError, match="has a second label"):
        agree(root, "field-pie", str(out))
    for entry, label in zip(entries, ["True", "False", "True"], strict=False):
        entry["label"] = label
    out.write_text("\n".join(map(json.dumps, entries)))
    assert agree(root, "field-pie", str(out), num=1) == (pytest.approx(2 / 3), 0.0, 3)


@pytest.mark.parametrize(("content", "told"), [
    ('{"row_id": "a", "label": "Wrong"}', "entry 0: label 'Wrong' is none of True, Ambiguous"),
    ('{"label": "True"}', "entry 0: needs row_id and label"),
    ("[1]", "entry 0: needs row_id and label"), ("{", "cannot be read")])
def test_a_file_that_cannot_be_used_says_why(
    root: Store, tmp_path: Path, content: str, told: str
) -> None:
    (tmp_path / "labels.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=told):
        agree(root, "field-pie", str(tmp_path / "labels.jsonl"))


def test_benchmarks_and_rounds_that_are_not_there_are_named(root: Store, tmp_path: Path) -> None:
    for slug in ("field-vqa", "gone", "other"):
        with pytest.raises(ConfigError, match=rf"'{slug}' is no PIE benchmark .* it has field-pie"):
            find_answers(root, slug)
    with pytest.raises(ConfigError, match="2 finished rounds: no round 2"):
        find_answers(root, "field-pie", 2)
    with pytest.raises(ConfigError, match="0 finished rounds"):
        find_answers(Store(str(tmp_path / "empty")), "field-pie")
    assert find_answers(root, "field-pie", 1).answered.prefix == ANSWERED
    rows = read_rows(root, find_answers(root, "field-pie").answered, ItemRow)
    assert next(rows).benchmark == "field/pie_aar"
