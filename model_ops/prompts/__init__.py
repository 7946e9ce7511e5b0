"""The prompt sets: versioned YAML files, one folder a set, loaded as one frozen mapping.

The digest over a set's files goes into every row and manifest, so a row can always be traced to
the words that made it. How texts become messages is the programs' business.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import ConfigError

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Prompts:
    """A loaded prompt set. Keys are `<file>.<key>`, such as `dialog.answer`."""

    name: str
    texts: Mapping[str, str]
    digest: str

    def has(self, key: str) -> bool:
        """Whether the set has this text (a set needs only the texts of the modes it serves)."""
        return key in self.texts

    def text(self, key: str, **fields: Any) -> str:
        """The text under *key* with its fields filled in; raises `ConfigError` if it is absent."""
        if key not in self.texts:
            raise ConfigError(
                f"the prompt set {self.name!r} has no text {key!r}: choose a mode that it serves "
                f"or add the text to model_ops/prompts/{self.name}/"
            )
        return self.texts[key].format(**fields)


@cache
def load_prompts(set_name: str) -> Prompts:
    """Load the prompt set *set_name*; its digest is the sha256 over file names and contents."""
    paths = sorted((_FOLDER / set_name).glob("*.yaml"))
    if not paths:
        raise ConfigError(f"there is no prompt set {set_name!r} in {_FOLDER}")
    digest = hashlib.sha256()
    texts: dict[str, str] = {}
    for path in paths:
        content = path.read_bytes()
        digest.update(path.name.encode() + b"\0" + content + b"\0")
        for key, text in yaml.safe_load(content).items():
            texts[f"{path.stem}.{key}"] = str(text)
    return Prompts(set_name, texts, digest.hexdigest())
