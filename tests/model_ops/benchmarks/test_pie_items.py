"""PIE's items: regenerated on the nursery, read from a file, planned again, refused."""

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from model_ops.benchmarks import Items, plan_benchmark
from model_ops.benchmarks.pie_items import pie_settings, shares
from schemas.artifacts import read_quarantine, read_rows
from schemas.config import BenchmarkConfig, EngineConfig, ImagesConfig, JudgeConfig, PieConfig
from schemas.errors import ConfigError
from schemas.questions import ODD_TYPES
from schemas.rows import PieRow
from schemas.store import Store
from tests.model_ops.benchmarks import odd_for_tests

odd = odd_for_tests.odd
FIELD = ImagesConfig(uri="nursery://field", limit=60, seed=77)
PIE = BenchmarkConfig(kind="pie", images=FIELD, num_items=100, pie=PieConfig(num_clear=30))
ENDPOINT = JudgeConfig(kind="endpoint", base_url="http://there/v1", model_name="large")


def plan(store: Store, config: BenchmarkConfig, prefix: str = "benchmarks/b") -> Items:
    return plan_benchmark(store, config, 20_000, prefix, 64, EngineConfig())


def rows_of(store: Store, items: Items) -> list[PieRow]:
    return list(read_rows(store, items.items, PieRow))


def test_the_authors_number_is_balanced() -> None:
    counts = shares(853, 300)
    assert [counts[kind] for kind in ODD_TYPES] == [143, 142, 142, 142, 142, 142]
    assert counts["Clear"] == 300


@pytest.mark.usefixtures("odd")
def test_a_regenerated_set_is_balanced_and_spread_over_the_images(local_store: Store) -> None:
    items = plan(local_store, PIE)
    rows = rows_of(local_store, items)
    kinds = Counter(row.question_type for row in rows)
    assert kinds == {**dict.fromkeys(ODD_TYPES[:4], 17), **dict.fromkeys(ODD_TYPES[4:], 16),
                     "Clear": 30}
    assert len({row.row_id for row in rows}) == 130
    assert max(Counter(row.image.image_id for row in rows).values()) <= 10
    assert len({row.image.image_id for row in rows}) > 50
    assert all(row.source == "regenerated" and row.domain == "field" for row in rows)
    for row in rows:
        things = json.loads(row.facts or "")["things"]
        assert row.question_type != "Subject Ambiguity" or len(things) >= 4
    assert items.items.kind == "pie" and items.program == "pie"
    assert items.items.funnel == {"odd": 100, "clear": 30, "unusable": 0}
    assert items.items.stats["questions/clear"] == 30


@pytest.mark.usefixtures("odd")
def test_all_variants_and_later_plans_have_the_same_items(
    local_store: Store, tmp_path: Path
) -> None:
    first = plan(local_store, PIE)
    assert plan(local_store, PIE).items == first.items
    bad = PIE.model_copy(update={"pie": PieConfig(num_clear=30, reward="bad")})
    other = plan(local_store, bad, "benchmarks/bad")
    assert rows_of(local_store, other) == rows_of(local_store, first)
    assert (first.settings["metric"], other.settings["metric"]) == (
        "field/pie_aar", "field/pie-bad_aar")
    assert (first.settings["reward"], other.settings["reward"]) == (None, "bad")


@pytest.mark.usefixtures("odd")
def test_settings_say_what_shapes_a_verdict_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(**changes: object) -> dict[str, object]:
        pie = PieConfig.model_validate(changes)
        return pie_settings(PIE.model_copy(update={"pie": pie}), "m").model_dump()

    patient = ENDPOINT.model_copy(update={"timeout_s": 9.0, "api_key_env": "OTHER"})
    assert settings(judge=ENDPOINT) == settings(judge=patient)
    other = ENDPOINT.model_copy(update={"model_name": "larger"})
    assert settings(judge=ENDPOINT) != settings(judge=other)
    assert settings(judge=ENDPOINT)["rubric"] != settings()["rubric"]
    assert settings(reward="none")["reward"] == ""
    before = settings()["rubric"]
    monkeypatch.setattr("inspect.getsource", lambda module: "other rules")
    assert settings()["rubric"] != before
    with pytest.raises(ConfigError, match="nowhere"):
        settings(criteria="nowhere")


