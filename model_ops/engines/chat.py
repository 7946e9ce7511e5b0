"""From chat messages to the token ids that a model continues.

Its one idea: a message tuple is rendered and tokenised once, and whatever follows the prompt (a
prefix, a choice) is tokenised in its place, by the model's own template. Expanding an image's
placeholder into image tokens is left to the engine.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from model_ops.engines.choosing import Tokens
from model_ops.programs.calls import IMAGE, Generate, Message
from schemas.errors import DropError

_PROBE = "probe"
_TAIL = 64
_CONTEXT_TOKENS = 8
_CLOSING = " \t\r\n\"'\u201d\u2019)]}*_`"
"""What may stand behind a sentence's end in the same token."""


def to_conversation(messages: Sequence[Message], plain: bool = False) -> list[dict[str, Any]]:
    """The message list of transformers' chat templates; *plain*: content as one string."""
    if plain:
        return [{"role": m.role, "content": "\n".join(m.parts)} for m in messages]
    return [{"role": m.role, "content": [
        {"type": "image"} if part == IMAGE else {"type": "text", "text": part} for part in m.parts
    ]} for m in messages]


def load_processor(path: Path | str) -> Any:
    """A model's processor, for training and inference alike.

    Where the tokenizer begins a text with BOS and the chat template does not (LLaVA's), the
    template gets it: a rendered prompt is tokenised without special tokens.
    """
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(path)
    tokenizer = getattr(processor, "tokenizer", processor)
    bos, template = tokenizer.bos_token, getattr(processor, "chat_template", None)
    if not bos or not isinstance(template, str):
        return processor
    asked = to_conversation((Message("user", (_PROBE,)),), plain=tokenizer is processor)
    if (tokenizer.encode(_PROBE)[:1] == [tokenizer.bos_token_id]
            and bos not in processor.apply_chat_template(asked, tokenize=False)):
        processor.chat_template = bos + template
    return processor


class ChatRenderer:
    """A model's chat template and tokenizer, with a memory of what was rendered before."""

    def __init__(self, path: Path | str) -> None:
        self._processor = load_processor(path)
        self._tokenizer: Any = getattr(self._processor, "tokenizer", self._processor)
        self._plain = self._tokenizer is self._processor
        self.end_id: int = self._tokenizer.eos_token_id
        self._lead = self._find_lead()
        self._render = lru_cache(maxsize=4096)(self._render_text)
        self._prompt_ids = lru_cache(maxsize=8192)(self._tokenise_prompt)
        self._choices = lru_cache(maxsize=1024)(self._tokenise_choices)
        self.stop_tokens = lru_cache(maxsize=64)(self._find_stop_tokens)

    def prompt_ids(self, call: Generate) -> list[int]:
        """Token ids of the call's prompt, one placeholder per image, its prefix included.

        Raises `DropError` (`placeholder_mismatch`) if placeholders and images differ in number.
        """
        placeholders = sum(part == IMAGE for m in call.messages for part in m.parts)
        if placeholders != len(call.images):
            raise DropError("placeholder_mismatch",
                            f"{placeholders} placeholders, {len(call.images)} images")
        return list(self._prompt_ids(call.messages, call.prefix))

    def choice_tokens(self, call: Generate) -> Sequence[Tokens]:
        """The tokens of each of the call's `choices`, in the place where the reply begins."""
        assert call.sampling.choices
        text = self._render(call.messages)
        if call.prefix:
            return self._choices((text + self._begun(call.prefix))[-_TAIL:], "",
                                 call.sampling.choices)
        return self._choices(text[-_TAIL:], self._lead, call.sampling.choices)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of sampled tokens, special tokens left out."""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text

    def decode_after(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> str:
        """The same of tokens that go on from *prompt_ids*: with the white space before them."""
        before = list(prompt_ids[-_CONTEXT_TOKENS:])
        return self.decode([*before, *token_ids])[len(self.decode(before)):]

    def _find_stop_tokens(self, ends: tuple[str, ...]) -> Mapping[int, str]:
        """The tokens that end with one of *ends*, closing quotes and the like behind it allowed,
        and with which; none for an end of several characters, or that no token spells alone."""
        single = {end for end in ends if len(end) == 1 and end not in _CLOSING}
        special = set(self._tokenizer.all_special_ids)
        texts = {token: self.decode([token]).rstrip(_CLOSING)
                 for raw, token in self._tokenizer.get_vocab().items()
                 if token not in special and any(end in raw for end in single)}
        spelled = single & {text.strip() for text in texts.values()}
        return {token: text[-1] for token, text in texts.items() if text[-1:] in spelled}

    def _template(self, messages: Sequence[Message], generation: bool) -> str:
        text: str = self._processor.apply_chat_template(
            to_conversation(messages, self._plain), add_generation_prompt=generation,
            tokenize=False)
        return text

    def _render_text(self, messages: tuple[Message, ...]) -> str:
        return self._template(messages, generation=True)

    def _find_lead(self) -> str:
        """What the template puts between the generation prompt and a reply: mostly nothing."""
        asked = (Message("user", (_PROBE,)),)
        prompt = self._template(asked, generation=True)
        whole = self._template((*asked, Message("assistant", (_PROBE,))), generation=False)
        if not whole.startswith(prompt):
            return ""
        lead = whole[len(prompt):].partition(_PROBE)[0]
        return lead if lead.isspace() else ""

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _tokenise_prompt(self, messages: tuple[Message, ...], prefix: str) -> tuple[int, ...]:
        text = self._render(messages)
        return tuple(self._encode(text + self._begun(prefix)))

    def _begun(self, prefix: str) -> str:
        """A reply that begins with *prefix*; one that was sampled has its lead already."""
        return self._lead + prefix if prefix and not prefix[0].isspace() else prefix

    def _tokenise_choices(self, tail: str, lead: str,
                          choices: tuple[str, ...]) -> Sequence[Tokens]:
        before = self._encode(tail)
        sequences = []
        for choice in choices:
            whole = self._encode(tail + lead + choice)
            kept = whole[:len(before)] == before
            tokens = whole[len(before):] if kept else self._encode(lead + choice)
            sequences.append((*tokens, self.end_id))
        return sequences
