"""(h) Search: its searches/s as a share of vLLM's own offline speed, and CLIP encodes an image.
(i) Searches/s against the reference's way (`reference_search`), which takes one node at a time.

A search is what the program `search` makes of a description: a tree of sentences, each with its
log-probability and its cosine, at the settings of nursery-calibrated.yaml, in (i) with the image
as it is alone, so that both ways ask as often; one search for each of `NUM_SEARCHES` images.
Offline, `LLM.generate` answers the prompts of the very run, each level's prefixes included, all
known in advance, with as many samples; it scores nothing, so the scorer's seconds (told in the
note) count against the driver. The runs alternate, and each begins with cold caches.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.console import load_config
from model_ops.engines.chat import to_conversation
from model_ops.engines.clip_scorer import ClipScorer, encoder_identity, resolve_encoder
from model_ops.engines.driver import Result
from model_ops.grouping import read_refs
from model_ops.programs.context import JobContext
from model_ops.programs.describing import description_messages, description_texts
from model_ops.programs.searching import search
from model_ops.prompts import load_prompts
from schemas.config import CalibratedStage, SearchConfig
from schemas.manifest import digest
from schemas.rows import row_id
from schemas.searches import DescriptionRow, SearchRow
from tests.bench.figures import Goal, show, spread
from tests.bench.old_transformers import OldTransformers, Timed
from tests.bench.recorded_prompts import Offline, RecordingEngine
from tests.bench.workload import SEARCHING, Played, Workload, rows_by_game, timed

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]
NUM_SEARCHES = 192
RUNS = 3
SEARCHES_ONE_BY_ONE = 3
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


class Found(NamedTuple):
    """One timed run: its trees, and what the scorer did."""

    played: Played
    rows: list[SearchRow]
    num_encoded: int
    scoring: float

    @property
    def num_nodes(self) -> int:
        """Sentences of all trees."""
        return sum(len(row.nodes) - 1 for row in self.rows)

    @property
    def num_sampled(self) -> int:
        """The same before equal siblings became one."""
        return self.num_nodes + sum(row.num_merged for row in self.rows)


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
            f"{spread([found.num_nodes / num for found, _ in runs])} sentences each; driver "
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
    assert sum(sent.params.n for sent in engine.sent) >= found.num_sampled
    return found, offline or engine.replay_offline(engine.sent)


def test_search_against_the_references_way(
        searches: Search, engine: RecordingEngine, tmp_path: Path) -> None:
    alike = searches.settings.model_copy(update={"looks": [], "scorer_look": None})
    searches = searches._replace(settings=alike)
    workload, items = searches.workload, searches.items
    reference = OldTransformers(
        workload.model, Path(resolve_encoder(alike.scorer)), alike.model_dump(mode="json"),
        tmp_path, max(1, int(workload.config.engine.num_cpus)))
    runs = []
    try:
        _slowly(reference, searches, items[:1], tmp_path)
        for number in range(RUNS):
            few = items[1 + number * SEARCHES_ONE_BY_ONE:][:SEARCHES_ONE_BY_ONE]
            found = searches.run(engine)
            timed = _slowly(reference, searches, few, tmp_path)
            runs.append(Compared(found, timed))
    finally:
        reference.close()
    image_tokens = found.rows[0].num_image_tokens // found.rows[0].num_calls
    note = (f"{image_tokens} image tokens, {RUNS} alternating runs, {len(items)} "
            f"searches against {SEARCHES_ONE_BY_ONE}; driver "
            f"{spread([each.speed for each in runs])} searches/s, reference "
            f"{spread([each.reference for each in runs])}")
    show("(i) searches/s, times the reference's way",
         [each.speed / each.reference for each in runs], note, Goal(">=", 20))
    sampled = [each.times(each.found.num_sampled) for each in runs]
    kept = [each.times(each.found.num_nodes) for each in runs]
    show("(i) sentences/s sampled, times the reference's way", sampled,
         "the same runs; of equal siblings each counts")
    show("(i) sentences/s kept, times the reference's way", kept,
         "the same runs; of equal siblings one counts; diverse beams make few equal")


class Compared(NamedTuple):
    """One run of the driver, and a few searches in the reference's way."""

    found: Found
    timed: Sequence[Timed]

    @property
    def speed(self) -> float:
        """Searches/s of the driver."""
        return len(self.found.rows) / self.found.played.seconds

    @property
    def reference(self) -> float:
        """Searches/s of the reference's way."""
        return len(self.timed) / sum(each.seconds for each in self.timed)

    def times(self, num_sentences: int) -> float:
        """So many sentences of the driver a second, by those of the reference's way."""
        theirs = sum(each.num_sentences for each in self.timed) / len(self.timed)
        return num_sentences / self.found.played.seconds / (theirs * self.reference)


def _slowly(reference: OldTransformers, searches: Search, items: Sequence[DescriptionRow],
            folder: Path) -> list[Timed]:
    """Search for replies to *items* one by one, in the reference's way."""
    from transformers import AutoProcessor

    workload = searches.workload
    processor = AutoProcessor.from_pretrained(workload.model)
    prompts = load_prompts(workload.config.model.prompts)
    made = []
    for item in items:
        picture = folder / f"{item.row_id}.png"
        picture.write_bytes(workload.read(item.image))
        prompt = processor.apply_chat_template(
            to_conversation(description_messages(prompts, item.question)),
            add_generation_prompt=True, tokenize=False)
        made.append(reference.search(item.row_id, prompt, picture))
    return made
