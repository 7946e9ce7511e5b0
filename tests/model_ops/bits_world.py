"""A world for testing games without a model: image k shows the bits of a number.

The scripted players are Bayesians who know the world: they ask for the bit that splits what is
left, answer with flip noise, and judge fits by the noise. What a game must then come to is known.
"""

import hashlib
import io
import json
import random
import re
from collections.abc import Iterable
from functools import cache
from math import prod

from PIL import Image

from model_ops.engines.driver import Outcome, drive
from model_ops.engines.scripted import Answer, ScriptedEngine, reply_with
from model_ops.programs.calls import Call, Generate, Reply, Sample
from model_ops.programs.context import JobContext
from model_ops.programs.dialog import play
from model_ops.prompts import load_prompts
from schemas.config import DialogPlayConfig
from schemas.rows import GameRow, ImageRef, TranscriptRow, row_id

NUM_BITS = 2
NUM_GROUPS = 64
_NUMBERS: dict[str, int] = {}
_PAIR = re.compile(r"is bit (\d) set \?\s+(?:A: )?(yes|no)")


@cache
def picture(group: int, number: int) -> bytes:
    """The picture of *number* in *group*, as PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (group, 60 * number, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


@cache
def image(group: int, number: int) -> ImageRef:
    """The reference to that picture: the collection's shard 0 holds all, group by group."""
    image_id = hashlib.sha256(picture(group, number)).hexdigest()
    _NUMBERS[image_id] = number
    return ImageRef(image_id=image_id, shard=0, row=group * 4 + number)


def bits_of(ref: ImageRef) -> list[bool]:
    """What an image shows."""
    return [bool(_NUMBERS[ref.image_id] >> bit & 1) for bit in range(NUM_BITS)]


def games(num_games: int, num_images: int = 4) -> list[GameRow]:
    """Games over the numbers 0..N-1 in shuffled orders; target positions go round."""
    return [_game(number, num_images) for number in range(num_games)]


def _game(number: int, num_images: int) -> GameRow:
    order = list(range(num_images))
    random.Random(number).shuffle(order)
    target = number % num_images
    nearest = next(
        place for place in range(num_images) if order[place] ^ order[target] == 1
    )
    return GameRow(
        row_id=row_id("game", number=number, images=num_images),
        group_id=f"group-{number % NUM_GROUPS:02d}",
        images=[image(number % NUM_GROUPS, shown) for shown in order],
        target=target,
        grouping="test",
        mean_similarity=0.5,
        seed=number,
        nearest=nearest,
    )


def context(rules: DialogPlayConfig, prompts: str | None = None) -> JobContext[DialogPlayConfig]:
    """A context with the prompt set that fits the mode."""
    name = prompts or ("default" if rules.guesser == "joint" else "nursery")
    return JobContext(load_prompts(name), rules, 1, "00-dialog", "model-digest", 7)


def outcomes(
    rows: Iterable[GameRow], rules: DialogPlayConfig, answer: Answer, prompts: str | None = None
) -> list[Outcome]:
    """Play through the real driver."""
    programs = ((game.row_id, play(game, context(rules, prompts))) for game in rows)
    return list(drive(programs, {"": ScriptedEngine(answer)}, 16, 3))


def transcripts(
    rows: Iterable[GameRow], rules: DialogPlayConfig, answer: Answer, prompts: str | None = None
) -> list[TranscriptRow]:
    """The transcripts of games that all end well."""
    ended = outcomes(rows, rules, answer, prompts)
    assert all(outcome.error is None for outcome in ended), [o.error for o in ended]
    return [outcome.row for outcome in ended if outcome.row is not None]


class Bayesians:
    """Both players; *flip* is the chance that an answer is wrong."""

    def __init__(self, flip: float) -> None:
        self.flip = flip
        self.calls: list[Generate] = []

    def __call__(self, call: Call, seed: int) -> Reply:
        assert isinstance(call, Generate)
        self.calls.append(call)
        text = call.messages[-1].parts[-1]
        if call.seat == "describer":
            return self._answer(call, text, random.Random(seed))
        if call.sampling.choices == ("yes", "no"):
            return self._verdict(call, text)
        if call.sampling.choices:
            return reply_with(call, str(self._best(call, text) + 1))
        if '"summary"' in text:
            return reply_with(call, self._decision(call, text))
        question = f"is bit {self._next_bit(text)} set ?"
        joint = call.sampling.json_schema is not None
        return reply_with(call, json.dumps({"question": question}) if joint else question)

    def _answer(self, call: Generate, text: str, rng: random.Random) -> Reply:
        bit = int(re.findall(r"is bit (\d) set", text)[-1])
        truth = bits_of(call.images[0])[bit]
        said = [truth != (rng.random() < self.flip) for _ in range(call.sampling.num_samples)]
        return reply_with(call, *["yes" if answer else "no" for answer in said])

    def _likelihood(self, ref: ImageRef, text: str) -> float:
        shown = bits_of(ref)
        pairs = _PAIR.findall(text)
        return prod(
            (1 - self.flip) if shown[int(bit)] == (said == "yes") else self.flip
            for bit, said in pairs
        )

    def _verdict(self, call: Generate, text: str) -> Reply:
        fits = self._likelihood(call.images[0], text)
        sample = Sample("yes" if fits >= 0.5 else "no", 1, 0.0, "stop", (fits, 1 - fits))
        return Reply((sample,), 20, 1, 9)

    def _posterior(self, call: Generate, text: str) -> list[float]:
        likelihoods = [self._likelihood(ref, text) for ref in call.images]
        return [likelihood / (sum(likelihoods) or 1.0) for likelihood in likelihoods]

    def _best(self, call: Generate, text: str) -> int:
        posterior = self._posterior(call, text)
        return posterior.index(max(posterior))

    def _decision(self, call: Generate, text: str) -> str:
        posterior = self._posterior(call, text)
        best = posterior.index(max(posterior))
        ready = posterior[best] >= 0.9
        statuses = ["fits" if p >= 0.2 else "ruled out" for p in posterior]
        return json.dumps(
            {
                "summary": f"{len(_PAIR.findall(text))} answers",
                "images": statuses,
                "ready": ready,
                "guess": best + 1 if ready else None,
                "confidence": posterior[best],
            }
        )

    def _next_bit(self, text: str) -> int:
        return len(_PAIR.findall(text)) % NUM_BITS


def always_first(call: Call, seed: int) -> Reply | str:
    """A Guesser that always says "1" and a Describer that always says "yes"."""
    assert isinstance(call, Generate)
    text = call.messages[-1].parts[-1]
    if call.seat == "describer":
        return "yes"
    if call.sampling.choices:
        return "1"
    if '"summary"' in text:
        statuses = ["unsure"] * len(call.images)
        return json.dumps(
            {"summary": "", "images": statuses, "ready": True, "guess": 1, "confidence": 1}
        )
    return json.dumps({"question": f"is it {text.count('Q:')} ?"})
