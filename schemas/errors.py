"""The errors a user can meet. Each says what happened, where, and what to do.

Every class also inherits the standard error that it replaces, and stays picklable (errors cross
process borders in Ray and Prefect), so constructors take the message alone.
"""


class FlywheelError(Exception):
    """Base of all errors raised on purpose by vlm-flywheel."""


class ConfigError(FlywheelError, ValueError):
    """The configuration cannot be run as it is."""


class StoreError(FlywheelError, OSError):
    """An artifact cannot be read or written."""


class LockHeld(FlywheelError, RuntimeError):
    """Another run holds the root; the message names the holder and the lease's end."""


class ChampionConflict(FlywheelError, RuntimeError):
    """The champion pointer changed since it was read (compare-and-swap failed)."""


class EngineError(FlywheelError, RuntimeError):
    """An engine could not start or died."""


class TrainingError(FlywheelError, RuntimeError):
    """A training job ended without a model."""


class DropError(FlywheelError, ValueError):
    """One input or row cannot be used: `reason` is its code, the message its detail.

    Raised inside a program or a check; it ends that row (which goes to quarantine), never a batch.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
