"""The reference's way to search, for comparison: written anew from methods/calibrated_csr.md,
sections 1.3, 2 and 2.2. A program of its own: it runs in the last `transformers` that has the
reference's diverse group beams (`old_transformers` makes that environment and starts it).

One prompt and one node at a time: every call hands image and whole prefix to `generate` anew, five
groups of one beam with a diversity penalty; a second pass unpickles the tree and scores each node
by one CLIP forward of image and sentence; both passes leave a pickle a prompt. The limits are those
of ours. A line of JSON comes in per search and one goes out.
"""

import json
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

DIVERSITY_PENALTY = 3.0
MIN_CHARACTERS = 4


@dataclass
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
    """Searches one prompt after the other, as *job* says."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["num_threads"])
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        path, scorer = job["model"], job["scorer"]
        self._model = AutoModelForImageTextToText.from_pretrained(path).eval().to(self._device)
        self._clip = AutoModel.from_pretrained(scorer).eval().to(self._device)
        self._processor = AutoProcessor.from_pretrained(path)
        self._tokenizer = self._processor.tokenizer
        self._clip_images = AutoImageProcessor.from_pretrained(scorer)
        self._clip_tokens = AutoTokenizer.from_pretrained(scorer)
        self._settings = job["settings"]
        self._folder = Path(job["folder"])
        self._end = self._tokenizer.eos_token_id
        self._stops = self._tokenizer.convert_tokens_to_ids(self._settings["sentence_ends"])

    def search(self, key: str, prompt: str, path: str) -> list[Node]:
        """Both passes over one prompt; the nodes that were scored."""
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        with torch.inference_mode():
            self._keep(key, "sample", self._grow(prompt, picture))
            tree = pickle.loads((self._folder / f"{key}.sample.pkl").read_bytes())
            nodes = [node for node in _below(tree) if len(node.sentence) >= MIN_CHARACTERS]
            for node in nodes:
                node.clip_score = self._fit(picture, node.sentence)
        self._keep(key, "score", tree)
        return nodes

    def _keep(self, key: str, step: str, tree: Node) -> None:
        (self._folder / f"{key}.{step}.pkl").write_bytes(pickle.dumps(tree))

    def _grow(self, prompt: str, picture: Any) -> Node:
        keep_top, keep_bottom = self._settings["keep_top"], self._settings["keep_bottom"]
        root = Node("", "", 0.0, 0)
        active = [root]
        while active:
            grown = []
            for node in active:
                node.children = self._continue(prompt, picture, node)
                grown += [child for child in node.children if not child.is_final]
            if len(grown) >= self._settings["num_continuations"]:
                grown.sort(key=lambda child: -child.score)
                worst = max(keep_top, len(grown) - keep_bottom)
                grown = grown[:keep_top] + grown[worst:]
            active = grown
        return root

    def _continue(self, prompt: str, picture: Any, node: Node) -> list[Node]:
        """One `generate`: so many continuations of one node, each up to a sentence's end."""
        num = self._settings["num_continuations"]
        inputs = self._processor(text=prompt + node.reply, images=[picture], return_tensors="pt",
                                 add_special_tokens=False).to(self._device)
        made = self._model.generate(
            **inputs, do_sample=False, num_beams=num, num_beam_groups=num,
            diversity_penalty=DIVERSITY_PENALTY, num_return_sequences=num,
            eos_token_id=self._stops, pad_token_id=self._tokenizer.pad_token_id,
            max_new_tokens=self._settings["max_sentence_tokens"], return_dict_in_generate=True,
            output_scores=True)
        said = made.sequences[:, inputs["input_ids"].shape[1]:].tolist()
        return [self._child(node, tokens, score)
                for tokens, score in zip(said, made.sequences_scores.tolist(), strict=True)]

    def _child(self, parent: Node, tokens: list[int], score: float) -> Node:
        num = next((place for place, token in enumerate(tokens, 1) if token in self._stops),
                   len(tokens))
        text = self._tokenizer.decode(tokens[:num], skip_special_tokens=True)
        lead = "" if not parent.reply or text[:1].isspace() else " "
        num_tokens = parent.num_tokens + num
        depth = parent.depth + 1
        is_final = (self._end in tokens[:num] or depth >= self._settings["max_sentences"]
                    or num_tokens >= self._settings["max_tokens"])
        return Node(f"{parent.reply}{lead}{text}", text.strip(), parent.score + score, depth,
                    num_tokens, is_final)

    def _fit(self, picture: Any, sentence: str) -> float:
        """100 * cosine, by one forward of the whole CLIP."""
        pixels = self._clip_images(images=[picture], return_tensors="pt").to(self._device)
        tokens = self._clip_tokens(
            [sentence], truncation=True, return_tensors="pt",
            max_length=self._clip.config.text_config.max_position_embeddings).to(self._device)
        return float(self._clip(input_ids=tokens["input_ids"], **pixels).logits_per_image[0, 0])


def _below(node: Node) -> Iterator[Node]:
    """All nodes under *node*."""
    for child in node.children:
        yield child
        yield from _below(child)


def main() -> None:
    """Read the job, then answer each search with its seconds and its number of sentences."""
    reference = ReferenceSearch(json.loads(sys.stdin.readline()))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        nodes = reference.search(**json.loads(line))
        seconds = time.perf_counter() - begun
        scored = sum(node.clip_score is not None for node in nodes)
        print(json.dumps({"seconds": seconds, "scored": scored}), flush=True)


if __name__ == "__main__":
    main()
