"""The environment of the reference's way: an old `transformers`, in a folder of its own.

Diverse group beam search left `transformers` with version 5 (methods/calibrated_csr.md, section 0),
so `reference_search` runs as a process in an environment that has it, on copies of the very models
whose two small settings files are written as the old version reads them.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("transformers==4.49.0", "torch==2.13.0", "numpy", "pillow")
ENVIRONMENT = Path("runs/bench/transformers-4.49")
SCRIPT = Path(__file__).with_name("reference_search.py")


class Timed(NamedTuple):
    """One search: how long it took, and how many sentences were scored."""

    seconds: float
    num_sentences: int


class OldTransformers:
    """A running `reference_search`. To be closed."""

    def __init__(self, model: Path, scorer: Path, settings: dict[str, Any], folder: Path,
                 num_threads: int) -> None:
        job = {"model": str(_as_old(model, folder / "model")), "folder": str(folder),
               "scorer": str(_as_old(scorer, folder / "scorer")), "settings": settings,
               "num_threads": num_threads}
        self._process = subprocess.Popen(
            [str(_python(ENVIRONMENT)), "-W", "ignore", str(SCRIPT)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=plain_environment())
        assert self._ask(job) == "ready"

    def search(self, key: str, prompt: str, picture: Path) -> Timed:
        """Search for replies to *prompt*."""
        answer = self._ask({"key": key, "prompt": prompt, "path": str(picture)})
        return Timed(answer["seconds"], answer["scored"])

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)

    def _ask(self, said: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the reference's search ended (exit {self._process.wait()}), see above"
        return json.loads(answer)


def _python(folder: Path) -> Path:
    """The environment's interpreter; made first if need be."""
    python = folder.absolute() / "bin" / "python"
    if not (folder / "complete").exists():
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert uv, "uv is needed: run `make setup`"
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        _run([uv, "pip", "install", "--quiet", "--python", str(python), *_sources(), *PACKAGES])
        (folder / "complete").touch()
    return python


def _sources() -> list[str]:
    """Where torch comes from, as in deploy/setup.sh."""
    if os.environ.get("PIP_FIND_LINKS"):
        return ["--find-links", os.environ["PIP_FIND_LINKS"]]
    index = os.environ.get("TORCH_INDEX_URL", "https://download.pytorch.org/whl/cpu")
    return ["--extra-index-url", index, "--index-strategy", "unsafe-best-match"]


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)


def plain_environment() -> dict[str, str]:
    """This process's, without what vLLM sets for its own threads."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith(("OMP_", "KMP_", "LD_PRELOAD", "PYTHON"))}


def _as_old(model: Path, folder: Path) -> Path:
    """A copy of *model* with the settings of its processor and tokenizer in the old form; what is
    no folder (a hub id) is taken as it is."""
    if not model.is_dir():
        return model
    shutil.copytree(model, folder)
    settings = folder / "processor_config.json"
    if settings.exists():
        processor = json.loads(settings.read_text())
        images = processor.pop("image_processor", None)
        if images is not None:
            kind = images["image_processor_type"].removesuffix("Pil")
            (folder / "preprocessor_config.json").write_text(json.dumps(
                {**images, "image_processor_type": kind,
                 "processor_class": processor["processor_class"]}))
        settings.write_text(json.dumps(processor))
    settings = folder / "tokenizer_config.json"
    tokenizer = json.loads(settings.read_text())
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        tokenizer["model_input_names"] = ["input_ids", "attention_mask"]
        tokenizer["additional_special_tokens"] = tokenizer.pop("extra_special_tokens", [])
        settings.write_text(json.dumps(tokenizer))
    return folder