@pytest.mark.usefixtures("odd")
def test_too_many_questions_for_the_images_say_so(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(odd_for_tests, "write_question", lambda *_: "what ?")
    few = PIE.model_copy(update={"images": FIELD.model_copy(update={"limit": 8})})
    with pytest.raises(ConfigError, match=r"no further '.*' question about 8 images: raise"):
        plan(local_store, few)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20), (60 * number, 0, 0)).save(folder / f"{2377000 + number}.jpg")
    return folder


def about(photographs: Path, questions: Path, **changes: object) -> BenchmarkConfig:
    pie = {"questions_uri": str(questions), "judge": ENDPOINT, **changes}
    return BenchmarkConfig(kind="pie", images=ImagesConfig(uri=str(photographs)), domain="gqa",
                           pie=PieConfig.model_validate(pie))


def test_the_authors_file_loads_and_bad_entries_are_quarantined(
    local_store: Store, photographs: Path, tmp_path: Path
) -> None:
    def entry(image: object, question: object, kind: object) -> dict[str, object]:
        return {"Image ID": image, "Question": question, "Question Type": kind}

    good = [entry(2377000 + n % 4, f"Why {n}?", kind) for n, kind in enumerate(ODD_TYPES)]
    bad = [entry("99", "Why?", "False Premise"), entry(2377000, "Why?", "Rude"),
           entry(2377000, " ", "False Premise"), entry(2377000, "Why 0?", ODD_TYPES[0]),
           ["not", "a", "record"]]
    ours = {"image": "photos/2377001.jpg", "question": "What colour is it?",
            "question_type": "clear"}
    good[1]["Question Type"] = "unanswerable_questions "
    path = tmp_path / "evaluation_data.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in [*good, *bad, ours]))
    items = plan(local_store, about(photographs, path))
    rows = rows_of(local_store, items)
    assert Counter(row.question_type for row in rows) == dict.fromkeys([*ODD_TYPES, "Clear"], 1)
    assert all(row.source == "file" and row.facts is None for row in rows)
    reasons = Counter(row.reason for row in read_quarantine(local_store, items.items))
    assert reasons == {"unknown_image": 1, "unknown_type": 1, "bad_question": 2,
                       "duplicate_question": 1}
    assert items.items.funnel == {"odd": 6, "clear": 1, "unusable": 5}
    path.write_text("\n".join(json.dumps(each) for each in good[:2]))
    assert len(rows_of(local_store, plan(local_store, about(photographs, path)))) == 2


def test_a_file_is_drawn_from_by_seed(
    local_store: Store, photographs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "q.json"
    kinds = ["False Premise"] * 20 + ["Clear"] * 20
    path.write_text(json.dumps([{"image": f"{2377000 + n % 4}.jpg", "question": f"What {n}?",
                                 "question_type": kind} for n, kind in enumerate(kinds)]))
    config = about(photographs, path, num_clear=3).model_copy(update={"num_items": 5})
    rows = rows_of(local_store, plan(local_store, config))
    assert Counter(row.question_type for row in rows) == {"False Premise": 5, "Clear": 3}


@pytest.mark.parametrize(("changes", "told"), [
    ({"questions_uri": None}, r"make a set with `flywheel pie CONFIG .* --images .*photos`"),
    ({"judge": JudgeConfig()}, "set it to 'vlm' or 'endpoint'"),
    ({"questions_uri": "nowhere.jsonl"}, "nowhere.jsonl cannot be read"),
])
@pytest.mark.usefixtures("odd")
def test_what_cannot_be_planned_says_what_to_do(
    local_store: Store, photographs: Path, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    (tmp_path / "q.jsonl").touch()
    with pytest.raises(ConfigError, match=told):
        plan(local_store, about(photographs, tmp_path / "q.jsonl", **changes))


def test_a_file_without_a_usable_question_names_the_reasons(
    local_store: Store, photographs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"Image ID": 1, "Question": "Why?", "Question Type": "False Premise"}\n')
    with pytest.raises(ConfigError, match=r"none of its 1 questions.*unknown_image: 1"):
        plan(local_store, about(photographs, path))
