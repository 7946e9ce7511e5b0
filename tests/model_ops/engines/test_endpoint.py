"""The endpoint engine against a real HTTP server that speaks (and misspeaks) the API."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from model_ops.engines.driver import Outcome, drive
from model_ops.engines.endpoint import EndpointEngine
from model_ops.programs.calls import Generate, Program, Reply, Sampling
from schemas.config import EngineConfig
from schemas.errors import ConfigError, EngineError
from schemas.rows import ImageRef
from tests.model_ops.engines.plays import ask

Behaviour = Callable[[dict[str, Any], int], tuple[int, Any]]
"""From a request's body and its number to status and body of the answer."""


class Server:
    """A chat completions server whose *behave* a test chooses."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.behave: Behaviour = lambda body, number: (200, completion("fine"))
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = server.take(body)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def take(self, body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            self.requests.append(body)
            number = len(self.requests)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return self.behave(body, number)
        finally:
            with self._lock:
                self._at_once -= 1


def completion(text: str | None, top: dict[str, float] | None = None,
               tokens: dict[str, dict[str, float]] | None = None) -> dict[str, Any]:
    """A reply of one token with the alternatives *top*, or of *tokens* with theirs."""
    tokens = [{"token": token, "logprob": -0.5, "bytes": None, "top_logprobs": [
        {"token": other, "logprob": value, "bytes": None} for other, value in others.items()]}
        for token, others in (tokens or {text: top or {}}).items()]
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "logprobs": {"content": tokens},
                         "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 30, "completion_tokens": 1, "total_tokens": 31}}


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def engine_of(server: Server, **changes: Any) -> EndpointEngine:
    settings = {"max_retries": 0, "timeout_s": 5.0, "max_concurrency": 4, **changes}
    config = EngineConfig(kind="endpoint", base_url=server.url, model_name="m", **settings)
    return EndpointEngine(config, lambda ref: png(ref.image_id))


def one(call: Generate) -> Program[Reply]:
    reply = yield call
    assert isinstance(reply, Reply)
    return reply


def play(server: Server, *calls: Generate, **changes: Any) -> list[Outcome]:
    engine = engine_of(server, **changes)
    try:
        programs = [(f"p{number}", one(call)) for number, call in enumerate(calls)]
        return list(drive(programs, {"": engine}, live=100, run_seed=0))
    finally:
        engine.close()


def look(text: str = "what ?", sampling: Sampling | None = None, prefix: str = "") -> Generate:
    return ask(text, sampling, image=ImageRef(image_id="red", shard=0, row=0), prefix=prefix)


def reason(outcome: Outcome) -> str:
    assert outcome.error is not None
    return outcome.error.reason


def test_images_travel_as_data_urls_and_the_reply_comes_back(server: Server) -> None:
    (outcome,) = play(server, look(sampling=Sampling(temperature=0.5, stop=("\n",))))
    assert outcome.row.text == "fine"
    assert (outcome.row.num_prompt_tokens, outcome.row.samples[0].logprob) == (30, -0.5)
    (body,) = server.requests
    image, text = body["messages"][0]["content"]
    data = base64.b64decode(image["image_url"]["url"].partition("base64,")[2])
    assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (255, 0, 0)
    assert text == {"type": "text", "text": "what ?"}
    assert (body["temperature"], body["stop"], body["model"]) == (0.5, ["\n"], "m")
    assert isinstance(body["seed"], int)
    assert not body.keys() & {"logprobs", "top_logprobs", "response_format"}


def test_a_seed_is_sent_but_not_promised(server: Server) -> None:
    engine = engine_of(server)
    engine.close()
    assert engine.determinism == "engine"


def test_sentences_cannot_be_searched_for_at_an_endpoint(server: Server) -> None:
    with pytest.raises(ConfigError, match=r"does not tell which text ended .* engine.kind vllm"):
        play(server, look(sampling=Sampling(stop=(".",), keep_stop=True)))
    assert server.requests == []


@pytest.mark.slow
def test_no_more_calls_are_in_flight_than_configured(server: Server) -> None:
    def slow(body: dict[str, Any], number: int) -> tuple[int, Any]:
        time.sleep(0.05)
        return 200, completion("fine")

    server.behave = slow
    outcomes = play(server, *[look() for _ in range(20)], max_concurrency=3)
    assert len(outcomes) == 20
    assert 1 < server.most_at_once <= 3


@pytest.mark.slow
def test_a_passing_error_is_retried(server: Server) -> None:
    server.behave = lambda body, n: (503, {}) if n == 1 else (200, completion("at last"))
    (outcome,) = play(server, look(), max_retries=2)
    assert outcome.row.text == "at last"
    assert len(server.requests) == 2


def test_server_errors_and_nonsense_drop_that_program_only(server: Server) -> None:
    answers: dict[str, tuple[int, Any]] = {
        "500": (500, {"error": {"message": "boom"}}), "html": (200, b"<html>"),
        "empty": (200, {**completion("x"), "choices": []}), "null": (200, completion(None)),
        "list": (200, []), "fine": (200, completion("fine"))}
    server.behave = lambda body, n: answers[body["messages"][0]["content"][1]["text"]]
    outcomes = {o.key: o for o in play(server, *[look(text) for text in answers])}
    assert outcomes.pop("p5").row.text == "fine"
    assert {reason(outcome) for outcome in outcomes.values()} == {"endpoint_error"}


@pytest.mark.slow
def test_a_reply_that_does_not_come_is_a_timeout(server: Server) -> None:
    def never(body: dict[str, Any], number: int) -> tuple[int, Any]:
        time.sleep(1.5)
        return 200, completion("late")

    server.behave = never
    (outcome,) = play(server, look(), timeout_s=0.3)
    assert reason(outcome) == "endpoint_timeout"


def test_a_prompt_that_is_too_long_is_a_context_overflow(server: Server) -> None:
    server.behave = lambda body, n: (400, {"error": {"message": "maximum context length is 9"}})
    (outcome,) = play(server, look())
    assert reason(outcome) == "context_overflow"


def test_a_refused_key_or_model_is_a_dead_engine_not_dropped_rows(server: Server) -> None:
    server.behave = lambda body, n: (401, {"error": {"message": "bad key"}})
    with pytest.raises(EngineError, match=r"refuses model 'm'.*\$OPENAI_API_KEY"):
        play(server, look())


def test_an_endpoint_that_is_down_for_everybody_is_a_dead_engine(server: Server) -> None:
    server.behave = lambda body, n: (502, {})
    with pytest.raises(EngineError, match="20 calls in a row failed"):
        play(server, *[look() for _ in range(40)])


def test_choices_get_probabilities_from_the_first_token(server: Server) -> None:
    top = {" Yes": -0.1, " No": -2.5, "yes": -4.0, "maybe": -5.0}
    server.behave = lambda body, n: (200, completion("Yes.", top))
    (outcome,) = play(server, look(sampling=Sampling(choices=("yes", "no"))))
    sample = outcome.row.samples[0]
    assert sample.text == "yes"
    assert sample.choice_probs[0] == pytest.approx(0.918, abs=0.001)
    assert server.requests[0]["top_logprobs"] == 20


@pytest.mark.parametrize("said", ["I cannot say", "not sure", "A reply. Flag: no", ""])
def test_a_reply_that_is_no_choice_is_dropped_whatever_its_alternatives(
    server: Server, said: str
) -> None:
    top = {said[:1] or "x": -0.01, "y": -9.0, " n": -12.0}
    server.behave = lambda body, n: (200, completion(said, top))
    (outcome,) = play(server, look(sampling=Sampling(choices=("yes", "no"))))
    assert reason(outcome) == "not_a_choice"


@pytest.mark.parametrize("said", ["No", "'no'", " NO.", "no, it is not"])
def test_a_choice_may_be_dressed_up(server: Server, said: str) -> None:
    server.behave = lambda body, n: (200, completion(said, {}))
    (outcome,) = play(server, look(sampling=Sampling(choices=("yes", "no"))))
    assert outcome.row.samples[0].text == "no"


LABELS = ("True", "Ambiguous", "False")
TOP = {'"': -0.05, "**": -0.06, "True": -4.0, "False": -6.0}


@pytest.mark.parametrize(("said", "tokens", "true", "false"), [
    ('"False"', {'"': TOP, "False": {}, '"\n': {}}, 0.0, 1.0),
    ("**False**", {"**": TOP, "False": {"False": -0.1, " True": -2.3}, "**\n": {}}, 0.1, 0.9),
    ('"False"', {'"False': {'"False': -0.1, '"True': -2.3, "True": -0.1}, '"': {}}, 0.1, 0.9),
    ("False", {"False": {"True": -0.1, "I": -0.2}}, 0.0, 1.0),
    ('{"label": "False"}', {'{"': TOP, "label": TOP, '":': TOP, ' "': TOP,
                            "Fal": {"Fal": -0.1, "True": -2.3}, "se": TOP, '"}': TOP}, 0.1, 0.9),
    ("False", {"Tr": TOP, "ue": TOP}, 0.0, 1.0)])
def test_a_label_is_what_the_text_names_and_its_own_token_gives_the_probability(
    server: Server, said: str, tokens: dict[str, dict[str, float]], true: float, false: float
) -> None:
    server.behave = lambda body, n: (200, completion(said, tokens=tokens))
    (outcome,) = play(server, look(sampling=Sampling(choices=LABELS)))
    sample = outcome.row.samples[0]
    assert sample.text == "False"
    assert sample.choice_probs == pytest.approx((true, 0.0, false), abs=0.01)


def test_of_two_choices_that_a_text_begins_with_the_longer_counts(server: Server) -> None:
    server.behave = lambda body, n: (200, completion("red cube"))
    (outcome,) = play(server, look(sampling=Sampling(choices=("red cube", "red"))))
    assert outcome.row.samples[0].text == "red cube"


def test_choices_are_asked_for_as_a_schema_with_room_for_it(server: Server) -> None:
    server.behave = lambda body, n: (200, completion('{ "label" : "no" }'))
    sampling = Sampling(max_tokens=1, choices=("yes", "no"))
    (outcome,) = play(server, look(sampling=sampling))
    assert outcome.row.samples[0].text == "no"
    (body,) = server.requests
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {"label": {"type": "string", "enum": ["yes", "no"]}}
    assert (schema["required"], schema["additionalProperties"]) == (["label"], False)
    assert body["max_tokens"] == 33


@pytest.mark.parametrize("status", [400, 422])
def test_what_an_endpoint_refuses_is_left_out_from_then_on(server: Server, status: int) -> None:
    def picky(body: dict[str, Any], number: int) -> tuple[int, Any]:
        for name in ("response_format", "logprobs"):
            if name in body:
                return status, {"error": {"message": f"{name} is not supported by this model"}}
        return 200, completion("no")

    server.behave = picky
    calls = [look(sampling=Sampling(max_tokens=9, choices=("yes", "no"))) for _ in range(3)]
    outcomes = play(server, *calls, max_concurrency=1)
    assert [outcome.row.samples[0].choice_probs for outcome in outcomes] == [(0.0, 1.0)] * 3
    assert [len(body.keys() & {"response_format", "logprobs"}) for body in server.requests] == [
        2, 1, 0, 0, 0]
    assert server.requests[-1]["max_tokens"] == 9


def test_a_refusal_of_anything_else_is_not_asked_again(server: Server) -> None:
    server.behave = lambda body, n: (400, {"error": {"message": "no pictures, please"}})
    (outcome,) = play(server, look(sampling=Sampling(choices=("yes", "no"))))
    assert (reason(outcome), len(server.requests)) == ("endpoint_error", 1)


def test_a_schema_and_a_prefix_are_passed_on(server: Server) -> None:
    play(server, look(sampling=Sampling(json_schema='{"type": "object"}'), prefix="Sure:"))
    (body,) = server.requests
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert body["messages"][-1] == {"role": "assistant", "content": "Sure:"}
    assert body["continue_final_message"] is True
