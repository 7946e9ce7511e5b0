"""The reward word of a model: put into every prompt that the model answers.

Its one idea: a model that was trained with a reward word (objective `crl`) is asked with it,
whoever asks and through whichever engine, so no program has to know how the model was trained. The
word is put in by the function that training uses (`model_ops.programs.reward`); which word it is,
the model's manifest says.
"""

from dataclasses import replace

from model_ops.engines.driver import Engine, Result
from model_ops.programs.calls import Call, Generate
from model_ops.programs.reward import with_reward_word
from schemas.errors import DropError


class ConditionedEngine:
    """*engine*, asked with *word* before each question unless a call says otherwise (see
    `Generate.reward`). Several may share an engine: call ids tell their replies apart."""

    def __init__(self, engine: Engine, word: str) -> None:
        self._engine = engine
        self._word = word

    @property
    def determinism(self) -> str:
        """That of the engine within."""
        return self._engine.determinism

    def submit(self, call_id: int, call: Call, seed: int | None) -> None:
        """Take a call. Raises `DropError` (`no_place_for_reward_word`) if the word has no place in
        its messages, and what the engine raises."""
        self._engine.submit(call_id, conditioned(call, self._word), seed)

    def step(self) -> list[tuple[int, Result]]:
        """Step the engine."""
        return self._engine.step()

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


def conditioned(call: Call, word: str) -> Call:
    """*call* as the model is asked it: with its own reward word, else with *word*, the model's.

    What is done is marked (`reward` is "" afterwards), so that doing it twice changes nothing.
    """
    if not isinstance(call, Generate):
        return call
    wanted = word if call.reward is None else call.reward
    if not wanted:
        return call
    try:
        return replace(call, messages=with_reward_word(call.messages, wanted), reward="")
    except ValueError as error:
        raise DropError("no_place_for_reward_word", str(error)) from error
