"""The report of calibrated rounds: a search tree, pairs with rewards, curves and the table by
round; caption length beside every CHAIR figure."""

import html
import json
import re
from pathlib import Path

import pytest

from model_ops.report.charts import Rewards, Steps, reward_chart, step_chart
from model_ops.report.history import read_history
from model_ops.report.learning import training_curves
from model_ops.report.page import render
from model_ops.report.search_tree import iterations, search_stages
from model_ops.tables import rounds_table
from model_ops.training.job import Step
from model_ops.training.launch import metrics_path
from schemas.artifacts import publish, read_manifest, read_rows, write_shard
from schemas.champion import read_champion
from schemas.manifest import Manifest
from schemas.rows import PairRow
from schemas.store import Store
from tests.model_ops.calibrated_rooted import NUM_SEARCHES, WORDS, build_calibrated_root
from tests.model_ops.rooted import HOSTILE, build_root

pytestmark = pytest.mark.slow

STAGE = "rounds/round=0001/00-calibrated"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three calibrated rounds, the last one held."""
    store = Store(str(tmp_path_factory.mktemp("calibrated")))
    build_calibrated_root(store)
    return store


@pytest.fixture(scope="module")
def page(root: Store) -> str:
    return render(root)


@pytest.fixture
def one_round(tmp_path: Path) -> Store:
    """A small root that a test may damage."""
    store = Store(str(tmp_path / "root"))
    build_calibrated_root(store, rounds=1)
    return store


def words(text: str) -> str:
    """The page as a reader has it."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_the_section_is_there_and_nothing_speaks_of_games_or_questions(page: str) -> None:
    assert 'id="searches"' in page and 'href="#searches"' in page
    assert 'id="games"' not in page and 'id="pairs"' not in page
    text = words(page)
    assert "searches planned 72" in text and "From searches to training data" in text
    assert f"of {NUM_SEARCHES} searches" in text and "No games" not in text


def test_the_tree_is_that_of_the_first_pair(root: Store, page: str) -> None:
    stages = search_stages(root, read_history(root))
    assert [stage.round for stage in stages] == [1, 2, 3]
    for stage in stages:
        manifest = read_manifest(root, f"rounds/round=000{stage.round}/00-calibrated/train")
        first = min(read_rows(root, manifest, PairRow), key=lambda row: row.row_id)
        assert stage.tree is not None and stage.tree.picture is not None
        assert stage.tree.row.row_id == first.source_row_id and len(stage.tree.lines) == 7
        assert {side for line in stage.tree.lines for side in line.sides} == {"chosen", "rejected"}
        assert stage.tree.lines[0].sides == ("chosen", "rejected"), "both go through it"
    assert page.count('class="card tree"') == 3
    assert page.count('<tr class="kept chosen rejected">') == 3
    assert page.count('<tr class="final chosen">') == page.count('<tr class="final rejected">') == 3
    assert "dropped: too short" in words(page)


def test_replies_stand_beside_each_other_with_their_rewards(root: Store, page: str) -> None:
    stages = search_stages(root, read_history(root))
    assert page.count('class="card pair kept"') == sum(len(stage.kept) for stage in stages) == 18
    assert all(sample.picture for stage in stages for sample in (*stage.kept, *stage.dropped))
    assert re.search(r"chosen: reward -0\.\d{3}, \d+ words", page)
    assert "dropped: only one reply was finished" in words(page)
    assert "no picture" not in page and "3 finished replies" in page


def test_rounds_stand_side_by_side(root: Store, page: str) -> None:
    table = iterations(read_history(root))
    assert table is not None and table.chart is not None
    assert [name.removeprefix("field/") for name in table.names] == [
        "chair_s", "chair_i", "caption_words", "chair_recall", "pope", "pope_f1"]
    assert table.rows[0].num_pairs is None and table.rows[0].rewards == []
    for row in table.rows[1:]:
        [reward] = row.rewards
        made = read_manifest(root, f"rounds/round=000{row.round}/00-calibrated/train")
        assert row.num_pairs == made.num_rows > 10
        assert reward == Rewards(row.round, made.stats["mean_chosen_reward"],
                                 made.stats["mean_rejected_reward"])
        assert reward.chosen > reward.rejected
    assert table.chart.count("<circle") == 6 and table.chart in page
    section = page.partition('id="searches"')[2].partition('id="cost"')[0]
    for name in ("chair_s", "chair_i", "caption_words", "pope"):
        drawn = re.compile(f"<span>field/{name}[< ]")
        assert len(drawn.findall(section)) == len(drawn.findall(page)) == 1


