"""The errors that a user can meet. Each message is one line: the value, the rule and the fix."""

from __future__ import annotations


def reason(error: OSError) -> str:
    """What the system says of a file that can't be read or written, as our messages say it."""
    return (error.strerror or str(error)).lower()


class PerceptionError(Exception):
    """Base of every error that this package raises on purpose; the command line prints it and exits with its code."""

    exit_code = 2  # something that the user can mend; a supervisor need not try again


class ConfigError(PerceptionError):
    """A launch file, card or calibration file says something that it may not say."""


class SourceError(PerceptionError):
    """A source of frames can't be opened or read, or ended in a way that it should not."""


class ModelError(PerceptionError):
    """A model file, its card or its engine does not work, or the two contradict each other."""


class DeviceError(PerceptionError):
    """An accelerator is lost, out of memory, or its driver failed: the graph may be right, another engine can serve."""

    exit_code = 1


class NodeFailure(PerceptionError):
    """A running node can't go on; starting it anew may help, so a supervisor should."""

    exit_code = 1


class PromptError(PerceptionError):
    """A prompt, or a wish about a track, that can't be followed."""


class WireError(PerceptionError):
    """Bytes that are not a message of this protocol, or not one of a version that we read."""


class EndpointError(PerceptionError):
    """An endpoint can't be bound or connected: taken by another node, not allowed, or malformed."""


class RecordingError(PerceptionError):
    """A recording can't be read, written or followed: damaged, of another kind or version, or not complete."""


class SnapshotError(PerceptionError):
    """A propagator's state can't be kept or taken up: damaged, of another version, kind, model or setting."""


class SnapshotVersionError(SnapshotError):
    """A propagator's state that another version of this program has kept."""
