"""The calibrated method's prompts: the texts that ask for a description, and a text as messages.

The search asks with `description_messages`, its training rows and the CHAIR benchmark as well: a
model is trained on, measured by and used with the same words.
"""

from model_ops.programs.calls import IMAGE
from model_ops.programs.messages import Messages, system_and_user
from model_ops.prompts import Prompts
from schemas.errors import ConfigError

_KEY = "calibrated.describe_"


def description_texts(prompts: Prompts) -> list[str]:
    """The set's own questions for a description, by number. Raises `ConfigError` without any."""
    keys = [key for key in prompts.texts if key.startswith(_KEY)]
    if not keys:
        raise ConfigError(f"the prompt set {prompts.name!r} has no text {_KEY}1: add it to "
                          f"model_ops/prompts/{prompts.name}/calibrated.yaml, or give prompts.uri")
    return [prompts.text(key) for key in sorted(keys, key=lambda key: int(key[len(_KEY):]))]


def description_messages(prompts: Prompts, question: str) -> Messages:
    """One image and the bare question, after the set's system message if it has one."""
    return system_and_user(prompts, "calibrated.system", (IMAGE, question))
