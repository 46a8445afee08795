"""Errors that a user can act on; each has an exit code of the command line.

0 complete, 2 bad input or configuration, 3 incomplete and resumable, 4 refused, 5 verification failed.
"""

from collections.abc import Sequence


def in_one_line(error: BaseException) -> str:
    """The text of an exception in one line, without system error numbers."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


class SubpixmapError(Exception):
    """One or two lines: what, where (item, key, unit, block) and what to do."""

    exit_code = 1


class InputError(SubpixmapError, ValueError):
    """Bad input or configuration; nothing was read or written."""

    exit_code = 2


class Incomplete(SubpixmapError, RuntimeError):
    """Some blocks could not be done; rerun the same command to resume."""

    exit_code = 3


class Refused(SubpixmapError, RuntimeError):
    """Another recipe, input that does not match the card, or a folder used by another live run."""

    exit_code = 4


class VerificationFailed(SubpixmapError, RuntimeError):
    """A file on disk does not match its record."""

    exit_code = 5


def several_problems(problems: Sequence[str], *, advice: str = "") -> InputError:
    """One error for several items: the first three problems, and how many there are."""
    shown = sorted(set(problems))
    more = f" (and {len(shown) - 3} more items)" if len(shown) > 3 else ""
    return InputError("; ".join(shown[:3]) + more + (f"; {advice}" if advice else ""))
