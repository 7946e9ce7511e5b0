"""The reference's way to search, for comparison: written anew from methods/calibrated_csr.md,
sections 1.3, 2 and 2.2.

One prompt and one node at a time: every call hands image and whole prefix to `transformers`
generate anew; a second pass unpickles the tree and scores each node by one CLIP forward of image
and sentence; both passes leave a pickle a prompt. As in ours, continuations are sampled instead of
diverse group beams, which current transformers has not, and the limits are the search's.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_ops.engines.chat import to_conversation
from model_ops.engines.pictures import DECLARED_LIMIT, ReadImage
from model_ops.images import decode
from model_ops.programs.describing import description_messages
from model_ops.programs.sentences import MIN_CHARACTERS
from model_ops.prompts import Prompts
from schemas.config import SearchConfig
from schemas.searches import DescriptionRow


@dataclass(slots=True)
class Node:
    """A sentence: the reply so far, its own text, its cumulative score."""

    reply: str
    sentence: str
    score: float
    depth: int
    num_tokens: int = 0
    is_final: bool = False
    clip_score: float | None = None
    children: "list[Node]" = field(default_factory=list)


class ReferenceSearch:
    """Searches one prompt after the other with the model at *path* and the CLIP at *scorer*."""

    def __init__(self, path: Path, scorer: str, settings: SearchConfig, prompts: Prompts,
                 read: ReadImage, folder: Path, num_threads: int) -> None:
        import torch
        from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

        torch.set_num_threads(num_threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForImageTextToText.from_pretrained(path)
        clip: Any = AutoModel.from_pretrained(scorer)
        self._model, self._clip = (each.eval().to(self._device) for each in (model, clip))
        self._processor: Any = AutoProcessor.from_pretrained(path)
        self._clip_processor: Any = AutoProcessor.from_pretrained(scorer)
        self._tokenizer: Any = self._processor.tokenizer
        self._settings, self._prompts = settings, prompts
        self._read, self._folder = read, folder
        self._end: int = self._tokenizer.eos_token_id
        self._stops = [self._end,
                       *self._tokenizer.convert_tokens_to_ids(settings.sentence_ends)]

    def search(self, item: DescriptionRow) -> list[Node]:
        """Both passes over one prompt; the nodes that were scored."""
        import torch

        picture = decode(self._read(item.image), DECLARED_LIMIT)
        with torch.inference_mode():
            self._keep(item, "sample", self._grow(item, picture))
            tree = pickle.loads((self._folder / f"{item.row_id}.sample.pkl").read_bytes())
            nodes = [node for node in _below(tree) if len(node.sentence) >= MIN_CHARACTERS]
            for node in nodes:
                node.clip_score = self._fit(picture, node.sentence)
        self._keep(item, "score", tree)
        return nodes

    def _keep(self, item: DescriptionRow, step: str, tree: Node) -> None:
        (self._folder / f"{item.row_id}.{step}.pkl").write_bytes(pickle.dumps(tree))

    def _grow(self, item: DescriptionRow, picture: Any) -> Node:
        settings = self._settings
        prompt = self._processor.apply_chat_template(
            to_conversation(description_messages(self._prompts, item.question)),
            add_generation_prompt=True, tokenize=False)
        root = Node("", "", 0.0, 0)
        active = [root]
        while active:
            grown = []
            for node in active:
                node.children = self._continue(prompt, picture, node)
                grown += [child for child in node.children if not child.is_final]
            if len(grown) >= settings.num_continuations:
                grown.sort(key=lambda child: -child.score)
                worst = max(settings.keep_top, len(grown) - settings.keep_bottom)
                grown = grown[:settings.keep_top] + grown[worst:]
            active = grown
        return root

    def _continue(self, prompt: str, picture: Any, node: Node) -> list[Node]:
        """One `generate`: so many continuations of one node, each up to a sentence's end."""
        import torch

        settings = self._settings
        inputs = self._processor(text=prompt + node.reply, images=[picture],
                                 return_tensors="pt", add_special_tokens=False).to(self._device)
        made = self._model.generate(
            **inputs, do_sample=True, temperature=settings.temperature, top_p=settings.top_p,
            top_k=0, num_return_sequences=settings.num_continuations, eos_token_id=self._stops,
            max_new_tokens=settings.max_sentence_tokens, return_dict_in_generate=True,
            output_logits=True)
        said = made.sequences[:, inputs["input_ids"].shape[1]:]
        logprobs = torch.stack(made.logits, 1).float().log_softmax(-1).gather(
            2, said[..., None])[..., 0]
        return [self._child(node, tokens.tolist(), values.tolist())
                for tokens, values in zip(said, logprobs, strict=True)]

    def _child(self, parent: Node, tokens: list[int], logprobs: list[float]) -> Node:
        settings = self._settings
        num = next((place for place, token in enumerate(tokens, 1) if token in self._stops),
                   len(tokens))
        text: str = self._tokenizer.decode(tokens[:num], skip_special_tokens=True)
        lead = "" if not parent.reply or text[:1].isspace() else " "
        num_tokens = parent.num_tokens + num
        depth = parent.depth + 1
        is_final = (tokens[num - 1] == self._end or depth >= settings.max_sentences
                    or num_tokens >= settings.max_tokens)
        return Node(f"{parent.reply}{lead}{text}", text.strip(),
                    parent.score + sum(logprobs[:num]) / num, depth, num_tokens, is_final)

    def _fit(self, picture: Any, sentence: str) -> float:
        """100 * cosine, by one forward of the whole CLIP."""
        clip = self._clip_processor
        pixels = clip.image_processor(images=[picture], return_tensors="pt").to(self._device)
        tokens = clip.tokenizer([sentence], truncation=True, return_tensors="pt",
                                max_length=self._clip.config.text_config.max_position_embeddings)
        return float(self._clip(**pixels, **tokens.to(self._device)).logits_per_image[0, 0])


def _below(node: Node) -> Iterator[Node]:
    """All nodes under *node*."""
    for child in node.children:
        yield child
        yield from _below(child)
