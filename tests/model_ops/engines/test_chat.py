"""A prefix in its place: what is continued has the ids of what was sampled."""

from pathlib import Path

import pytest

from model_ops.engines.chat import ChatRenderer
from model_ops.programs.calls import IMAGE, Generate, Message, Sampling
from schemas.rows import ImageRef

MODEL = Path(__file__).parents[3] / "model_ops/nursery/weights/vlm"
REF = ImageRef(image_id="i0", shard=0, row=0)


def asked(prefix: str, choices: tuple[str, ...] | None = None) -> Generate:
    message = Message("user", (IMAGE, "describe the image ."))
    return Generate((message,), (REF,), Sampling(choices=choices), prefix)


class Letters(ChatRenderer):
    """A renderer of one letter a token, whose template has a blank before a reply."""

    end_id = 0

    def __init__(self) -> None:
        self._lead = " "
        self._render = lambda messages: "USER: ASSISTANT:"
        self._prompt_ids = self._tokenise_prompt
        self._choices = self._tokenise_choices

    def _encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


@pytest.mark.parametrize(("prefix", "told"), [
    ("", "USER: ASSISTANT:"), ("The", "USER: ASSISTANT: The"), (" The", "USER: ASSISTANT: The"),
    ("\nThe", "USER: ASSISTANT:\nThe"), (" The cat. It", "USER: ASSISTANT: The cat. It")])
def test_the_templates_lead_is_put_before_a_prefix_once(prefix: str, told: str) -> None:
    assert "".join(map(chr, Letters().prompt_ids(asked(prefix)))) == told
    if prefix:
        (sequence,) = Letters().choice_tokens(asked(prefix, ("yes",)))
        assert sequence == (*map(ord, "yes"), 0)


class Bytes(ChatRenderer):
    """A renderer with a byte-level vocabulary in which a full stop stands in several tokens."""

    def __init__(self, *merges: tuple[str, str]) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = ["<end.>", *alphabet, *("".join(merge) for merge in merges)]
        made = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, list(merges)))
        made.decoder = decoders.ByteLevel()
        self._tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end.>")
        self._words = words

    def stops(self, *ends: str) -> dict[str, str]:
        return {self._words[token]: end for token, end in self._find_stop_tokens(ends).items()}

    def ids(self, *words: str) -> list[int]:
        return [self._words.index(word) for word in words]


def test_every_token_that_ends_with_an_end_is_a_stop_whole() -> None:
    chat = Bytes((".", '"'), (".", "\u010a"), (".", "."), (".", "c"), (".", ","), ("?", "!"))
    assert chat.stops(".") == {".": ".", '."': ".", ".\u010a": ".", "..": "."}
    assert chat.stops(".", "!") == chat.stops(".") | {"!": "!", "?!": "!"}


def test_an_end_of_several_tokens_has_no_stop_token() -> None:
    assert Bytes().stops("\n", "\u3002", "...") == {}


def test_what_goes_on_is_decoded_with_the_white_space_before_it() -> None:
    chat = Bytes((".", '"'), ("\u0120", "a"))
    assert chat.decode_after(chat.ids("b"), chat.ids("\u0120a", '."')) == ' a."'


@pytest.mark.slow
def test_text_is_decoded_as_vllm_does_it() -> None:
    chat = ChatRenderer(MODEL)
    reply = "a big red circle at the top left ."
    begun, whole = chat.prompt_ids(asked("")), chat.prompt_ids(asked(reply))
    assert chat.decode_after(begun, whole[len(begun):]) == f" {reply}"
    (stop,) = chat.stop_tokens((".",))
    assert whole[-1] == stop


@pytest.mark.slow
def test_going_on_from_a_prefix_is_going_straight_on() -> None:
    from tokenizers.decoders import DecodeStream

    chat = ChatRenderer(MODEL)
    reply = "a big red circle at the top left . a small blue star at the center ."
    begun, whole = chat.prompt_ids(asked("")), chat.prompt_ids(asked(reply))
    stream, text = DecodeStream(ids=begun, skip_special_tokens=True), ""
    for place in range(len(begun), len(whole)):
        text += stream.step(chat._tokenizer._tokenizer, whole[place]) or ""
        assert chat.prompt_ids(asked(text)) == whole[:place + 1], "vLLM's own text, as a prefix"
    assert text == f" {reply}"
