"""A world for testing the contrastive method without a model.

`Imaginer` knows the default prompts and criteria: it writes questions, checks them, replies under a
criterion (or to a bare clear question) and judges, as its fields say. Programs run through the real
driver.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from model_ops.criteria import Criterion, load_criteria
from model_ops.engines import pool
from model_ops.engines.driver import SCORER, Driver, Outcome, drive
from model_ops.engines.job import ProgramJob
from model_ops.engines.player import SEEDED, ShardRun
from model_ops.engines.scripted import ScriptedEngine, reply_with
from model_ops.programs.asking import AskSettings, ask_question
from model_ops.programs.calls import Call, Generate, Reply, Sample, Sampling
from model_ops.programs.context import JobContext
from model_ops.programs.contrastive_messages import question_messages
from model_ops.programs.imagining import imagine
from model_ops.prompts import load_prompts
from schemas.config import EngineConfig, ImagineConfig, QuestionsConfig
from schemas.manifest import Manifest
from schemas.questions import CLEAR, QUESTION_TYPES
from schemas.rows import AskedRow, ImaginedRow, SlotRow
from schemas.store import Store
from tests.model_ops.bits_world import image

CRITERIA = load_criteria("default")
PROMPTS = load_prompts("default")
DESIRED = {
    "False Premise": "There is no cat on the sofa, it is a dog.",
    "Unanswerable Questions": "That cannot be told from the picture.",
    "Subject Ambiguity": "Do you mean the red car or the blue one?",
    "Subjective Interpretations": "There are two lamps. Compared with what should I judge it?",
    "Unclear User Background": "The man is tall. How tall are you?",
    "Hidden Human Preferences": "The beach is sunny. What do you like to wear?",
    "Clear": "The umbrella is red.",
}
UNDESIRED = dict.fromkeys(QUESTION_TYPES, "It is a fluffy Persian of three years.") | {
    "Clear": "I cannot tell. Which one do you mean?"}


@dataclass
class Imaginer:
    """Answers every call of the method; the fields say how."""

    question: Callable[[str, int], str] = lambda kind, seed: f"What about {kind} number {seed}?"
    is_of_kind: float = 0.9
    desired: dict[str, str] = field(default_factory=lambda: dict(DESIRED))
    undesired: dict[str, str] = field(default_factory=lambda: dict(UNDESIRED))
    finish: str = "stop"
    calls: list[Generate] = field(default_factory=list)

    def __call__(self, call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        self.calls.append(call)
        text, choices = call.messages[-1].parts[-1], call.sampling.choices
        if choices == ("yes", "no"):
            return self._chosen(call, (self.is_of_kind, 1 - self.is_of_kind))
        if choices:
            right = any(said in text for said in self.desired.values())
            return self._chosen(call, (0.8, *[0.1] * (len(choices) - 1)) if right
                                else (0.1, *[0.9 / (len(choices) - 1)] * (len(choices) - 1)))
        if call.sampling.json_schema:
            kind = next(kind for kind in QUESTION_TYPES if f'"{kind}"' in text)
            return reply_with(call, json.dumps({"question": self.question(kind, seed), "why": ""}))
        return self._imagined(call, text)

    def _chosen(self, call: Generate, probs: tuple[float, ...]) -> Reply:
        assert call.sampling.choices
        best = len(probs) - 1 if probs[0] < 0.5 else 0
        return Reply((Sample(call.sampling.choices[best], 1, -0.1, "stop", probs),), 20, 1, 9)

    def _imagined(self, call: Generate, text: str) -> Reply:
        criterion, replies = self._asked_for(call, text)
        sample = Sample(replies[criterion.question_type], 5, -2.0, self.finish)
        return Reply((sample,) * call.sampling.num_samples, 30, 1, 9)

    def _asked_for(self, call: Generate, text: str) -> tuple[Criterion, dict[str, str]]:
        for criterion in CRITERIA.criteria.values():
            if criterion.desired in text:
                return criterion, self.desired
            if criterion.undesired in text:
                return criterion, self.undesired
        assert is_bare(call), f"no criterion in {text!r}"
        return CRITERIA.of(CLEAR), self.desired


def is_bare(call: Generate) -> bool:
    """Whether the model is asked as a user asks it: no criterion, its own reward word, greedily."""
    question = call.messages[-1].parts[-1]
    sampling = Sampling(max_tokens=call.sampling.max_tokens)
    return call == Generate(question_messages(PROMPTS, question), call.images, sampling)


def slot(number: int, question_type: str, question: str | None = None) -> SlotRow:
    """A slot about the picture of a number."""
    return SlotRow(row_id=f"slot-{number}", image=image(number // 4 % 64, number % 4), seed=0,
                   question_type=question_type, question=question)


def asked(number: int, question_type: str, question: str = "What is it?") -> AskedRow:
    """An asked question about the picture of a number."""
    return AskedRow(
        row_id=f"asked-{number}", round=1, stage="00-contrastive", model_digest="m",
        prompt_version=PROMPTS.digest, seed=7, image=image(number // 4 % 64, number % 4),
        question_type=question_type, question=question, source="model")


def imagined(number: int, question_type: str, **changes: Any) -> ImaginedRow:
    """A reply imagined twice, such as every filter lets pass."""
    values: dict[str, Any] = {
        "row_id": f"imagined-{number}", "round": 1, "stage": "00-contrastive", "model_digest": "m",
        "prompt_version": PROMPTS.digest, "seed": 7, "image": image(number // 4 % 64, number % 4),
        "question_type": question_type, "question": f"What is number {number}?",
        "desired": DESIRED[question_type], "undesired": UNDESIRED[question_type],
        "desired_logprob": -1.0, "undesired_logprob": -2.0, "desired_finish": "stop",
        "undesired_finish": "stop", "desired_label": "True", "undesired_label": "False",
        "desired_probability": 0.8, "undesired_probability": 0.1,
        "criteria_version": CRITERIA.digest, "num_calls": 4, "num_prompt_tokens": 100,
        "num_output_tokens": 20, "num_image_tokens": 9}
    return ImaginedRow(**{**values, **changes})


def ask_context(
    config: QuestionsConfig | None = None, criteria: str = "default", prompts: str = "default"
) -> JobContext[AskSettings]:
    """What `ask_question` is told."""
    settings = AskSettings(questions=config or QuestionsConfig(), criteria=criteria)
    return JobContext(load_prompts(prompts), settings, 1, "00-contrastive", "model-digest", 7)


def imagine_context(config: ImagineConfig | None = None) -> JobContext[ImagineConfig]:
    """What `imagine` is told."""
    return JobContext(PROMPTS, config or ImagineConfig(), 1, "00-contrastive", "model-digest", 7)


def ask_all(
    slots: Iterable[SlotRow], answer: Any, context: JobContext[AskSettings] | None = None
) -> list[Outcome]:
    """Ask through the real driver; outcomes in the order of the slots."""
    programs = [(s.row_id, ask_question(s, context or ask_context())) for s in slots]
    return _in_order(programs, answer)


def imagine_all(
    rows: Iterable[AskedRow], answer: Any, context: JobContext[ImagineConfig] | None = None
) -> list[Outcome]:
    """Imagine through the real driver; outcomes in the order of the questions."""
    programs = [(row.row_id, imagine(row, context or imagine_context())) for row in rows]
    return _in_order(programs, answer)


def _in_order(programs: list[tuple[str, Any]], answer: Any) -> list[Outcome]:
    ended = {o.key: o for o in drive(programs, {"": ScriptedEngine(answer)}, 16, 3)}
    return [ended[key] for key, _ in programs]


def run_here(answer: Any) -> Callable[..., Manifest]:
    """Stands in for `pool.run_programs`: the same shards, receipts and manifest, without Ray."""

    def run(store: Store, items: Manifest, images: Manifest, job: ProgramJob,
            engine: EngineConfig, prefix: str, on_progress: Any = None) -> Manifest:
        artifact = pool._Artifact(store, pool.PoolWork(items, images, job, prefix), engine)
        for index in artifact.missing:
            scripted = ScriptedEngine(answer)
            shard = ShardRun(store, pool.PoolWork(items, images, job, prefix),
                             artifact.inputs_digest, index, {"": scripted, SCORER: scripted})
            driver = Driver()
            for program in shard.programs():
                driver.add(*program)
            while driver.num_live:
                for outcome in driver.step():
                    shard.take(outcome.tag[1], outcome)
            artifact.add(shard.commit({SEEDED: 1.0, "actor_seconds": 2.0}))
        return artifact.published()

    return run
