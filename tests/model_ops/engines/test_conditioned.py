"""Who is asked with which reward word."""

import pytest

from model_ops.engines import player
from model_ops.engines.conditioned import ConditionedEngine, conditioned
from model_ops.engines.driver import Result
from model_ops.engines.job import LocalModel, PoolWork, ProgramJob, inputs_digest
from model_ops.engines.scripted import ScriptedEngine
from model_ops.programs.calls import IMAGE, Call, Generate, Message, Reply, Sampling, Score
from schemas.config import EngineConfig
from schemas.errors import DropError
from schemas.manifest import Manifest
from schemas.rows import ImageRef
from schemas.store import Store
from tests.model_ops.engines.plays import HERE

REF = ImageRef(image_id="i", shard=0, row=0)
ASKED = (Message("user", (IMAGE, "what is this ?")),)


def call(reward: str | None = None) -> Generate:
    return Generate(ASKED, (REF,), Sampling(max_tokens=9), prefix="it", seat="judge", reward=reward)


def said(asked: Call) -> str:
    assert isinstance(asked, Generate)
    return asked.messages[-1].parts[-1]


def echo(asked: Call, seed: int) -> str:
    return said(asked)


def answer(engine: ConditionedEngine, asked: Call) -> Result:
    engine.submit(7, asked, 0)
    ((number, result),) = engine.step()
    assert number == 7
    return result


@pytest.mark.parametrize(("word", "reward", "heard"), [
    ("", None, "what is this ?"), ("good", None, "good what is this ?"),
    ("good", "", "what is this ?"), ("good", "bad", "bad what is this ?"),
    ("", "good", "good what is this ?")])
def test_the_call_decides_then_the_model(word: str, reward: str | None, heard: str) -> None:
    result = answer(ConditionedEngine(ScriptedEngine(echo), word), call(reward))
    assert isinstance(result, Reply) and result.text == heard


def test_nothing_else_of_a_call_changes_and_twice_is_once() -> None:
    once = conditioned(call(), "good")
    assert isinstance(once, Generate)
    assert (once.images, once.sampling, once.prefix, once.seat) == \
        (call().images, call().sampling, call().prefix, call().seat)
    assert conditioned(once, "good") == once
    assert conditioned(call(), "") is not None and conditioned(call(), "") == call()
    score = Score(REF, ("a cat",))
    assert conditioned(score, "good") is score


def test_a_call_without_a_question_fails_alone() -> None:
    silent = Generate((Message("user", (IMAGE,)),), (REF,))
    with pytest.raises(DropError, match="no_place_for_reward_word"):
        ConditionedEngine(ScriptedEngine(echo), "good").submit(1, silent, 0)


def test_it_is_the_engine_within_otherwise() -> None:
    inner = ScriptedEngine(echo)
    engine = ConditionedEngine(inner, "good")
    assert engine.determinism == "call"
    engine.submit(1, call(), 0)
    engine.close()
    assert inner.step() == []


def work(**words: str) -> PoolWork:
    models = {seat: LocalModel(path=f"scripted:{__name__}:echo", digest="m", reward_word=word)
              for seat, word in words.items()}
    job = ProgramJob(program=f"{HERE}:KIND", prompts="nursery", round=1, stage="s", seed=0,
                     models={"": LocalModel(path=f"scripted:{__name__}:echo", digest="m"),
                             **models})
    items = Manifest(kind="questions", prefix="q", inputs_digest="q")
    return PoolWork(items, Manifest(kind="images", prefix="i", inputs_digest="i"), job, "out")


def test_each_seat_is_asked_with_its_models_word(local_store: Store) -> None:
    (engines,) = player.build_seats(local_store, [work(worded="good", again="good")],
                                    EngineConfig())
    assert engines["worded"] is engines["again"] is not engines[""]
    heard = {}
    for number, (seat, engine) in enumerate(engines.items()):
        engine.submit(number, call(), 0)
        ((_, result),) = engine.step()
        assert isinstance(result, Reply)
        heard[seat] = result.text
    assert heard == {"": "what is this ?", "worded": "good what is this ?",
                     "again": "good what is this ?"}


def test_a_word_is_part_of_a_jobs_identity() -> None:
    digests = [inputs_digest(work(seat=word), EngineConfig()) for word in ("", "good", "bad")]
    assert len(set(digests)) == 3
