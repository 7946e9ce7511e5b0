"""The programs by name: how a job, which travels as plain text, finds what to run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from model_ops.benchmarks.chair import ChairBenchmark, describe_item
from model_ops.benchmarks.game import GameBenchmark, play_item
from model_ops.benchmarks.pie import PieBenchmark, answer_and_judge, judge_again
from model_ops.benchmarks.vqa import VqaBenchmark, answer_item
from model_ops.programs.asking import AskSettings, ask_question
from model_ops.programs.calls import Program
from model_ops.programs.dialog import play
from model_ops.programs.imagining import imagine
from model_ops.programs.rehearsing import reply_by_itself
from model_ops.programs.searching import search
from schemas.config import DialogPlayConfig, ImagineConfig, RehearsalConfig, SearchConfig
from schemas.rows import (
    AskedRow,
    CaptionItemRow,
    GameRow,
    ImaginedRow,
    ItemRow,
    PieReplyRow,
    PieRow,
    QuestionRow,
    Row,
    SlotRow,
    TranscriptRow,
)
from schemas.searches import DescribedRow, DescriptionRow, SearchRow


@dataclass(frozen=True, slots=True)
class ProgramKind:
    """A program: `factory(item, context)` and the types that it takes and makes."""

    factory: Callable[..., Program[Any]]
    item_type: type[Row]
    row_type: type[Row]
    settings_type: type[BaseModel]


PROGRAMS: Mapping[str, ProgramKind] = {
    "dialog": ProgramKind(play, GameRow, TranscriptRow, DialogPlayConfig),
    "game_benchmark": ProgramKind(play_item, GameRow, ItemRow, GameBenchmark),
    "ask_question": ProgramKind(ask_question, SlotRow, AskedRow, AskSettings),
    "imagine": ProgramKind(imagine, AskedRow, ImaginedRow, ImagineConfig),
    "rehearse": ProgramKind(reply_by_itself, DescriptionRow, DescribedRow, RehearsalConfig),
    "search": ProgramKind(search, DescriptionRow, SearchRow, SearchConfig),
    "pie": ProgramKind(answer_and_judge, PieRow, ItemRow, PieBenchmark),
    "pie_judge": ProgramKind(judge_again, PieReplyRow, ItemRow, PieBenchmark),
    "vqa": ProgramKind(answer_item, QuestionRow, ItemRow, VqaBenchmark),
    "pope": ProgramKind(answer_item, QuestionRow, ItemRow, VqaBenchmark),
    "chair": ProgramKind(describe_item, CaptionItemRow, ItemRow, ChairBenchmark),
}
