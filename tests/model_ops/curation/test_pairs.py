"""Curation of pairs: every reason code, counts that add up, rows that TRL reads, resume."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_ops.curation import pairs as curation
from model_ops.curation.pair_checks import PAIR_REASONS, drop_reason, likeness
from model_ops.curation.pair_rows import CHOSEN, Objective, messages_of
from model_ops.curation.pairs import (
    JudgedPair,
    Wording,
    curate,
    select_pairs,
    write_train,
)
from model_ops.curation.train_rows import chat
from model_ops.programs.contrastive_messages import question_messages
from model_ops.programs.reward import with_reward_word
from schemas.artifacts import publish, read_manifest, read_quarantine, read_rows, write_shard
from schemas.config import PairCurationConfig, RewardWords
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.questions import CLEAR, QUESTION_TYPES, slug
from schemas.rows import ImageRow, ImaginedRow, PairRow, Picture, QuarantineRow, TrainRow
from schemas.store import Store
from tests.model_ops.bits_world import image
from tests.model_ops.contrastive_world import CRITERIA, PROMPTS, imagined
from tests.model_ops.curation.test_dialog import publish_images

ALL = PairCurationConfig()
WORDS = RewardWords()
WORDING = Wording(PROMPTS, CRITERIA, WORDS)
ASKING, REFUSING = "Subject Ambiguity", "Unanswerable Questions"
LONG = " ".join(f"word{n}" for n in range(30))


def reason_of(kind: str, config: PairCurationConfig = ALL, **changes: Any) -> str | None:
    return drop_reason(imagined(0, kind, **changes), CRITERIA.of(kind), config)


@pytest.mark.parametrize("kind", QUESTION_TYPES)
def test_a_pair_that_is_as_it_should_be_is_kept(kind: str) -> None:
    assert reason_of(kind) is None


BAD: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("clear_left_out", CLEAR, {}, {"include_clear": True}),
    ("cut_off", ASKING, {"desired_finish": "length"}, {"drop_cut_off": False}),
    ("cut_off", ASKING, {"undesired_finish": "length"}, {"drop_cut_off": False}),
    ("criteria_leak", ASKING, {"desired": "By the given criterion: which one?"},
     {"leak_pattern": None}),
    ("criteria_leak", ASKING, {"undesired": "AS INSTRUCTED, red."}, {"leak_pattern": None}),
    ("criteria_leak", ASKING, {"undesired": "According to the criteria, it is red."},
     {"leak_pattern": None}),
    ("criteria_leak", ASKING, {"desired": "How to reply: which one?"}, {"leak_pattern": None}),
    ("criteria_leak", ASKING, {"desired": "Which one, by my instructions?"},
     {"leak_pattern": None}),
    ("criteria_leak", ASKING, {"undesired": "The user wants red."}, {"leak_pattern": "xyz"}),
    ("equal_pair", ASKING, {"desired": f"{LONG} which?", "undesired": f"{LONG} what."},
     {"max_similarity": 1.0}),
    ("equal_pair", ASKING, {"desired": "It is red?", "undesired": "it is RED"},
     {"max_similarity": 1.0}),
    ("no_question", ASKING, {"desired": "There are two cars."}, {"check_form": False}),
    ("rejected_asks", ASKING, {"undesired": "Is it red?"}, {"check_form": False}),
    ("no_refusal", REFUSING, {"desired": "Her name is Ann."}, {"check_form": False}),
    ("no_refusal", "False Premise", {"desired": "She is a knot expert."}, {"check_form": False}),
    ("desired_asks", CLEAR, {"desired": "Which one?"}, {"check_form": False}),
    ("desired_refuses", CLEAR, {"desired": "I cannot tell."}, {"check_form": False}),
    ("rejected_answers", CLEAR, {"undesired": "It is blue."}, {"check_form": False}),
    ("judge_desired", ASKING, {"desired_label": "Ambiguous"}, {"require_judge": False}),
    ("judge_desired", ASKING, {"desired_label": "ParseError"}, {"require_judge": False}),
    ("judge_desired", ASKING, {"desired_label": None}, {"require_judge": False}),
    ("judge_undesired", ASKING, {"undesired_label": "True"}, {"require_judge": False}),
    ("judge_undesired", ASKING, {"undesired_label": "Ambiguous"}, {"require_judge": False}),
]


@pytest.mark.parametrize(("reason", "kind", "changes", "off"), BAD)
def test_every_defect_has_its_reason_and_every_check_can_be_off(
    reason: str, kind: str, changes: dict[str, Any], off: dict[str, Any]
) -> None:
    on = ALL.model_copy(update={"include_clear": reason != "clear_left_out"})
    assert reason_of(kind, on, **changes) == reason
    assert reason_of(kind, on.model_copy(update=off), **changes) is None


@pytest.mark.parametrize("said", [
    "What criteria should I use to judge whether it is big?", "By which criterion do you mean big?",
    "Do you know how to reply to the man?",
    "There is an instruction manual on the table; which page?"])
def test_a_question_for_a_standard_is_no_leak(said: str) -> None:
    assert reason_of(ASKING, desired=said) is None


@pytest.mark.parametrize("changes", [{"desired": ""}, {"undesired": " \n"}])
def test_an_empty_reply_is_never_a_pair(changes: dict[str, Any]) -> None:
    assert reason_of(ASKING, **changes) == "empty_reply"
    lenient = PairCurationConfig(select="unfiltered")
    assert reason_of(ASKING, lenient, **changes) == "empty_reply"


def test_unfiltered_keeps_whatever_is_no_broken_row() -> None:
    config = PairCurationConfig(select="unfiltered")
    for reason, kind, changes, _ in BAD:
        assert reason == "clear_left_out" or reason_of(kind, config, **changes) is None
    no_clear = config.model_copy(update={"include_clear": False})
    assert reason_of(CLEAR, no_clear) == "clear_left_out"


def test_a_refusal_to_a_clear_question_needs_no_question_mark() -> None:
    assert reason_of(CLEAR, undesired="Sorry, I am unable to answer.") is None
    assert reason_of(CLEAR, undesired="Which one?") is None


def test_likeness_counts_words() -> None:
    assert likeness("", "") == 1.0 and likeness("a red car", "the blue bus") == 0.0


@pytest.mark.parametrize("pattern", ["(", "[a", "*x"])
def test_a_pattern_that_is_none_is_a_configuration_error(local_store: Store, pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"leak_pattern .* is no regular expression"):
        curated(local_store, [], PairCurationConfig(leak_pattern=pattern))


def test_a_cap_is_drawn_by_seed() -> None:
    pairs = [JudgedPair(f"p{n}", QUESTION_TYPES[n % 2], "cut_off" if n < 4 else None)
             for n in range(24)]
    reasons = select_pairs(pairs, 3, seed=1)
    assert Counter(reasons.values()) == {"cut_off": 4, "over_cap": 14}
    kept = [pair for pair in pairs if pair.row_id not in reasons]
    assert Counter(pair.question_type for pair in kept) == dict.fromkeys(QUESTION_TYPES[:2], 3)
    assert select_pairs(reversed(pairs), 3, seed=1) == reasons
    assert select_pairs(pairs, 3, seed=2) != reasons
    assert set(select_pairs(pairs, None, 1).values()) == {"cut_off"}


# --- on a store ---


def publish_imagined(
    store: Store, rows: Sequence[ImaginedRow], **drops: int
) -> tuple[Manifest, Manifest]:
    """The questions' manifest (its funnel alone counts here) and the imagined replies."""
    lost = [QuarantineRow(row_id=f"{reason}{n}", kind="asked", reason=reason, detail="", source="",
                          payload="{}") for reason, num in drops.items() for n in range(num)]
    num = len(rows) + len(lost)
    funnel = {"planned": num + 5, "asked": num + 3, "type_mismatch": 2, "duplicate": 3,
              "unique": num}
    questions = publish(store, Manifest(kind="asked", prefix="questions", inputs_digest=f"{num}",
                                        funnel=funnel))
    shards = [write_shard(store, "imagined", index, rows[start:start + 9], ImaginedRow,
                          lost if not index else ())
              for index, start in enumerate(range(0, max(1, len(rows)), 9))]
    counts = {"planned": num, "played": len(rows), **drops}
    return questions, publish(store, Manifest(kind="imagined", prefix="imagined", shards=shards,
                                              inputs_digest=f"{num}", funnel=counts,
                                              determinism="engine"))