def test_caption_length_stands_beside_every_chair_figure(page: str) -> None:
    table = page.partition('id="evaluation"')[2].partition("</section>")[0]
    rows = {name: row for row in table.split("<tr><td>") if "<" in row
            for name in [row.partition("<")[0].strip()]}
    for name in ("field/chair_s", "field/chair_i", "field/chair_clean", "field/chair_recall"):
        assert all(f"{value:.1f} words" in rows[name] for value in WORDS)
    assert "words" not in rows["field/pope"]
    glance = page.partition('id="glance"')[2].partition("</section>")[0]
    assert all(f"{value:.1f} words" in glance for value in WORDS), "the primary figure is CHAIR's"
    assert "field/chair_s <em>lower is better" in table.replace("  ", " ")


def test_figures_of_popes_splits_are_folded_away(root: Store, page: str) -> None:
    head, _, folded = page.partition("more figures</summary>")
    assert "field/pope_random<" not in head and "field/pope_random<" in folded
    champion = read_champion(root)
    assert champion is not None
    records = [view.record for view in read_history(root).rounds]
    told = list(rounds_table(records, champion).columns[0].cells)
    assert "field/pope_random" not in told and "field/pope_f1" in told


def test_text_of_models_is_escaped(page: str) -> None:
    assert HOSTILE not in page and "<script" not in page and "&lt;script&gt;" in page


def test_the_same_root_gives_the_same_page(root: Store, page: str) -> None:
    assert render(root) == page


@pytest.mark.parametrize("artifact", ["prompts", "searches", "nodes", "train"])
def test_a_missing_artifact_is_said(one_round: Store, artifact: str) -> None:
    one_round.delete(f"{STAGE}/{artifact}/manifest.json")
    page = render(one_round)
    assert "manifest is missing" in page and 'id="searches"' in page
    assert ("The searches cannot be read." in page) == (artifact == "searches")
    assert ("No pair was kept." in page) == (artifact == "train")


def test_a_round_in_which_no_pair_was_kept_still_shows_a_tree(one_round: Store) -> None:
    prefix = f"{STAGE}/train"
    publish(one_round, Manifest(kind="pairs", prefix=prefix, inputs_digest="none", shards=[
        write_shard(one_round, prefix, 0, [], PairRow)]))
    table = iterations(read_history(one_round))
    assert table is not None and table.chart is None
    page = render(one_round)
    assert "No pair was kept." in page and 'class="card tree"' in page


def test_a_root_of_games_has_no_such_section(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    build_root(store, rounds=1)
    assert iterations(read_history(store)) is None and 'id="searches"' not in render(store)


def test_one_round_of_rewards_can_be_drawn() -> None:
    chart = reward_chart([Rewards(1, -0.4, -0.4)])
    assert chart.count("<circle") == 2 and "nan" not in chart


def test_training_is_drawn_step_by_step(one_round: Store) -> None:
    assert 'id="training"' not in render(one_round)
    steps = [Step(1, 4, 0.2, 0.693, 1e-7, 1.0, 2.0, 0.5, 0.0),
             Step(4, 4, 1.0, 0.412, 1e-7, 1.0, 2.0, 0.875, 0.3)]
    lines = "".join(json.dumps(step._asdict()) + "\n" for step in steps)
    one_round.write_bytes(metrics_path(f"{STAGE}/model"), lines.encode())
    curves = training_curves(one_round, read_history(one_round))
    assert [(curve.name, curve.latest) for curve in curves] == [
        ("loss", 0.412), ("reward accuracy (dpo)", 0.875), ("reward margin (dpo)", 0.3)]
    assert all(str(curve.drawing).count("<polyline") == 1 for curve in curves)
    shown = words(render(one_round))
    assert "Training, step by step" in shown and "00-calibrated: reward margin (dpo) 0.300" in shown


def test_older_rounds_have_paler_lines() -> None:
    drawn = str(step_chart([Steps(1, [(1, 0.7), (9, 0.5)]), Steps(2, [(1, 0.6), (8, 0.3)])]))
    newer, older = 'opacity="1.00"><title>round 2', 'opacity="0.70"><title>round 1'
    assert 0 < drawn.index(newer) < drawn.index(older)
