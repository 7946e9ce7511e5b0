"""(h) Search: its searches/s as a share of vLLM's own offline speed, and CLIP encodes an image.
(i) Searches/s against the reference's way (`reference_search`), which takes one node at a time.
(j) The same of a whole pool, as nursery-calibrated.yaml has it: searches/s once it is at work, by
    the seconds of `POOL_SEARCHES`, in which what starting takes is the same.

A search is what the program `search` makes of a description: a tree of sentences, each with its
log-probability and its cosine, at the settings of nursery-calibrated.yaml, in (i) and (j) with
the image as it is alone, so that both ways ask as often; one search an image. `make bench` takes
the engine of full.yaml, which searches too: as many requests at a time as the example's.
Offline, `LLM.generate` answers the prompts of the very run, each level's prefixes included, all
known in advance, with as many samples; it scores nothing, so the scorer's seconds (told in the
note) count against the driver. The runs alternate, and each begins with cold caches.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.console import load_config
from model_ops.engines.chat import load_processor, to_conversation
from model_ops.engines.clip_scorer import ClipScorer, encoder_identity, resolve_encoder
from model_ops.engines.driver import Result
from model_ops.grouping import read_refs
from model_ops.programs.context import JobContext
from model_ops.programs.describing import description_messages, description_texts
from model_ops.programs.searching import search
from model_ops.prompts import load_prompts
from schemas.artifacts import read_manifest, read_rows
from schemas.config import CalibratedStage, SearchConfig
from schemas.manifest import digest
from schemas.rows import row_id
from schemas.searches import DescriptionRow, SearchRow
from schemas.store import Store
from tests.bench.figures import Goal, show, spread
from tests.bench.old_transformers import OldTransformers, Timed, plain_environment
from tests.bench.recorded_prompts import Offline, RecordingEngine
from tests.bench.search_pool import PREFIX, without_looks
from tests.bench.workload import SEARCHING, Played, Workload, rows_by_game, timed

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]
NUM_SEARCHES = 192
RUNS = 3
POOL_SEARCHES = (200, 1000)
REFERENCE_SECONDS = 20.0
REFERENCE_SEARCHES = 3
"""Of a run at least: with many image tokens one takes 8 s."""
STAGE = "00-calibrated"


class TimedScorer(ClipScorer):
    """The scorer, which adds up its seconds."""

    seconds = 0.0

    def step(self) -> list[tuple[int, Result]]:
        """Answer up to a batch of pending calls."""
        begun = time.perf_counter()
        results = super().step()
        self.seconds += time.perf_counter() - begun
        return results


class Pooled(NamedTuple):
    """One timed run of a pool, from its first start to its last row."""

    seconds: float
    rows: list[SearchRow]


class Found(NamedTuple):
    """One timed run: its trees, and what the scorer did."""

    played: Played
    rows: list[SearchRow]
    num_encoded: int
    scoring: float


class Search(NamedTuple):
    """What is described, and how replies are searched for."""

    workload: Workload
    settings: SearchConfig
    items: Sequence[DescriptionRow]

    def run(self, engine: RecordingEngine, items: Sequence[DescriptionRow] | None = None) -> Found:
        """Search for replies to *items* (default: all) with all caches empty before."""
        engine.forget()
        workload, chosen = self.workload, self.items if items is None else items
        scorer = TimedScorer(resolve_encoder(self.settings.scorer), workload.read)
        settings = self.settings.model_copy(
            update={"scorer": encoder_identity(self.settings.scorer)})
        context = JobContext(load_prompts(workload.config.model.prompts), settings, 1, STAGE,
                             digest(str(workload.model)), workload.config.seed)
        programs = ((item.row_id, search(item, context)) for item in chosen)
        played = timed(workload, engine, programs, scorer=scorer)
        rows = [row for row in rows_by_game(played).values() if isinstance(row, SearchRow)]
        assert {row.prompt_id for row in rows} == {item.prompt_id for item in chosen}
        return Found(played, rows, scorer.num_encoded, scorer.seconds)


class Reference:
    """The reference's way: one search after the other, going round the images of *searches*."""

    def __init__(self, process: OldTransformers, searches: Search, folder: Path) -> None:
        self._process, self._folder = process, folder
        self._read, self._items = searches.workload.read, cycle(searches.items)
        self._prompts = load_prompts(searches.workload.config.model.prompts)
        self._processor = load_processor(searches.workload.model)

    def run(self, seconds: float = REFERENCE_SECONDS) -> list[Timed]:
        """Search for so long, three times at least (once for no time)."""
        made: list[Timed] = []
        least = REFERENCE_SEARCHES if seconds else 1
        while len(made) < least or sum(each.seconds for each in made) < seconds:
            made.append(self._search(next(self._items)))
        return made

    def _search(self, item: DescriptionRow) -> Timed:
        picture = self._folder / f"{item.row_id}.png"
        picture.write_bytes(self._read(item.image))
        prompt = self._processor.apply_chat_template(
            to_conversation(description_messages(self._prompts, item.question)),
            add_generation_prompt=True, tokenize=False)
        return self._process.search(item.row_id, prompt, picture)


