"""`flywheel recalibrate`: other weights, other pairs, the round untouched, and errors in words."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from model_ops.curation.preferences import write_nodes, write_preferences
from model_ops.rounds import write_round
from schemas.artifacts import read_manifest, read_rows
from schemas.config import PreferenceConfig
from schemas.errors import ConfigError, StoreError
from schemas.records import Evaluation, RoundRecord, StageRecord
from schemas.rows import PairRow
from schemas.searches import NodeRow
from schemas.store import Store
from tests.model_ops.curation.searched import PROMPTS, Said, dropped, publish_searches, search
from tests.model_ops.curation.test_dialog import publish_images

STAGE = "rounds/round=0001/00-calibrated"
SEEN = Said("a red cat .", cosine=0.4, logprob=-9.0)
LIKELY = Said("two blue dogs .", cosine=0.1, logprob=-1.0)
OWN = PreferenceConfig(max_length_ratio=3.0)


@pytest.fixture
def root(tmp_path: Path) -> Store:
    """Round 1 has a calibrated stage whose two scores disagree; round 2 has none."""
    store = Store(str(tmp_path / "root"))
    rows = [search(n, [SEEN], [LIKELY]) for n in range(19)]
    searches = publish_searches(store, [*rows, dropped(19, "no_final")], prefix=f"{STAGE}/searches")
    nodes = write_nodes(store, searches, OWN, f"{STAGE}/nodes", 9)
    train = write_preferences(store, searches, publish_images(store), OWN, PROMPTS,
                              f"{STAGE}/train", 8, 9)
    made = {"searches": searches, "nodes": nodes, "train": train}
    stage = StageRecord(
        name="00-calibrated", method="calibrated", funnel=train.funnel, seconds={},
        artifacts={name: manifest.prefix for name, manifest in made.items()},
        tokens_per_second=1.0, model_digest="m")
    dialog = stage.model_copy(update={"name": "00-dialog", "method": "dialog", "artifacts": {}})
    for number, stages in enumerate(([], [stage], [dialog])):
        write_round(store, RoundRecord(
            round=number, model="m", model_prefix="", trained_from=None, decision="base",
            reasons=[], stages=stages, evaluation=Evaluation(
                model_digest="m", metrics={}, items={}, inputs_digest="")))
    return store


def told(root: Store, out: Path, *options: str) -> str:
    arguments = ["recalibrate", root.root, "--out", str(out), "--round", "1", *options]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


def first_pair(store: Store, artifact: str) -> tuple[str | None, str | None]:
    pair = next(read_rows(store, read_manifest(store, f"{STAGE}/{artifact}"), PairRow))
    return pair.chosen[0].content[0].text, pair.rejected[0].content[0].text


def test_other_weights_choose_other_replies(root: Store, tmp_path: Path) -> None:
    before = read_manifest(root, f"{STAGE}/train")
    plain = told(root, tmp_path / "new", "--lam", "0.1")
    into = Store(str(tmp_path / "new"))
    assert plain.strip() == (f"00-calibrated, rank, lam 0.1: 19 pairs of 20 searches in "
                             f"{into.uri(STAGE)}/pairs")
    assert first_pair(root, "train") == (SEEN.text, LIKELY.text)
    assert first_pair(into, "pairs") == (LIKELY.text, SEEN.text)
    nodes = list(read_rows(into, read_manifest(into, f"{STAGE}/nodes"), NodeRow))
    assert [node.choice for node in nodes[:3]] == [None, "rejected", "chosen"]
    assert nodes[1].cost == pytest.approx(0.1 * 0.5 + 0.9 * 1.0)
    assert read_manifest(root, f"{STAGE}/train") == before
    assert not root.exists(f"{STAGE}/pairs/manifest.json")


def test_the_rounds_own_settings_stay_where_none_is_given(root: Store, tmp_path: Path) -> None:
    [found] = json.loads(told(root, tmp_path / "raw", "--reward-mode", "paper_raw", "--json"))
    assert (found["reward_mode"], found["lam"], found["max_length_ratio"]) == ("paper_raw", 0.9, 3)
    assert (found["num_pairs"], found["funnel"]["no_final"]) == (19, 1)
    told(root, tmp_path / "same")
    same = Store(str(tmp_path / "same"))
    ours = read_rows(same, read_manifest(same, f"{STAGE}/pairs"), PairRow)
    theirs = read_rows(root, read_manifest(root, f"{STAGE}/train"), PairRow)
    assert list(ours) == list(theirs)


def test_it_is_found_again_and_can_be_looked_at(root: Store, tmp_path: Path) -> None:
    out = tmp_path / "new"
    first = told(root, out, "--lam", "0.7", "--json")
    created = read_manifest(Store(str(out)), f"{STAGE}/pairs").created_at
    assert told(root, out, "--lam", "0.7", "--json") == first
    assert read_manifest(Store(str(out)), f"{STAGE}/pairs").created_at == created
    shown = CliRunner().invoke(app, ["show", f"{out}/{STAGE}/pairs", "--row", "0", "--json"])
    assert shown.exit_code == 0 and len(json.loads(shown.stdout)["pictures"]) == 1


def refused(root: Store, out: Path, *options: str) -> str:
    arguments = ["recalibrate", root.root, "--out", str(out), "--round", "1", *options]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, ConfigError)
    return str(error)


def test_other_weights_do_not_replace_what_is_there(root: Store, tmp_path: Path) -> None:
    out = tmp_path / "new"
    told(root, out, "--lam", "0.1")
    before = first_pair(Store(str(out)), "pairs")
    says = refused(root, out, "--lam", "0.7", "--reward-mode", "paper_raw")
    assert f"{out}/{STAGE}/nodes holds what reward_mode rank, lam 0.1 gave: give another" in says
    assert first_pair(Store(str(out)), "pairs") == before
    told(root, out, "--lam", "0.1")


def test_another_runs_folder_is_no_place_to_write(root: Store, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other"))
    searches = publish_searches(other, [search(0, [LIKELY], [SEEN])], prefix=f"{STAGE}/searches")
    before = write_nodes(other, searches, OWN, f"{STAGE}/nodes", 9)
    assert "holds what other searches gave" in refused(root, Path(other.root))
    assert read_manifest(other, f"{STAGE}/nodes") == before


@pytest.mark.parametrize(("options", "error", "says"), [
    (["--round", "7"], StoreError, "has no finished round 7; finished are 0 to 2"),
    (["--round", "2"], ConfigError, r"no calibrated stage \(its stages: 00-dialog\)"),
    (["--round", "0"], ConfigError, "its stages: none: it is the base")])
def test_a_round_that_cannot_be_used_is_an_error(
    root: Store, tmp_path: Path, options: list[str], error: type[Exception], says: str
) -> None:
    arguments = ["recalibrate", root.root, "--out", str(tmp_path / "new"), *options]
    done = CliRunner().invoke(app, arguments)
    with pytest.raises(error, match=says):
        raise done.exception or AssertionError(done.output)
    assert not (tmp_path / "new").exists()


def test_the_root_itself_is_no_place_to_write(root: Store, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["recalibrate", root.root, "--out", root.root, "--round", "1"])
    assert isinstance(done.exception, ConfigError) and "another folder" in str(done.exception)
    (tmp_path / "link").symlink_to(root.root)
    assert "is the root itself" in refused(root, tmp_path / "link")
    nowhere = ["recalibrate", str(tmp_path / "no"), "--out", str(tmp_path / "x"), "--round", "1"]
    assert "is it the root of a run?" in str(CliRunner().invoke(app, nowhere).exception)


@pytest.mark.parametrize("option", [["--lam", "1.5"], ["--reward-mode", "sum"], ["--lam", "x"]])
def test_wrong_weights_are_wrong_usage(root: Store, tmp_path: Path, option: list[str]) -> None:
    arguments = ["recalibrate", root.root, "--out", str(tmp_path / "new"), "--round", "1", *option]
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.slow
def test_datasets_reads_what_was_made(root: Store, tmp_path: Path) -> None:
    from datasets import load_dataset

    [found] = json.loads(told(root, tmp_path / "new", "--lam", "0.1", "--json"))
    pairs = load_dataset(found["pairs"], split="train", cache_dir=str(tmp_path / "cache"))
    assert len(pairs) == 19 and pairs[0]["images"][0].size == (8, 8)
