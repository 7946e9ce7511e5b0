"""Who was live when an engine died: how a program that kills engines is told from the others.

Its one idea: what was live at two deaths is a suspect and is played alone. If the engine dies once
more, of a suspect alone, after it had answered others, then that program is to blame: it goes to
quarantine and the others end. An engine that answers nobody blames nobody: it keeps dying, which
ends the run. Only deaths that the actor lives to tell are counted; a killed process blames nobody.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from schemas.store import Store

ENGINE_CRASH = "engine_crash"
"""The reason code of what was played alone and killed its engine."""

_SUSPECT = 2


class Deaths(BaseModel):
    """`deaths/<index>-<inputs>.json`: the programs of a shard, by number, that met a death."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    times: dict[int, int] = {}
    """At how many deaths each was live."""

    blamed: dict[int, str] = {}
    """The engine's last words for those that are to blame."""

    @property
    def suspects(self) -> list[int]:
        """Who is to be played alone, the least suspect first (they show that the engine works)."""
        found = [n for n, times in self.times.items() if times >= _SUSPECT and n not in self.blamed]
        return sorted(found, key=lambda number: (self.times[number], number))

    def and_one_more(self, live: Sequence[int], words: str, is_proof: bool) -> "Deaths":
        """After another death; *is_proof* if it was of one suspect alone, on a working engine."""
        times = self.times | {number: self.times.get(number, 0) + 1 for number in live}
        blamed = self.blamed | dict.fromkeys(live if is_proof else (), words)
        return Deaths(times=times, blamed=blamed)


def read_deaths(store: Store, prefix: str, index: int, inputs_digest: str) -> Deaths:
    """What is known of a shard of these inputs."""
    path = _path(prefix, index, inputs_digest)
    return Deaths.model_validate_json(store.read_bytes(path)) if store.exists(path) else Deaths()


def write_deaths(store: Store, prefix: str, index: int, inputs_digest: str,
                 deaths: Deaths) -> None:
    """Leave it for the actor that plays the shard next."""
    path = _path(prefix, index, inputs_digest)
    store.write_bytes(path, deaths.model_dump_json().encode())


def _path(prefix: str, index: int, inputs_digest: str) -> str:
    return f"{prefix}/deaths/{index:05d}-{inputs_digest[:12]}.json"
