"""(f) Self-imagination: its pairs/s as a share of vLLM's own offline speed, without and with judge.
(g) The same against `transformers` generate, one call at a time, both with one sample a reply.

A pair is what the program `imagine` makes of a question: a desired reply in every light,
`num_tries` samples of an undesired one, and two verdicts if it is judged; in (g) one sample of
each reply. Kinds of questions, their proportion and the settings are
those of nursery-contrastive.yaml; the questions are the nursery's own about the
benchmarks' images, `BENCH_QUESTIONS` of them. Offline, `LLM.generate` answers the prompts of the
very run, those to the judge included, all known in advance, with as many samples. The runs
alternate, and each begins with cold caches.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from deploy.commands_run import DEMO
from deploy.console import load_config
from model_ops.engines.driver import Engine
from model_ops.programs.context import JobContext
from model_ops.programs.imagining import imagine
from model_ops.prompts import load_prompts
from model_ops.questions import plan_slots
from schemas.artifacts import read_rows
from schemas.config import ContrastiveStage, ImagineConfig, QuestionsConfig
from schemas.manifest import digest
from schemas.rows import AskedRow, ImaginedRow, SlotRow
from tests.bench.figures import Goal, show, spread
from tests.bench.recorded_prompts import Offline, RecordingEngine
from tests.bench.transformers_engine import TransformersEngine
from tests.bench.workload import Played, Workload, one_engine, rows_by_game, timed

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
CONFIG = DEMO.with_name("nursery-contrastive.yaml")
NUM_QUESTIONS = int(os.environ.get("BENCH_QUESTIONS", "540"))
RUNS = 3
QUESTIONS_ONE_BY_ONE = 24
STAGE = "00-contrastive"


class Imagination(NamedTuple):
    """Questions, and how replies to them are imagined."""

    workload: Workload
    settings: ImagineConfig
    questions: Sequence[AskedRow]

    def run(self, engine: Engine, judge: bool, questions: Sequence[AskedRow] | None = None,
            live: int | None = None) -> Played:
        """Imagine replies to *questions* (default: all)."""
        workload, chosen = self.workload, self.questions if questions is None else questions
        context = JobContext(
            load_prompts(workload.config.model.prompts),
            self.settings.model_copy(update={"judge": judge}), 1, STAGE,
            digest(str(workload.model)), workload.config.seed)
        programs = ((question.row_id, imagine(question, context)) for question in chosen)
        played = timed(workload, engine, programs, live)
        rows = rows_by_game(played)
        assert rows.keys() == {question.row_id for question in chosen}
        assert all(isinstance(row, ImaginedRow) and (row.desired_label is not None) == judge
                   for row in rows.values())
        return played

    @property
    def num_calls(self) -> int:
        """Calls of a pair without verdicts: a desired reply in every light, an undesired one."""
        return len(self.settings.looks) + 2

    @property
    def num_samples(self) -> int:
        """Replies that are sampled for all pairs together."""
        assert self.settings.temperature > 0, "greedy replies are not tried"
        assert self.settings.looks, "desired replies are sampled once in each light"
        return len(self.questions) * (len(self.settings.looks) + 1 + self.settings.num_tries)

    def run_cold(self, engine: RecordingEngine, judge: bool) -> Played:
        """The same with all caches empty before."""
        engine.forget()
        return self.run(engine, judge)


@pytest.fixture(scope="module")
def imagination(workload: Workload, engine: RecordingEngine) -> Imagination:
    """The questions; vLLM has answered a quarter of them once before anything is measured."""
    if not workload.config.images.uri.startswith("nursery://"):
        pytest.skip("the questions are the nursery's own, so the images must be")
    config = load_config(CONFIG)
    measured = (workload.config.model, workload.config.engine)
    assert "BENCH_CONFIG" in os.environ or measured == (config.model, one_engine(config.engine)), (
        f"model and engine are those of {CONFIG.name} no more: give the benchmark an engine of its "
        f"own")
    (stage,) = config.stages
    assert isinstance(stage, ContrastiveStage)
    made = Imagination(workload, stage.imagine,
                       _questions(workload, stage.questions, config.shard_size))
    made.run(engine, judge=True, questions=made.questions[:len(made.questions) // 4])
    return made


def _questions(workload: Workload, config: QuestionsConfig, shard_size: int) -> list[AskedRow]:
    """The configuration's kinds in its proportion, spread over the images."""
    share = NUM_QUESTIONS / sum(config.per_type.values())
    wanted = QuestionsConfig(source="grammar", per_type={
        kind: max(1, round(num * share)) for kind, num in config.per_type.items()})
    seed = workload.config.seed
    slots = plan_slots(workload.store, workload.images, wanted, seed, "slots", shard_size)
    return [AskedRow(row_id=slot.row_id, round=1, stage=STAGE, model_digest="", prompt_version="",
                     seed=seed, image=slot.image, question_type=slot.question_type,
                     question=slot.question or "", source="grammar")
            for slot in read_rows(workload.store, slots, SlotRow)]