def curated(
    store: Store, rows: Sequence[ImaginedRow], config: PairCurationConfig = ALL,
    wording: Wording = WORDING, shard_size: int = 8, **drops: int
) -> Manifest:
    questions, replies = publish_imagined(store, rows, **drops)
    return curate(store, questions, replies, publish_images(store), config, wording, "pairs",
                  shard_size, 9)


def mixed(num: int = 60) -> list[ImaginedRow]:
    """Good pairs of all kinds, and every seventh with a defect of the table."""
    rows = []
    for n in range(num):
        _, kind, changes, _ = BAD[n // 7 % len(BAD)] if n % 7 == 3 else ("", "", {}, {})
        rows.append(imagined(n, kind or QUESTION_TYPES[(n + n // 7) % 7], **changes))
    return rows


def test_a_pair_is_the_bare_question_with_both_replies(local_store: Store) -> None:
    rows = [imagined(n, kind) for n, kind in enumerate(QUESTION_TYPES)]
    made = curated(local_store, rows)
    pairs = {pair.source_row_id: pair for pair in read_rows(local_store, made, PairRow)}
    assert made.kind == "pairs" and len(pairs) == 7
    for row in rows:
        pair = pairs[row.row_id]
        assert messages_of(pair.prompt) == question_messages(PROMPTS, row.question)
        assert [m.role for m in (*pair.chosen, *pair.rejected)] == ["assistant"] * 2
        assert pair.chosen[0].content[0].text == row.desired
        assert pair.rejected[0].content[0].text == row.undesired
        assert (pair.role, pair.image_ids) == (row.question_type, [row.image.image_id])
        assert (pair.chosen_reward, pair.rejected_reward) == (0.8, 0.1)
        assert (pair.model_digest, pair.round, pair.seed) == ("m", 1, 9)
        texts = json.dumps(pair.model_dump(mode="json", exclude={"images"}))
        assert CRITERIA.of(row.question_type).desired not in texts
    assert len({pair.row_id for pair in pairs.values()}) == 7


@pytest.mark.parametrize("select", ["curated", "unfiltered"])
def test_the_funnel_adds_up_and_every_drop_is_in_quarantine(
    local_store: Store, select: str
) -> None:
    config = ALL.model_copy(update={"select": select, "max_per_type": 6})
    made = curated(local_store, mixed(), config, engine_error=2, no_question=1)
    funnel, steps = made.funnel, ("planned", "asked", "unique", "imagined", "kept")
    assert [name for name in funnel if name in steps] == list(steps)
    drops = {name: num for name, num in funnel.items() if name not in steps}
    assert funnel["planned"] == funnel["kept"] + sum(drops.values()) == 68
    assert (funnel["imagining_engine_error"], funnel["imagining_no_question"]) == (2, 1)
    dropped = list(read_quarantine(local_store, made))
    assert made.num_rows == funnel["kept"] and len(dropped) + made.num_rows == 60
    counted = Counter(row.reason for row in dropped)
    assert counted == {name: num for name, num in drops.items() if name in counted}
    assert {ImaginedRow.model_validate_json(row.payload).row_id for row in dropped} == {
        row.row_id for row in dropped}
    kept = Counter(pair.role for pair in read_rows(local_store, made, PairRow))
    for kind in QUESTION_TYPES:
        assert made.stats[f"kept/{slug(kind)}"] == kept[kind]
        lost = sum(ImaginedRow.model_validate_json(row.payload).question_type == kind
                   for row in dropped)
        assert made.stats[f"played/{slug(kind)}"] == kept[kind] + lost
    assert not any(name.startswith("dropped") for name in made.stats)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(BAD) - 1), st.booleans()), max_size=40),
       st.sampled_from(("curated", "unfiltered")), st.sampled_from((None, 1, 3)), st.booleans())
def test_selection_keeps_or_drops_every_pair_for_one_reason(
    drawn: list[tuple[int, bool]], select: str, cap: int | None, with_clear: bool
) -> None:
    config = PairCurationConfig(select=select, max_per_type=cap,
                                include_clear=with_clear)
    rows = [imagined(n, BAD[which][1], **(BAD[which][2] if bad else {}))
            for n, (which, bad) in enumerate(drawn)]
    judged = [JudgedPair(row.row_id, row.question_type,
                         drop_reason(row, CRITERIA.of(row.question_type), config)) for row in rows]
    reasons = select_pairs(judged, cap, 5)
    kept = Counter(row.question_type for row in rows if row.row_id not in reasons)
    assert kept.total() + len(reasons) == len(rows)
    assert set(reasons.values()) <= set(PAIR_REASONS)
    assert with_clear or not kept[CLEAR]
    assert cap is None or all(num <= cap for num in kept.values())
    for pair in judged:
        if pair.reason is None and pair.row_id in reasons:
            assert reasons[pair.row_id] == "over_cap" and kept[pair.question_type] == cap


def test_what_the_write_check_finds_is_dropped_with_its_reason(local_store: Store) -> None:
    rows = [imagined(0, ASKING, desired="Good, which one?"), imagined(1, ASKING, undesired="Bad."),
            imagined(2, ASKING), imagined(3, ASKING, desired="Which?", undesired="which?"),
            imagined(4, ASKING, question="<image>")]
    config = PairCurationConfig(select="unfiltered")
    made = curated(local_store, rows, config)
    reasons = {row.row_id: row.reason for row in read_quarantine(local_store, made)}
    assert reasons == {"imagined-0": "reward_word_leak", "imagined-1": "reward_word_leak",
                       "imagined-3": "chosen_equals_rejected", "imagined-4": "placeholder_mismatch"}
    assert made.num_rows == made.funnel["kept"] == 1
    other = Wording(PROMPTS, CRITERIA, RewardWords(good="yay", bad="nay"))
    assert curated(local_store, rows, config, other).num_rows == 3


def test_a_picture_that_does_not_decode_drops_its_pairs(local_store: Store) -> None:
    import hashlib

    from schemas.rows import ImageRef

    data = b"no picture"
    broken = ImageRow(image_id=hashlib.sha256(data).hexdigest(), image=Picture(bytes=data),
                      width=1, height=1, source="x", split="train")
    shard = write_shard(local_store, "images", 0, [broken], ImageRow)
    images = publish(local_store, Manifest(kind="images", prefix="images", inputs_digest="b",
                                           shards=[shard]))
    ref = ImageRef(image_id=broken.image_id, shard=0, row=0)
    questions, replies = publish_imagined(local_store, [imagined(0, CLEAR, image=ref)])
    made = curate(local_store, questions, replies, images, ALL, WORDING, "pairs", 8, 9)
    assert made.funnel["undecodable_image"] == 1 and made.num_rows == 0


def test_replies_of_other_prompts_or_criteria_are_refused(local_store: Store) -> None:
    for changes in ({"prompt_version": "other"}, {"criteria_version": "other"}):
        with pytest.raises(ConfigError, match="generate again, or restore the files"):
            curated(local_store, [imagined(0, CLEAR, **changes)])


def test_finished_work_is_returned_and_finished_shards_are_kept(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = curated(local_store, mixed())
    assert len(made.shards) > 2 and curated(local_store, mixed()) == made
    rows = list(read_rows(local_store, made, PairRow))
    local_store.delete("pairs/manifest.json")
    local_store.delete("pairs/receipts/00001.json")
    written: list[int] = []

    def counting(*given: Any) -> Any:
        if given[1] == "pairs":
            written.append(given[2])
        return write_shard(*given)

    monkeypatch.setattr(curation, "write_shard", counting)
    again = curated(local_store, mixed())
    assert written == [1] and again.digest == made.digest and again.funnel == made.funnel
    assert list(read_rows(local_store, again, PairRow)) == rows


@pytest.mark.parametrize("wording", [
    Wording(PROMPTS, CRITERIA, RewardWords(good="yay")), WORDING], ids=["words", "config"])
def test_what_shapes_pairs_makes_them_anew(local_store: Store, wording: Wording) -> None:
    first = curated(local_store, mixed(20))
    config = ALL if wording is not WORDING else ALL.model_copy(update={"max_per_type": 99})
    assert curated(local_store, mixed(20), config, wording).inputs_digest != first.inputs_digest


def test_no_kept_pair_still_gives_artifacts(local_store: Store) -> None:
    made = curated(local_store, [imagined(0, CLEAR, desired="")], engine_error=1)
    assert (made.num_rows, made.funnel["empty_reply"], made.funnel["kept"]) == (0, 1, 0)
    nothing = curated(local_store, [])
    assert nothing.num_rows == 0 and len(nothing.shards) == 1
    assert write_train(local_store, made, "crl", WORDS, "train", 9).num_rows == 0


# --- what is learnt ---


def trained_on(store: Store, objective: Objective, num: int = 14) -> tuple[Manifest, list[PairRow]]:
    pairs = curated(store, [imagined(n, QUESTION_TYPES[n % 7]) for n in range(num)])
    made = write_train(store, pairs, objective, WORDS, "train", 9)
    return made, list(read_rows(store, pairs, PairRow))


def test_crl_learns_both_replies_each_after_its_word(local_store: Store) -> None:
    made, pairs = trained_on(local_store, "crl")
    rows = list(read_rows(local_store, made, TrainRow))
    assert made.kind == "train" and len(rows) == 2 * len(pairs) == 28
    for place, pair in enumerate(pairs):
        good, bad = rows[2 * place:2 * place + 2]
        asked = messages_of(pair.prompt)
        assert good.prompt == chat(with_reward_word(asked, "good"))
        assert bad.prompt == chat(with_reward_word(asked, "bad"))
        assert (good.completion, bad.completion) == (pair.chosen, pair.rejected)
        assert (good.role, bad.role, good.weight, bad.weight) == ("good", "bad", 1.0, 1.0)
        assert good.images == bad.images == pair.images
        assert good.source_row_id == bad.source_row_id == pair.row_id
        text = good.prompt[-1].content[-1].text or ""
        assert re.match(r"good What is number \d+\?$", text)
    assert len({row.row_id for row in rows}) == 28
    assert (made.stats["rows/good"], made.stats["rows/bad"]) == (14, 14)
    assert made.stats["kept/clear"] == 2 and made.funnel["kept"] == 14


def test_sft_learns_the_desired_reply_without_a_word(local_store: Store) -> None:
    made, pairs = trained_on(local_store, "sft")
    rows = list(read_rows(local_store, made, TrainRow))
    assert [(row.prompt, row.completion) for row in rows] == [(p.prompt, p.chosen) for p in pairs]
    assert {row.role for row in rows} == {CHOSEN}


def test_dpo_learns_the_pairs_themselves(local_store: Store) -> None:
    made, pairs = trained_on(local_store, "dpo")
    assert made.kind == "train"
    assert list(read_rows(local_store, made, PairRow)) == pairs


def test_the_objective_changes_rows_but_no_pairs(local_store: Store) -> None:
    made, _ = trained_on(local_store, "crl")
    other, _ = trained_on(local_store, "sft")
    assert made.parents == other.parents and made.inputs_digest != other.inputs_digest


def test_pairs_and_their_training_rows_name_the_prompts_and_are_as_repeatable_as_the_replies(
    local_store: Store
) -> None:
    made, pairs = trained_on(local_store, "crl")
    assert made.parents["prompts"] == PROMPTS.digest == pairs[0].prompt_version
    between = read_manifest(local_store, "pairs")
    assert between.parents["prompts"] == PROMPTS.digest
    assert made.determinism == between.determinism == "engine"


def test_training_rows_are_resumed_shard_by_shard(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = trained_on(local_store, "crl")
    assert len(made.shards) == 2
    assert trained_on(local_store, "crl")[0] == made
    local_store.delete("train/manifest.json")
    local_store.delete("train/receipts/00001.json")
    written: list[int] = []

    def counting(*given: Any) -> Any:
        written.append(given[2])
        return write_shard(*given)

    monkeypatch.setattr(curation, "write_shard", counting)
    again, _ = trained_on(local_store, "crl")
    assert written == [1] and again.digest == made.digest


def test_crl_rows_that_give_their_word_away_are_quarantined_when_written(
    local_store: Store
) -> None:
    pairs = curated(local_store, [imagined(0, CLEAR, desired="Good red.")],
                    wording=Wording(PROMPTS, CRITERIA, RewardWords(good="yay", bad="nay")))
    assert pairs.num_rows == 1
    made = write_train(local_store, pairs, "crl", WORDS, "train", 9)
    [row] = read_quarantine(local_store, made)
    assert (row.reason, row.kind, made.num_rows) == ("reward_word_leak", "train", 1)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["crl", "sft", "dpo"])
def test_datasets_shows_messages_and_pictures_of_pairs_and_train_rows(
    local_store: Store, tmp_path: Path, objective: Objective
) -> None:
    from datasets import load_dataset

    made, pairs = trained_on(local_store, objective)
    for prefix, is_pair in (("pairs", True), ("train", objective == "dpo")):
        rows = load_dataset(local_store.uri(prefix), split="train", cache_dir=str(tmp_path))
        assert len(rows) == (len(pairs) if is_pair else made.num_rows)
        said = ("chosen", "rejected") if is_pair else ("completion",)
        for name in ("prompt", *said):
            for message in rows[0][name]:
                assert set(message) == {"role", "content"}
                assert all(set(part) == {"type", "text"} for part in message["content"])
        assert [p["type"] for m in rows[0]["prompt"] for p in m["content"]] == ["image", "text"]
        assert rows[0]["images"][0].size == (8, 8)
    assert image(0, 0).image_id in rows[0]["image_ids"]
