"""Agreement of judges: the figures by hand, a sample judged again, a person's labels."""

import json
from pathlib import Path

import pytest

from model_ops import agreement as agreement_module
from model_ops.agreement import agreement, compare_judges, compare_with_file
from model_ops.engines.pool import PoolWork
from schemas.artifacts import publish, read_manifest, read_rows, write_shard
from schemas.config import JudgeConfig
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.rows import ItemRow, PieReplyRow, PieRow
from schemas.store import Store
from tests.model_ops.benchmarks import odd_for_tests
from tests.model_ops.benchmarks.test_pie import run_config
from tests.model_ops.benchmarks.test_pie_items import plan

odd = odd_for_tests.odd
ANSWERED = "rounds/round=0001/evaluation/field-pie"


def test_share_and_kappa_by_hand() -> None:
    ours = ["True"] * 25 + ["False"] * 25
    theirs = ["True"] * 20 + ["False"] * 5 + ["True"] * 10 + ["False"] * 15
    assert agreement(ours, theirs) == pytest.approx((0.7, 0.4, 50))
    assert agreement(ours, ours) == (1.0, 1.0, 50)
    assert agreement(["True"] * 3, ["True"] * 3) == (1.0, 1.0, 3)
    assert agreement(["True", "False"], ["False", "True"]) == (0.0, -1.0, 2)
    with pytest.raises(ValueError, match="0 and 1 labels"):
        agreement([], ["True"])


def answered(store: Store, items: Manifest, label: str = "True") -> list[ItemRow]:
    """Every item answered `good`, with the same verdict."""
    rows = [ItemRow(row_id=item.row_id, benchmark="field/pie_aar", kind=item.question_type,
                    image_ids=[item.image.image_id], prompt=item.question, expected="",
                    reply="good" if number % 2 else "bad", score=1.0,
                    detail=json.dumps({"label": label, "judge": "vlm", "probability": 1.0}),
                    model_digest="m", prompt_version="p", seed=0, num_calls=2, num_prompt_tokens=0,
                    num_output_tokens=0)
            for number, item in enumerate(read_rows(store, items, PieRow))]
    publish(store, Manifest(kind="items", prefix=ANSWERED, inputs_digest="a",
                            shards=[write_shard(store, ANSWERED, 0, rows, ItemRow)]))
    return rows


@pytest.mark.usefixtures("odd")
def test_rules_judge_a_sample_of_another_judges_replies(local_store: Store) -> None:
    config = run_config(local_store, kind="vlm")
    [benchmark] = config.evaluation.benchmarks
    rows = answered(local_store, plan(local_store, benchmark, f"benchmarks/{benchmark.slug}").items)
    found = compare_judges(local_store, config, benchmark, ANSWERED, num=9)
    sample = read_manifest(local_store, f"{ANSWERED}-rules/sample")
    drawn = {row.row_id: row for row in read_rows(local_store, sample, PieReplyRow)}
    by_id = {row.row_id: row for row in rows}
    assert all(row.reply == by_id[key].reply for key, row in drawn.items())
    right = sum(row.reply == "good" or row.question_type == "Clear" for row in drawn.values())
    assert found == (pytest.approx(right / 9), pytest.approx(0.0), 9)
    assert compare_judges(local_store, config, benchmark, ANSWERED, num=9) == found
    assert compare_judges(local_store, config, benchmark, ANSWERED).n == 12


@pytest.mark.usefixtures("odd")
def test_another_model_judges_through_the_pool(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[PoolWork] = []

    def run_all(store: Store, works: list[PoolWork], *_: object) -> list[Manifest]:
        seen.extend(works)
        return [read_manifest(store, ANSWERED)]

    monkeypatch.setattr(agreement_module, "run_all", run_all)
    config = run_config(local_store, kind="rules")
    [benchmark] = config.evaluation.benchmarks
    answered(local_store, plan(local_store, benchmark, f"benchmarks/{benchmark.slug}").items)
    judge = JudgeConfig(kind="endpoint", base_url="http://there/v1", model_name="large")
    assert compare_judges(local_store, config, benchmark, ANSWERED, judge, num=5) == (1.0, 1.0, 5)
    [work] = seen
    assert (work.job.program, work.prefix) == ("pie_judge", f"{ANSWERED}-endpoint/items")
    assert work.job.settings["judge"]["model_name"] == "large"
    assert sorted(work.job.models) == ["", "judge"] and work.items.num_rows == 5


@pytest.mark.usefixtures("odd")
def test_a_persons_labels_come_from_a_file(local_store: Store, tmp_path: Path) -> None:
    config = run_config(local_store, kind="vlm")
    [benchmark] = config.evaluation.benchmarks
    rows = answered(local_store, plan(local_store, benchmark, f"benchmarks/{benchmark.slug}").items)
    compare_judges(local_store, config, benchmark, ANSWERED)
    sample = read_manifest(local_store, f"{ANSWERED}-rules/sample")
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(json.dumps({"row_id": row.row_id, "label": label})
                              for row, label in zip(rows, ["True", "True", "False"], strict=False)))
    assert compare_with_file(local_store, sample, str(path)) == (pytest.approx(2 / 3), 0.0, 3)
    path.write_text('{"row_id": "other", "label": "True"}\n')
    with pytest.raises(ConfigError, match="check the row ids"):
        compare_with_file(local_store, sample, str(path))
