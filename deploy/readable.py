"""Rows as people read them: what was said comes first, messages as text, nothing that a terminal
would take for a command (text of models and files is untrusted)."""

from collections.abc import Iterator, Mapping
from typing import Any

SAID = ("question_type", "role", "question", "text", "nodes", "prompt", "desired", "chosen",
        "undesired", "rejected", "completion")
"""Columns that are shown first, in this order."""
GIST_LETTERS = 72


def readable(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Column and text of a row (as plain values)."""
    for name in (*(name for name in SAID if name in row), *(n for n in row if n not in SAID)):
        yield name, plain(_text(row[name]))


def _text(value: Any) -> str:
    """A column as text: messages by line, a search's nodes as a tree."""
    if is_said(value):
        return said(value)
    if _is_tree(value):
        from model_ops.lineage.trees import tree_in_words
        from schemas.searches import SearchNode

        nodes = [SearchNode.model_validate(node) for node in value]
        return f"\n{tree_in_words(nodes, {})}"
    return str(value)


def _is_tree(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(
        isinstance(each, Mapping) and {"node_id", "parent_id"} <= each.keys() for each in value)


def gist(row: Mapping[str, Any]) -> str:
    """What a row is about, in one line; "" if its columns do not say."""
    about = str(row.get("question_type") or row.get("role") or "")
    asked = row.get("question") or row.get("text") or ""
    if not asked and is_said(row.get("prompt")):
        asked = " ".join(part["text"] for part in row["prompt"][-1]["content"] if part.get("text"))
    line = ": ".join(filter(None, (about, " ".join(str(asked).split()))))
    return plain(line if len(line) <= GIST_LETTERS else f"{line[:GIST_LETTERS]}...")


def is_said(value: Any) -> bool:
    """Whether a value is a list of messages as TRL reads them."""
    return isinstance(value, list) and bool(value) and all(
        isinstance(each, Mapping) and {"role", "content"} <= each.keys() for each in value)


def said(messages: list[Any]) -> str:
    """Messages as text, one per line; pictures are named where they stand."""
    return "\n".join(f"{message['role']}: {' '.join(map(_part, message['content']))}"
                     for message in messages)


def _part(part: Mapping[str, Any]) -> str:
    return str(part.get("text") or f"<{part.get('type')}>")


def plain(text: str) -> str:
    """Text without control characters, which are written out as in Python."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1]
                   for letter in text)