@pytest.mark.parametrize("judge", [False, True], ids=["unjudged", "judged"])
def test_imagination_as_a_share_of_vllm_offline(
        imagination: Imagination, engine: RecordingEngine, judge: bool) -> None:
    runs = [_both(imagination, engine, judge, driver_first=number % 2 == 0)
            for number in range(RUNS)]
    num = len(imagination.questions)
    _check_what_was_asked(imagination, runs, judge)
    pairs = [offline.seconds / played.seconds for played, offline in runs]
    tokens = [played.num_tokens / played.seconds * offline.seconds / offline.num_tokens
              for played, offline in runs]
    speeds = {"driver_pairs_per_second": [num / played.seconds for played, _ in runs],
              "offline_pairs_per_second": [num / offline.seconds for _, offline in runs]}
    note = (f"{RUNS} alternating runs of {num} questions, "
            f"{spread([played.num_calls for played, _ in runs])} calls; driver "
            f"{spread(speeds['driver_pairs_per_second'])} pairs/s, offline "
            f"{spread(speeds['offline_pairs_per_second'])} pairs/s")
    name = "(f) judged pairs" if judge else "(f) imagined pairs"
    show(f"{name}/s, share of vLLM offline", pairs, note, Goal(">=", 0.9), **speeds)
    show(f"{name}: output tokens/s, share of vLLM offline", tokens, "the same runs",
         Goal(">=", 0.9))


def _check_what_was_asked(
        imagination: Imagination, runs: Sequence[tuple[Played, Offline]], judge: bool) -> None:
    """Both sides had the same calls and samples (a verdict may take more requests than one)."""
    num, verdicts = len(imagination.questions), 2 * len(imagination.questions) * judge
    for played, offline in runs:
        assert played.num_calls == imagination.num_calls * num + verdicts
        again = offline.num_calls - played.num_calls
        assert again >= 0 and (judge or not again)
        assert offline.num_samples == imagination.num_samples + verdicts + again


def _both(imagination: Imagination, engine: RecordingEngine, judge: bool,
          driver_first: bool) -> tuple[Played, Offline]:
    """Both on the same prompts; offline first means on those of the run before this one."""
    if driver_first:
        played = imagination.run_cold(engine, judge)
        return played, engine.replay_offline(engine.sent)
    offline = engine.replay_offline(engine.sent)
    return imagination.run_cold(engine, judge), offline


def test_imagination_against_transformers_one_call_at_a_time(
        imagination: Imagination, engine: RecordingEngine) -> None:
    imagination = imagination._replace(
        settings=imagination.settings.model_copy(update={"num_tries": 1, "looks": []}))
    workload, questions = imagination.workload, imagination.questions
    slow = TransformersEngine(workload.model, workload.read,
                              max(1, int(workload.config.engine.num_cpus)))
    imagination.run(slow, judge=False, questions=questions[:2], live=1)
    step = max(RUNS, len(questions) // QUESTIONS_ONE_BY_ONE)  # some of every kind
    runs: list[tuple[float, float]] = []
    for number in range(RUNS):
        few = questions[number::step][:QUESTIONS_ONE_BY_ONE]
        fast = imagination.run_cold(engine, judge=False)
        one_by_one = imagination.run(slow, judge=False, questions=few, live=1)
        assert one_by_one.num_calls == 2 * len(few) and fast.num_calls == 2 * len(questions)
        assert all(sent.params.n == 1 for sent in engine.sent), "one sample a reply, as over there"
        runs.append((len(questions) / fast.seconds, len(few) / one_by_one.seconds))
    slow.close()
    note = (f"{RUNS} alternating runs, {len(questions)} questions against "
            f"{QUESTIONS_ONE_BY_ONE}; driver {spread([fast for fast, _ in runs])} pairs/s, "
            f"transformers {spread([slowly for _, slowly in runs])} pairs/s")
    show("(g) imagined pairs/s, times transformers generate",
         [fast / slowly for fast, slowly in runs], note)
