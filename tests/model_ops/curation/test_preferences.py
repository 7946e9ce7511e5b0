"""Preferences on a store: every reason code, counts that add up, nodes, stats, resume."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from model_ops.curation import preferences
from model_ops.curation.pair_rows import messages_of
from model_ops.curation.preference_checks import node_rows, prefer
from model_ops.curation.preferences import write_nodes, write_preferences
from model_ops.programs.describing import description_messages
from schemas.artifacts import publish, read_quarantine, read_rows, write_shard
from schemas.config import PreferenceConfig
from schemas.errors import ConfigError, DropError
from schemas.manifest import Manifest
from schemas.rows import ImageRow, PairRow, Picture
from schemas.searches import NodeRow, SearchRow
from schemas.store import Store
from tests.model_ops.curation.searched import (
    BAD,
    DROPS,
    GOOD,
    MORE,
    PROMPTS,
    QUESTION,
    Said,
    dropped,
    mixed,
    pair,
    publish_searches,
    search,
)
from tests.model_ops.curation.test_dialog import publish_images

RANK = PreferenceConfig()
RAW = PreferenceConfig(reward_mode="paper_raw")
LONG = [Said("a red cat lies on a small mat .", 0.3, -1.0)]


def written(
    store: Store, rows: list[SearchRow], config: PreferenceConfig = RANK, shard_size: int = 8,
    **drops: int,
) -> Manifest:
    searches = publish_searches(store, rows, drops)
    return write_preferences(store, searches, publish_images(store), config, PROMPTS, "pairs",
                             shard_size, 9)


def reason_of(row: SearchRow, config: PreferenceConfig = RANK) -> str | None:
    try:
        prefer(row, config)
    except DropError as error:
        return error.reason
    return None


# --- one search ---


@pytest.mark.parametrize("reason", DROPS)
@pytest.mark.parametrize("config", [RANK, RAW])
def test_what_makes_no_pair_has_its_reason(reason: str, config: PreferenceConfig) -> None:
    assert reason_of(dropped(0, reason), config) == reason


@pytest.mark.parametrize(("row", "reason"), [
    (search(0), "no_final"),
    (search(0, [Said("cat", dropped="too_short"), GOOD], [BAD]), "single_final"),
    (search(0, [GOOD, MORE], [Said("A red cat . it sits", 0.1, -9.0), Said("on a mat .", 0.1)]),
     "identical")])
def test_other_ways_to_the_same_reasons(row: SearchRow, reason: str) -> None:
    assert reason_of(row) == reason


@pytest.mark.parametrize(("row", "config", "reason"), [
    (pair(0), {"min_margin": 0.9}, "small_margin"),
    (search(0, LONG, [BAD]), {"max_length_ratio": 1.5}, "length_ratio"),
    (search(0, [BAD._replace(text="a dog .", cosine=0.4)], LONG), {"max_length_ratio": 1.5},
     "length_ratio")])
def test_the_filters_drop_only_when_asked(
    row: SearchRow, config: dict[str, Any], reason: str
) -> None:
    assert reason_of(row) is None
    assert reason_of(row, PreferenceConfig(**config)) == reason


def test_a_pair_at_the_very_limits_is_kept() -> None:
    found = prefer(search(0, LONG, [BAD]), RANK)
    ratio = found.chosen.num_words / found.rejected.num_words
    limits = PreferenceConfig(min_margin=found.margin, max_length_ratio=ratio)
    assert reason_of(search(0, LONG, [BAD]), limits) is None


def test_rewards_are_higher_for_the_chosen_in_both_modes() -> None:
    ranked, raw = prefer(pair(0), RANK), prefer(pair(0), RAW)
    assert ranked.chosen.reward == -0.5 / 2 and ranked.rejected.reward == -(1.0 + 1.0) / 3
    assert 0.9 * 30 < raw.chosen.reward < 0.9 * 30 + 0.1
    assert 0.9 * 15 < raw.rejected.reward < 0.9 * 15 + 0.2
    assert ranked.margin == pytest.approx(5 / 12) and raw.margin > 13
    assert raw.chosen.text == GOOD.text and raw.rejected.text == f"{BAD.text}\n{MORE.text}"
    assert raw.rejected.cos100 == pytest.approx(7.5) and raw.num_candidates == 2


def test_a_tree_in_which_all_are_equal_makes_no_pair() -> None:
    tied = search(0, [GOOD, MORE], [BAD])  # (1/2 + 1) / 3 = 1 / 2
    assert reason_of(tied) == "identical" and reason_of(tied, RAW) is None


def test_nodes_carry_what_they_were_judged_by() -> None:
    row = search(3, [GOOD], [BAD, MORE], [Said("x", dropped="too_short")])
    rows = node_rows(row, RANK, 9)
    assert [r.choice for r in rows] == [None, "chosen", None, "rejected", None]
    assert [r.key for r in rows] == [None, 0.5 / 2, None, 2.0 / 3, None]
    assert [(r.rank, r.clip_rank) for r in rows] == [
        (None, None), (0.5, 0.5), (1.0, 1.0), (1.0, 1.0), (None, None)]
    assert [r.clip_cos100 for r in rows] == [None, 30.0, 10.0, 5.0, None]
    assert rows[1].sum_logprob == -1.0 and rows[1].mean_logprob == -0.25
    assert rows[0].cost is None and rows[4].dropped_reason == "too_short"
    assert {(r.search_id, r.prompt_id, r.image_id, r.seed) for r in rows} == {
        (row.row_id, "prompt-3", row.image.image_id, 9)}
    assert len({r.row_id for r in rows}) == 5
    none_chosen = node_rows(dropped(0, "identical"), RANK, 9)
    assert [r.choice for r in none_chosen] == [None] * 3 and none_chosen[1].key is not None


# --- on a store ---


def test_a_pair_is_the_bare_question_with_both_replies(local_store: Store) -> None:
    rows = [pair(n) for n in range(5)]
    made = written(local_store, rows, RAW)
    assert made.kind == "pairs" and made.num_rows == 5
    for row, found in zip(rows, read_rows(local_store, made, PairRow), strict=True):
        assert messages_of(found.prompt) == description_messages(PROMPTS, QUESTION)
        assert found.chosen[0].content[0].text == GOOD.text
        assert found.rejected[0].content[0].text == f"{BAD.text}\n{MORE.text}"
        assert [m.role for m in (*found.chosen, *found.rejected)] == ["assistant"] * 2
        assert (found.role, found.source_row_id) == ("calibrated", row.row_id)
        assert (found.image_ids, found.seed) == ([row.image.image_id], 9)
        assert (found.chosen_reward or 0) > (found.rejected_reward or 99)
        assert found.num_candidates == 2 and len(found.images) == 1
        assert found.margin == (found.chosen_reward or 0) - (found.rejected_reward or 0) > 0
        assert (found.chosen_words, found.rejected_words) == (4, 10)


@pytest.mark.parametrize("config", [RANK, RAW, PreferenceConfig(min_margin=0.9)])
def test_the_funnel_adds_up_and_every_drop_is_in_quarantine(
    local_store: Store, config: PreferenceConfig
) -> None:
    made = written(local_store, mixed(), config, engine_error=2, undecodable_image=1)
    steps = ("planned", "searched", "kept")
    drops = {name: num for name, num in made.funnel.items() if name not in steps}
    assert [name for name in made.funnel if name in steps] == list(steps)
    assert made.funnel["planned"] == made.funnel["kept"] + sum(drops.values()) == 43
    assert (drops["searching_engine_error"], drops["searching_undecodable_image"]) == (2, 1)
    assert made.funnel["searched"] == 40 and made.num_rows == made.funnel["kept"]
    lost = list(read_quarantine(local_store, made))
    assert Counter(row.reason for row in lost) == {
        name: num for name, num in drops.items() if not name.startswith("searching_")}
    assert set(DROPS) <= set(drops)
    assert ("small_margin" in drops) == (config.min_margin is not None)
    assert not any(row.payload.count("nodes") for row in lost)


def test_stats_are_means_over_pairs_and_sums_over_searches(local_store: Store) -> None:
    made = written(local_store, mixed(), RAW)
    rows, kept = mixed(), list(read_rows(local_store, made, PairRow))
    gained = [(p.chosen_reward or 0) - (p.rejected_reward or 0) for p in kept]
    assert made.stats["mean_margin"] == pytest.approx(sum(gained) / len(kept))
    assert made.stats["mean_chosen_reward"] - made.stats["mean_rejected_reward"] == pytest.approx(
        made.stats["mean_margin"])
    assert (made.stats["mean_chosen_words"], made.stats["mean_rejected_words"]) == (4, 10)
    assert made.stats["mean_chosen_cos100"] == pytest.approx(30.0)
    assert made.stats["mean_rejected_cos100"] == pytest.approx(7.5)
    assert made.stats["merged"] == sum(row.num_merged for row in rows)
    assert made.stats["empty"] == sum(row.num_empty for row in rows)
    assert made.stats["truncated"] == sum(row.num_truncated for row in rows)
    assert not any(name.startswith(("sum", "dropped")) for name in made.stats)


def test_stats_tell_how_many_replies_a_limit_ended(local_store: Store) -> None:
    rows = [pair(n) for n in range(4)]
    end = rows[0].nodes[-1].model_copy(update={"finish_reason": "max_sentences"})
    rows[0] = rows[0].model_copy(update={"nodes": [*rows[0].nodes[:-1], end]})
    made = written(local_store, rows)
    assert (made.stats["mean_chosen_cut"], made.stats["mean_rejected_cut"]) == (0, 0.25)


def test_a_picture_that_does_not_decode_drops_its_pair(local_store: Store) -> None:
    import hashlib

    from schemas.rows import ImageRef

    data = b"no picture"
    broken = ImageRow(image_id=hashlib.sha256(data).hexdigest(), image=Picture(bytes=data),
                      width=1, height=1, source="x", split="train")
    shard = write_shard(local_store, "images", 0, [broken], ImageRow)
    images = publish(local_store, Manifest(kind="images", prefix="images", inputs_digest="b",
                                           shards=[shard]))
    ref = ImageRef(image_id=broken.image_id, shard=0, row=0)
    searches = publish_searches(local_store, [pair(0, image=ref)])
    made = write_preferences(local_store, searches, images, RANK, PROMPTS, "pairs", 8, 9)
    assert made.funnel == {"planned": 1, "searched": 1, "undecodable_image": 1, "kept": 0}


def test_searches_of_other_prompts_are_refused(local_store: Store) -> None:
    with pytest.raises(ConfigError, match="search again, or restore the prompts"):
        written(local_store, [pair(0, prompt_version="other")])


@pytest.mark.parametrize("rows", [[], [dropped(0, "no_final")]])
def test_no_pair_still_gives_artifacts(local_store: Store, rows: list[SearchRow]) -> None:
    made = written(local_store, rows)
    assert (made.num_rows, made.funnel["kept"], len(made.shards)) == (0, 0, 1)
    assert "mean_margin" not in made.stats


def test_nodes_are_written_a_shard_for_a_shard(local_store: Store) -> None:
    searches = publish_searches(local_store, mixed())
    made = write_nodes(local_store, searches, RANK, "nodes", 9)
    rows = list(read_rows(local_store, made, NodeRow))
    assert made.kind == "nodes" and len(made.shards) == len(searches.shards)
    assert rows == [node for row in mixed() for node in node_rows(row, RANK, 9)]
    assert made.stats["nodes"] == len(rows) and made.stats["dropped/too_short"] == 3
    assert made.stats["final"] == sum(row.key is not None for row in rows)
    assert write_nodes(local_store, searches, RANK, "nodes", 9) == made
    other = write_nodes(local_store, searches, RAW, "nodes", 9)
    assert other.inputs_digest != made.inputs_digest


def test_finished_work_is_returned_and_a_killed_run_gives_the_same_rows(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = written(local_store, mixed())
    assert len(made.shards) == 4 and written(local_store, mixed()) == made
    rows = list(read_rows(local_store, made, PairRow))
    searches, nodes = publish_searches(local_store, mixed()), []
    for _ in range(2):
        found = write_nodes(local_store, searches, RANK, "nodes", 9)
        nodes.append((found.digest, list(read_rows(local_store, found, NodeRow))))
        for prefix in ("pairs", "nodes"):
            for gone in ("manifest.json", "receipts/00002.json", "receipts/00003.json"):
                local_store.delete(f"{prefix}/{gone}")
    assert nodes[0] == nodes[1]
    written_anew: list[int] = []

    def counting(*given: Any) -> Any:
        written_anew.append(given[2])
        return write_shard(*given)

    monkeypatch.setattr(preferences, "write_shard", counting)
    again = written(local_store, mixed())
    assert written_anew == [2, 3] and again.digest == made.digest
    assert again.funnel == made.funnel and again.stats == made.stats
    assert list(read_rows(local_store, again, PairRow)) == rows


def test_the_manifest_names_the_prompts_and_is_as_repeatable_as_the_searches(
    local_store: Store
) -> None:
    made = written(local_store, mixed(9))
    assert made.parents["prompts"] == PROMPTS.digest
    nodes = write_nodes(local_store, publish_searches(local_store, mixed(9)), RANK, "nodes", 9)
    assert made.determinism == nodes.determinism == "engine"


def test_other_weights_make_pairs_anew(local_store: Store) -> None:
    digests = {written(local_store, mixed(9), config).inputs_digest for config in (
        RANK, RAW, PreferenceConfig(lam=0.5), PreferenceConfig(min_margin=0.1))}
    assert len(digests) == 4


@pytest.mark.slow
def test_datasets_shows_messages_and_pictures(local_store: Store, tmp_path: Path) -> None:
    from datasets import load_dataset

    made = written(local_store, mixed())
    rows = load_dataset(local_store.uri("pairs"), split="train", cache_dir=str(tmp_path))
    assert len(rows) == made.num_rows and rows[0]["images"][0].size == (8, 8)
    assert [p["type"] for m in rows[0]["prompt"] for p in m["content"]] == ["image", "text"]
    assert rows[0]["chosen_reward"] >= rows[0]["rejected_reward"]
    assert (rows[0]["chosen_words"], rows[0]["rejected_words"]) == (4, 10)
    assert rows[0]["margin"] >= 0