@pytest.fixture(scope="module")
def searches(workload: Workload, engine: RecordingEngine) -> Search:
    """The searches; a quarter of them were made once before anything is measured."""
    (stage,) = load_config(SEARCHING).stages
    assert isinstance(stage, CalibratedStage)
    texts = description_texts(load_prompts(workload.config.model.prompts))
    seed = workload.config.seed
    refs = read_refs(workload.store, workload.images)[:NUM_SEARCHES]
    items = [DescriptionRow(row_id=row_id("prompt", image=ref.image_id), prompt_id=ref.image_id,
                            image=ref, question=texts[number % len(texts)], seed=seed)
             for number, ref in enumerate(refs)]
    made = Search(workload, stage.search, items)
    made.run(engine, items[:len(items) // 4])
    return made


def test_search_as_a_share_of_vllm_offline(searches: Search, engine: RecordingEngine) -> None:
    runs = [_both(searches, engine, driver_first=number % 2 == 0) for number in range(RUNS)]
    num = len(searches.items)
    shares = [offline.seconds / found.played.seconds for found, offline in runs]
    tokens = [found.played.num_tokens / found.played.seconds
              * offline.seconds / offline.num_tokens for found, offline in runs]
    speeds = {"driver_searches_per_second": [num / found.played.seconds for found, _ in runs],
              "offline_searches_per_second": [num / offline.seconds for _, offline in runs],
              "scoring_share": [found.scoring / found.played.seconds for found, _ in runs]}
    note = (f"{RUNS} alternating runs of {num} searches, "
            f"{spread([num_nodes(found.rows) / num for found, _ in runs])} sentences each; driver "
            f"{spread(speeds['driver_searches_per_second'])} searches/s, of which scoring "
            f"{spread(speeds['scoring_share'])}, offline "
            f"{spread(speeds['offline_searches_per_second'])} searches/s")
    show("(h) searches/s, share of vLLM offline", shares, note, Goal(">=", 0.9), **speeds)
    show("(h) searches: output tokens/s, share of vLLM offline", tokens, "the same runs",
         Goal(">=", 0.9))
    show("(h) CLIP encodes an image", [found.num_encoded / num for found, _ in runs],
         "the same runs", Goal("<=", 1.0))


def _both(searches: Search, engine: RecordingEngine, driver_first: bool) -> tuple[Found, Offline]:
    """Both on the same prompts; offline first means on those of the run before this one."""
    offline = None if driver_first else engine.replay_offline(engine.sent)
    found = searches.run(engine)
    assert found.num_encoded == len(searches.items)
    assert len(engine.sent) == sum(row.num_calls for row in found.rows)
    assert sum(sent.params.n for sent in engine.sent) >= num_sampled(found.rows)
    return found, offline or engine.replay_offline(engine.sent)


@pytest.fixture(scope="module")
def alike(searches: Search) -> Search:
    """The searches with the image as it is alone: both ways then ask as often."""
    return searches._replace(settings=without_looks(searches.settings))


@pytest.fixture(scope="module")
def reference(alike: Search, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """The reference's way with as many threads as all our engines have; one search was made."""
    folder = tmp_path_factory.mktemp("reference")
    workload, settings = alike.workload, alike.settings
    process = OldTransformers(
        workload.model, Path(resolve_encoder(settings.scorer)), settings.model_dump(mode="json"),
        folder, max(1, int(workload.config.engine.num_cpus)))
    made = Reference(process, alike, folder)
    made.run(seconds=0.0)
    yield made
    process.close()


def test_search_against_the_references_way(
        alike: Search, reference: Reference, engine: RecordingEngine) -> None:
    runs = []
    for _ in range(RUNS):
        found = alike.run(engine)
        runs.append(Compared(len(found.rows) / found.played.seconds, found.rows, reference.run()))
    _show(runs, "(i)", f"{len(alike.items)} searches on one engine of "
                       f"{alike.workload.config.engine.num_cpus:g} cores")


def test_pool_of_searches_against_the_references_way(
        reference: Reference, tmp_path: Path, repo: Path) -> None:
    fewer, more = POOL_SEARCHES
    runs, starts = [], []
    for number in range(RUNS):
        few, many = (_pooled(tmp_path / f"{number}-{num}", num, repo)
                     for num in POOL_SEARCHES)
        speed = (more - fewer) / (many.seconds - few.seconds)
        runs.append(Compared(speed, many.rows, reference.run()))
        starts.append(few.seconds - fewer / speed)
    engine = load_config(SEARCHING).engine
    _show(runs, "(j)", f"{more} searches less {fewer} on a pool of {engine.num_actors} engines of "
                       f"{engine.num_cpus:g} core, which takes {spread(starts)} s to start")


def _pooled(root: Path, num: int, repo: Path) -> Pooled:
    """A pool of its own searches for replies to *num* images, in processes of its own."""
    ended = subprocess.run([sys.executable, "-m", "tests.bench.search_pool", str(root), str(num)],
                           cwd=repo, env={**plain_environment(), "PYTHONPATH": str(repo)},
                           text=True, capture_output=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    store = Store(str(root))
    return Pooled(float(json.loads(ended.stdout.splitlines()[-1])),
                  list(read_rows(store, read_manifest(store, PREFIX), SearchRow)))


class Compared(NamedTuple):
    """Our searches/s and what was found, and a few searches in the reference's way."""

    speed: float
    rows: Sequence[SearchRow]
    timed: Sequence[Timed]

    @property
    def reference(self) -> float:
        """Searches/s of the reference's way."""
        return len(self.timed) / sum(each.seconds for each in self.timed)

    def times(self, num_sentences: int) -> float:
        """So many sentences of ours a second, by those of the reference's way."""
        ours = num_sentences / len(self.rows) * self.speed
        theirs = sum(each.num_sentences for each in self.timed) / len(self.timed)
        return ours / (theirs * self.reference)


def _show(runs: Sequence[Compared], mark: str, what: str) -> None:
    """The three figures of a comparison: by searches, by sentences sampled, by sentences kept."""
    image_tokens = runs[0].rows[0].num_image_tokens // runs[0].rows[0].num_calls
    note = (f"{image_tokens} image tokens, {RUNS} alternating runs of {what}, and of "
            f"{spread([len(each.timed) for each in runs])} of the reference's way in one process; "
            f"{spread([each.speed for each in runs])} and "
            f"{spread([each.reference for each in runs])} searches/s")
    show(f"{mark} searches/s, times the reference's way",
         [each.speed / each.reference for each in runs], note, Goal(">=", 20))
    show(f"{mark} sentences/s sampled, times the reference's way",
         [each.times(num_sampled(each.rows)) for each in runs],
         "the same runs; of equal siblings each counts")
    show(f"{mark} sentences/s kept, times the reference's way",
         [each.times(num_nodes(each.rows)) for each in runs],
         "the same runs; of equal siblings one counts; diverse beams make few equal")


def num_nodes(rows: Iterable[SearchRow]) -> int:
    """Sentences of all trees."""
    return sum(len(row.nodes) - 1 for row in rows)


def num_sampled(rows: Iterable[SearchRow]) -> int:
    """The same before equal siblings became one."""
    return sum(len(row.nodes) - 1 + row.num_merged for row in rows)
