"""The report as text: complete, escaped, self-contained, small, and there for unfinished roots."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from model_ops.report import write_report
from model_ops.report.charts import Point, line_chart, ticks
from model_ops.report.history import read_history
from model_ops.report.page import render
from model_ops.report.wording import duration, number, percent, spaced, verdict
from model_ops.report.yields import funnel, production
from schemas.config import ImagesConfig
from schemas.manifest import Manifest, Shard
from schemas.records import Evaluation, Metric, RoundRecord
from schemas.store import Store
from tests.model_ops.rooted import HOSTILE, PRIMARY, STAGE, build_root, save_photographs

MAX_BYTES = 3_000_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A root of three rounds, the last one held."""
    store = Store(str(tmp_path_factory.mktemp("report")))
    build_root(store)
    return store


@pytest.fixture(scope="module")
def page(root: Store) -> str:
    """The finished report."""
    uri = write_report(root)
    assert uri == root.uri("report/index.html")
    return Path(uri).read_text()


def test_every_section_is_filled(page: str) -> None:
    for section in ("glance", "curves", "evaluation", "funnel", "games", "cost", "provenance"):
        assert f'id="{section}"' in page
    assert page.count("<polyline") == 8
    assert page.count('class="card game won"') + page.count('class="card game lost"') == 18
    assert page.count('class="card row"') == 18
    assert "home/vqa fell by more than 0.010" in page


def test_text_of_models_is_escaped(page: str) -> None:
    assert HOSTILE not in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "onerror=" not in re.sub(r"&lt;.*?&gt;", "", page)


def test_nothing_is_fetched_from_elsewhere(page: str) -> None:
    assert "default-src 'none'" in page
    sources = re.findall(r'(?:src|href)="([^"]{0,12})', page)
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "url(" not in page and "@import" not in page


def test_the_same_root_gives_the_same_page(root: Store, page: str) -> None:
    assert render(root) == page


def test_what_was_learnt_and_asked_beside_a_stage_counts(root: Store) -> None:
    (view, *_) = [each for each in read_history(root).rounds if each.stages]
    (stage,) = view.stages
    plain = production(view, stage)
    made = {name: Manifest(
        kind=name, prefix=name, inputs_digest=name, stats={"calls": 7.0, "output_tokens": 90.0},
        shards=[Shard(index=0, path="p", num_rows=num, num_bytes=1, sha256="0")])
        for name, num in (("mix", 3), ("rehearsal", 4), ("rehearsal-replies", 5))}
    beside = production(view, replace(stage, manifests={**stage.manifests, **made}))
    assert (plain.num_beside, beside.num_beside) == (0, 7)
    assert beside.num_calls == plain.num_calls + 7
    assert beside.output_tokens == plain.output_tokens + 90
    assert (beside.num_rows, beside.num_started) == (plain.num_rows, plain.num_started)


@pytest.mark.slow
def test_photographs_become_thumbnails(tmp_path: Path) -> None:
    save_photographs(tmp_path, 24)
    store = Store(str(tmp_path / "root"))
    build_root(store, rounds=8, images=ImagesConfig(uri=str(tmp_path), limit=24))
    text = render(store)
    assert "data:image/jpeg" in text
    assert len(text) < MAX_BYTES
    assert text.count('<details class="samples"') == 6


def test_a_root_without_rounds_has_a_report(tmp_path: Path) -> None:
    text = render(Store(str(tmp_path)))
    assert "No round has finished yet." in text


def test_a_root_with_only_the_base_has_a_report(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    build_root(store, rounds=0)
    text = render(store)
    assert "Only the base model has been measured so far: field/game4_success is 0.512" in text
    assert "No games have been played yet." in text


def test_a_root_without_wins_has_a_report(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    build_root(store, rounds=1, win=False)
    text = render(store)
    assert "No game was won." in text
    assert "No training rows." in text


@pytest.mark.parametrize("artifact", ["transcripts", "train", "model"])
def test_a_missing_artifact_is_said(tmp_path: Path, artifact: str) -> None:
    store = Store(str(tmp_path))
    build_root(store, rounds=1)
    store.delete(f"rounds/round=0001/{STAGE}/{artifact}/manifest.json")
    assert "manifest is missing" in render(store)


def test_missing_images_leave_the_words(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    build_root(store, rounds=1)
    store.delete("images/manifest.json")
    text = render(store)
    assert "no picture" in text
    assert 'class="card game won"' in text


def test_an_unmeasured_base_has_a_report(tmp_path: Path) -> None:
    nothing = Evaluation(model_digest="a", metrics={}, items={}, inputs_digest="")
    record = RoundRecord(round=0, model="a", model_prefix="m", trained_from=None, decision="base",
                         reasons=[], evaluation=nothing)
    store = Store(str(tmp_path))
    store.write_bytes("rounds/round=0000/round.json", record.model_dump_json().encode())
    assert "it has not been measured" in render(store)


def test_the_verdict_is_one_sentence(root: Store, tmp_path: Path) -> None:
    held = "Round 3 was held, round 2 stays champion: field/game4_success 0.648 against 0.641."
    assert verdict(read_history(root)) == held
    store = Store(str(tmp_path))
    build_root(store, rounds=2)
    assert verdict(read_history(store)) == (
        "Round 2 was promoted: field/game4_success went from 0.566 to 0.641 "
        "(gain +0.075 [0.045, 0.105]).")


def test_primary_and_guards_follow_from_the_reasons(root: Store) -> None:
    history = read_history(root)
    assert history.primary == PRIMARY
    assert history.guards == ["home/vqa"]
    assert history.metrics[0] == PRIMARY


def test_the_funnel_is_split_into_steps_and_drops() -> None:
    split = funnel(1, STAGE, {"played": 10, "won": 6, "kept": 4, "lost": 4, "blind": 0, "order": 2})
    assert [(step.name, step.share) for step in split.steps] == [
        ("played", 100.0), ("won", 60.0), ("kept", 40.0)]
    assert split.drops == [("lost", 4), ("order", 2)]


@pytest.mark.parametrize("low, high", [(0.2, 0.71), (0.5, 0.5), (0.0, 1.0), (0.883, 0.884)])
def test_ticks_cover_the_range_in_few_round_steps(low: float, high: float) -> None:
    levels = ticks(low, high)
    assert levels[0] <= low + 1e-9 and levels[-1] >= high - 1e-9
    assert 1 <= len(levels) <= 8


@pytest.mark.parametrize("num", [1, 2, 40])
def test_a_chart_has_a_marker_per_round_and_few_labels(num: int) -> None:
    metric = Metric(value=0.5, low=0.4, high=0.6, n=10, chance=0.25)
    chart = line_chart([Point(number, metric, "hold") for number in range(num)])
    assert chart.count("<circle") == num
    assert 1 <= chart.count("tick mid") <= 10
    assert "nan" not in chart


def test_numbers_read_well() -> None:
    assert number(-0.0123) == "\N{MINUS SIGN}0.012"
    assert [duration(s) for s in (4.21, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 05 min"]
    assert percent(1, 0) == "\N{EN DASH}"
    assert (spaced("order"), spaced("my_code")) == ("depends on image order", "my code")
