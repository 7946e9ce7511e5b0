"""Slots of questions: even spread, the three sources, what is quarantined; then the selection."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model_ops import questions as questions_ops
from model_ops.curation import questions as selection
from model_ops.curation.questions import (
    QuestionKey,
    count_questions,
    drop_reasons,
    key_of,
    near_duplicates,
    over_openings,
    select_questions,
)
from model_ops.images import import_images
from model_ops.questions import plan_slots, read_entry, spread
from schemas.artifacts import publish, read_quarantine, read_rows, write_shard
from schemas.config import ImagesConfig, QuestionsConfig
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest
from schemas.questions import QUESTION_TYPES
from schemas.rows import AskedRow, ImageRow, QuarantineRow, SlotRow
from schemas.store import Store
from tests.model_ops.contrastive_world import asked

FEW = {"False Premise": 7, "Clear": 5, "Subject Ambiguity": 0}


def nursery(store: Store, num: int = 6) -> Manifest:
    return import_images(store, ImagesConfig(uri="nursery://field", limit=num))


def photographs(store: Store, folder: Path) -> Manifest:
    """Pictures `1.jpg` .. `4.jpg`, the last twice in two folders."""
    for number, name in enumerate(("1.jpg", "2.jpg", "a/3.jpg", "a/4.jpg", "b/4.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (50 * number, 0, 0)).save(folder / name)
    return import_images(store, ImagesConfig(uri=str(folder)))


def plan(store: Store, images: Manifest, seed: int = 1, shard_size: int = 5, **config: Any
         ) -> Manifest:
    return plan_slots(store, images, QuestionsConfig(**config), seed, "slots", shard_size)


def slots_of(store: Store, manifest: Manifest) -> list[SlotRow]:
    return list(read_rows(store, manifest, SlotRow))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(QUESTION_TYPES), st.integers(0, 40)),
       st.integers(1, 17), st.integers())
def test_every_kind_and_all_together_are_spread_evenly(
    per_type: dict[str, int], num_images: int, seed: int
) -> None:
    wanted = spread(per_type, num_images, seed)
    assert Counter(w.question_type for w in wanted) == +Counter(per_type)
    assert sorted(w.number for w in wanted) == list(range(len(wanted)))
    for kind in (None, *per_type):
        load = Counter(w.place for w in wanted if kind in (None, w.question_type))
        counts = [load[place] for place in range(num_images)]
        assert max(counts) - min(counts) <= 1
    assert wanted == spread(per_type, num_images, seed)


def test_the_model_is_given_empty_slots_in_the_wanted_numbers(local_store: Store) -> None:
    images = nursery(local_store)
    made = plan(local_store, images, per_type=FEW)
    rows = slots_of(local_store, made)
    assert Counter(row.question_type for row in rows) == {"False Premise": 7, "Clear": 5}
    assert {row.question for row in rows} == {None} and len({row.row_id for row in rows}) == 12
    assert len({row.image.image_id for row in rows}) == 6
    assert made.funnel == {"candidates": 12, "planned": 12}
    assert (made.kind, made.parents) == ("slots", {"images": images.digest})
    assert [shard.num_rows for shard in made.shards] == [5, 5, 2]
    assert plan(local_store, images, per_type=FEW) == made
    other = slots_of(local_store, plan(local_store, images, seed=2, per_type=FEW))
    assert {row.row_id for row in other}.isdisjoint(row.row_id for row in rows)


def test_changed_filters_plan_nothing_anew_but_another_source_does(local_store: Store) -> None:
    images = nursery(local_store)
    first = plan(local_store, images, per_type=FEW)
    assert plan(local_store, images, per_type=FEW, max_similarity=None, temperature=0.1) == first
    assert plan(local_store, images, per_type=FEW, source="grammar").digest != first.digest


@pytest.mark.parametrize("per_type", [{}, {"Clear": 0}])
def test_asking_for_nothing_is_an_error(local_store: Store, per_type: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="per_type asks for no question"):
        plan(local_store, nursery(local_store), per_type=per_type)


@pytest.mark.parametrize("source", ["model", "grammar"])
def test_an_empty_collection_is_an_error(local_store: Store, source: str) -> None:
    shard = write_shard(local_store, "images", 0, [], ImageRow)
    empty = publish(local_store, Manifest(kind="images", prefix="images", inputs_digest="",
                                          shards=[shard]))
    with pytest.raises(ConfigError, match="images holds no image to ask about"):
        plan(local_store, empty, source=source)


def test_an_unknown_kind_is_refused_by_the_configuration() -> None:
    with pytest.raises(ValueError, match="Input should be 'False Premise'"):
        QuestionsConfig.model_validate({"per_type": {"Riddle": 3}})


# --- the grammar ---


def test_the_grammar_writes_about_the_scene_and_no_question_twice(local_store: Store) -> None:
    images = nursery(local_store, 12)
    made = plan(local_store, images, source="grammar",
                per_type=dict.fromkeys(QUESTION_TYPES, 10))
    rows = slots_of(local_store, made)
    assert all(row.question for row in rows)
    about = Counter((row.image.image_id, row.question) for row in rows)
    assert max(about.values()) == 1
    assert made.funnel["planned"] == len(rows)
    assert made.funnel["candidates"] == 70 == len(rows) + made.funnel.get("none_left", 0)


def fake_writer(monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    from model_ops.nursery import odd

    monkeypatch.setattr(odd, "write_question", write)


def test_where_the_grammar_has_no_question_another_image_is_tried(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = nursery(local_store, 8)
    seen: list[int] = []

    def write(kind: str, scene: Any, rng: Any) -> str | None:
        seen.append(scene.seed)
        return f"{rng.random()} ?" if scene.seed == max(seen) else None

    fake_writer(monkeypatch, write)
    rows = slots_of(local_store, plan(local_store, images, source="grammar", per_type={"Clear": 8}))
    assert len(rows) == 8 and len({row.image.image_id for row in rows}) < 8


def test_slots_that_the_grammar_cannot_fill_are_quarantined(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_writer(monkeypatch, lambda kind, scene, rng: "same ?" if kind == "Clear" else None)
    made = plan(local_store, nursery(local_store, 3), source="grammar",
                per_type={"Clear": 5, "Subject Ambiguity": 2})
    assert made.funnel == {"candidates": 7, "none_left": 4, "planned": 3}
    dropped = list(read_quarantine(local_store, made))
    assert Counter(json.loads(row.payload)["question_type"] for row in dropped) == {
        "Clear": 2, "Subject Ambiguity": 2}
    assert {row.reason for row in dropped} == {"none_left"}
    with pytest.raises(ConfigError, match=r"no question can be asked .* none_left 2"):
        plan(local_store, nursery(local_store, 3), source="grammar",
             per_type={"Subject Ambiguity": 2})


def test_the_grammar_needs_facts(local_store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no facts: .*'grammar' is for"):
        plan(local_store, photographs(local_store, tmp_path), source="grammar")


# --- files ---

ENTRIES: list[Any] = [
    {"image": "1.jpg", "question": "<image>\n Why is the  cat red?",
     "question_type": "False Premise"},
    {"Image ID": 2, "Question": "Is it big?", "Question Type": "Subjective Interpretations"},
    {"Image ID": "3", "Question": "Who is it?", "Question Type": "unanswerable_questions"},
    {"image": "1.jpg", "question": "What is it?", "question_type": "clear", "more": [1]},
    {"image": "a/4.jpg", "question": "What is it?", "question_type": "Clear"},
    {"image": "4.jpg", "question": "What is it?", "question_type": "Clear"},
    {"image": "9.jpg", "question": "What is it?", "question_type": "Clear"},
    {"image": "", "question": "What is it?", "question_type": "Clear"},
    {"image": "1.jpg", "question": "What is it?", "question_type": "Riddle"},
    {"image": "1.jpg", "question": "What is it?"},
    {"image": "1.jpg", "question": " <image> ", "question_type": "Clear"},
    {"image": "1.jpg", "question": None, "question_type": "Clear"},
    {"image": "1.jpg", "question": 7, "question_type": "Clear"},
]
REASONS = {"ambiguous_image": 1, "unknown_image": 2, "unknown_type": 2, "bad_question": 3}


def write_file(path: Path, entries: Sequence[Any]) -> str:
    if path.suffix == ".parquet":
        texts = [{key: str(value) if value is not None else None for key, value in entry.items()
                  if key != "more"} for entry in entries]
        pq.write_table(pa.Table.from_pylist(texts, schema=pa.schema(
            [(key, pa.string()) for key in ("image", "question", "question_type")])), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(entries))
    else:
        path.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    return str(path)


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_file_is_planned_and_its_bad_entries_quarantined(
    local_store: Store, tmp_path: Path, suffix: str
) -> None:
    images = photographs(local_store, tmp_path / "photos")
    uri = write_file(tmp_path / f"q.{suffix}", [*ENTRIES, "no record"])
    made = plan(local_store, images, source="file", uri=uri)
    rows = slots_of(local_store, made)
    assert [(row.question_type, row.question) for row in rows] == [
        ("False Premise", "Why is the cat red?"), ("Subjective Interpretations", "Is it big?"),
        ("Unanswerable Questions", "Who is it?"), ("Clear", "What is it?"),
        ("Clear", "What is it?")]
    dropped = Counter(row.reason for row in read_quarantine(local_store, made))
    assert dropped == REASONS | {"bad_question": 4}
    assert made.funnel == {"candidates": 14, **dict(sorted(dropped.items())), "planned": 5}


def test_parquet_works_too(local_store: Store, tmp_path: Path) -> None:
    images = photographs(local_store, tmp_path / "photos")
    entries = [{"image": f"{n}.jpg", "question": "What?", "question_type": "Clear"}
               for n in (1, 2, 7)]
    made = plan(local_store, images, source="file",
                uri=write_file(tmp_path / "q.parquet", entries))
    assert made.funnel == {"candidates": 3, "unknown_image": 1, "planned": 2}


def test_of_too_many_questions_of_a_kind_some_are_drawn(local_store: Store, tmp_path: Path) -> None:
    images = photographs(local_store, tmp_path / "photos")
    entries = [{"image": "1.jpg", "question": f"What is {n}?", "question_type": kind}
               for n in range(30) for kind in ("Clear", "False Premise", "Subject Ambiguity")]
    uri = write_file(tmp_path / "q.jsonl", entries)
    made = plan(local_store, images, source="file", uri=uri,
                per_type={"Clear": 4, "False Premise": 100})
    rows = slots_of(local_store, made)
    assert Counter(row.question_type for row in rows) == {"Clear": 4, "False Premise": 30}
    assert made.funnel == {"candidates": 90, "not_drawn": 56, "planned": 34}
    other = plan(local_store, images, seed=2, source="file", uri=uri,
                 per_type={"Clear": 4, "False Premise": 100})
    drawn = {row.question for row in rows if row.question_type == "Clear"}
    assert drawn != {row.question for row in slots_of(local_store, other)
                     if row.question_type == "Clear"}


def test_an_edited_file_is_another_plan_and_equal_entries_stay_apart(
    local_store: Store, tmp_path: Path
) -> None:
    images = photographs(local_store, tmp_path / "photos")
    path = tmp_path / "q.jsonl"
    entry = {"image": "1.jpg", "question": "What?", "question_type": "Clear"}
    first = plan(local_store, images, source="file", uri=write_file(path, [entry]))
    second = plan(local_store, images, source="file", uri=write_file(path, [entry, entry]))
    assert (first.num_rows, second.num_rows) == (1, 2)
    assert len({row.row_id for row in slots_of(local_store, second)}) == 2


@pytest.mark.parametrize(("content", "message"), [
    ("", "no question can be asked"), ("{broken", "cannot be read"),
    ('{"image": "9.jpg", "question": "What?", "question_type": "Clear"}', "unknown_image 1"),
])
def test_a_file_without_a_usable_question_is_an_error(
    local_store: Store, tmp_path: Path, content: str, message: str
) -> None:
    images = photographs(local_store, tmp_path / "photos")
    (tmp_path / "q.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=message):
        plan(local_store, images, source="file", uri=str(tmp_path / "q.jsonl"))
    with pytest.raises(ConfigError, match="cannot be read"):
        plan(local_store, images, source="file", uri=str(tmp_path / "none.jsonl"))


def test_the_authors_image_id_is_a_file_name_without_its_end() -> None:
    entry = {"Image ID": "2345", "Question": "Who?", "Question Type": "False Premise"}
    assert read_entry(entry).image == "2345.jpg"
    assert read_entry(entry | {"Image ID": "x/2.png"}).image == "x/2.png"
    with pytest.raises(DropError, match="unknown_type"):
        read_entry(entry | {"Question Type": None})


# --- selection ---


def key(number: int, text: str, kind: str = "Clear", image: str = "i") -> QuestionKey:
    return QuestionKey(str(number), image, kind, text)


ONLY_EXACT = QuestionsConfig(max_similarity=None, max_share_per_opening=None)


def test_a_repeat_is_one_within_kind_and_image_only() -> None:
    rows = [asked(0, "Clear", "What is it?"), asked(1, "Clear", "what  IS it"),
            asked(2, "False Premise", "What is it?"), asked(0, "Clear", "What is this?")]
    same_image = [row.model_copy(update={"row_id": f"r{n}", "image": rows[0].image})
                  for n, row in enumerate(rows)]
    elsewhere = rows[1].model_copy(update={"row_id": "r4"})
    keys = map(key_of, [*same_image, elsewhere])
    assert drop_reasons(keys, ONLY_EXACT, 0) == {"r1": "duplicate"}


@pytest.mark.slow
def test_nearly_the_same_words_are_a_near_duplicate_of_what_stays() -> None:
    long = "is the tall man in the striped shirt behind the counter holding a small white cup"
    keys = [key(0, long), key(1, long + "s"), key(2, long, image="j"),
            key(3, long, "False Premise"),
            key(4, "what colour is the big bus parked in front of the red house")]
    assert list(near_duplicates(keys, 0.9)) == ["1"]
    assert list(near_duplicates([keys[0], keys[4]], 0.9)) == []
    config = QuestionsConfig(max_similarity=0.9, max_share_per_opening=None)
    assert drop_reasons([*keys, key(5, long)], config, 0) == {
        "1": "near_duplicate", "5": "duplicate"}
    assert drop_reasons(keys, ONLY_EXACT, 0) == {}


@pytest.mark.slow
def test_short_texts_can_be_sketched() -> None:
    assert list(near_duplicates([key(0, ""), key(1, "a"), key(2, "ab"), key(3, "ab c")], 0.9)) == []


def test_an_opening_may_have_its_share_of_a_kind() -> None:
    same = [key(n, f"what is the thing number {n}") for n in range(10)]
    others = [key(n, f"{n} is another opening") for n in range(10, 16)]
    rare = [key(20, "what is the only one of its kind", "False Premise")]
    dropped = list(over_openings([*same, *others, *rare], 0.5, 3, seed=1))
    assert len(dropped) == 2 and set(dropped) < {k.row_id for k in same}
    assert set(dropped) != set(over_openings([*same, *others], 0.5, 3, seed=2))
    assert list(over_openings(same, 1.0, 3, 1)) == []
    assert len(list(over_openings(same, 0.01, 3, 1))) == 9
    assert list(over_openings(same, 0.5, 9, 1)) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("a b c d", "a b c e", "a b", "x y z", "")),
                          st.sampled_from(QUESTION_TYPES[:2]), st.sampled_from("ij")),
                max_size=40),
       st.sampled_from((0.3, 0.5, 1.0, None)), st.sampled_from((0.6, 0.9, None)))
def test_selection_adds_up_and_what_stays_needs_no_second_one(
    drawn: list[tuple[str, str, str]], share: float | None, similarity: float | None
) -> None:
    keys = [key(n, text, kind, image) for n, (text, kind, image) in enumerate(drawn)]
    config = QuestionsConfig(max_similarity=similarity, max_share_per_opening=share)
    reasons = drop_reasons(keys, config, 3)
    kept = [k for k in keys if k.row_id not in reasons]
    assert len(kept) + len(reasons) == len(keys)
    assert set(reasons.values()) <= {"duplicate", "near_duplicate", "opening_cap"}
    assert len({k[1:] for k in kept}) == len(kept)
    unique = QuestionsConfig(max_similarity=similarity, max_share_per_opening=None)
    assert drop_reasons(kept, unique, 3) == {}
    assert {k.question_type for k in kept} == {k.question_type for k in keys}


def publish_asked(store: Store, rows: Sequence[AskedRow], **drops: int) -> Manifest:
    lost = [QuarantineRow(row_id=f"{reason}{n}", kind="slots", reason=reason, detail="", source="",
                          payload="{}") for reason, num in drops.items() for n in range(num)]
    shards = [write_shard(store, "asked", index, rows[start:start + 8], AskedRow,
                          lost if not index else ())
              for index, start in enumerate(range(0, max(1, len(rows)), 8))]
    funnel = {"planned": len(rows) + len(lost), "played": len(rows), **drops}
    return publish(store, Manifest(kind="asked", prefix="asked", inputs_digest="", shards=shards,
                                   funnel=funnel, determinism="engine"))


def many(num: int = 40) -> list[AskedRow]:
    texts = ("What is it?", "what is it", "Who is there?", "Is it big?")
    return [asked(n // 2, QUESTION_TYPES[n % 3], texts[n % 4]).model_copy(
        update={"row_id": f"asked-{n}"}) for n in range(num)]


def test_selected_questions_are_published_with_what_was_dropped(local_store: Store) -> None:
    rows = many()
    source = publish_asked(local_store, rows, type_mismatch=3, no_question=2, engine_error=1)
    made = select_questions(local_store, source, QuestionsConfig(), "questions", 6, 1)
    kept = list(read_rows(local_store, made, AskedRow))
    dropped = list(read_quarantine(local_store, made))
    assert len(kept) + len(dropped) == len(rows)
    funnel = made.funnel
    assert list(funnel)[:5] == ["planned", "asked", "type_mismatch", "asking_no_question",
                                "engine_error"]
    assert list(funnel)[-1] == "unique" and funnel["unique"] == len(kept)
    drops = {name: n for name, n in funnel.items() if name not in ("planned", "asked", "unique")}
    assert funnel["planned"] == funnel["unique"] + sum(drops.values()) == 46
    assert Counter(row.reason for row in dropped) == {
        name: drops[name] for name in drops if name in ("duplicate", "opening_cap")}
    assert AskedRow.model_validate_json(dropped[0].payload) in rows
    assert sum(made.stats.values()) == len(kept) and "unique/false_premise" in made.stats
    assert made.determinism == "engine"


def test_selection_is_resumed_shard_by_shard(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = publish_asked(local_store, many())
    arguments = (QuestionsConfig(), "questions", 3, 1)
    made = select_questions(local_store, source, *arguments)
    assert len(made.shards) > 2
    assert select_questions(local_store, source, *arguments) == made
    local_store.delete("questions/manifest.json")
    local_store.delete("questions/receipts/00001.json")
    written: list[int] = []

    def counting(*given: Any) -> Any:
        written.append(given[2])
        return write_shard(*given)

    monkeypatch.setattr(selection, "write_shard", counting)
    again = select_questions(local_store, source, *arguments)
    assert written == [1] and again.digest == made.digest
    changed = QuestionsConfig(opening_words=2)
    assert select_questions(local_store, source, changed, "q2", 3, 1).inputs_digest != \
        made.inputs_digest


def test_no_question_at_all_still_gives_an_artifact(local_store: Store) -> None:
    source = publish_asked(local_store, [], type_mismatch=4)
    made = select_questions(local_store, source, QuestionsConfig(), "questions", 6, 1)
    assert made.num_rows == 0 and len(made.shards) == 1
    assert made.funnel == {"planned": 4, "asked": 0, "type_mismatch": 4, "unique": 0}
    assert count_questions(source.model_copy(update={"funnel": {}}), {}) == {
        "planned": 0, "asked": 0, "unique": 0}


@pytest.mark.parametrize("changed", ["odd", "grammar"])
def test_a_changed_grammar_is_another_plan(
    local_store: Store, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    images = nursery(local_store)
    first = plan(local_store, images, source="grammar", per_type={"Clear": 3})
    source = questions_ops.inspect.getsource
    monkeypatch.setattr(questions_ops.inspect, "getsource", lambda module: (
        f"edited {module.__name__}" if module.__name__.endswith(changed) else source(module)))
    assert plan(local_store, images, source="grammar", per_type={"Clear": 3}).digest != first.digest
