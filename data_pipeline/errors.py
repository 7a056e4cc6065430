# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can cause, their exit codes, and how a command ends on them.

Every such error carries one message: what is wrong, where, and what to do. A command prints that
message alone and leaves with the error's exit code (the numbers follow BSD `sysexits.h`), so that
a launcher can tell "start me again" (75, 76) from "fix something first" (64, 65, 73, 74, 78).
"""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

EXIT_PREEMPTED = 75
EXIT_PEER_LOST = 76


class UserError(Exception):
    """A problem the user can solve; `exit_code` is the status the command ends with."""

    exit_code = 70


class UsageError(UserError):
    """The command line makes no sense."""

    exit_code = 64


class DataError(UserError):
    """Text, vocabulary, store, checkpoint or labels hold something unusable."""

    exit_code = 65


class OutputError(UserError):
    """The place to write to cannot be created or is in use."""

    exit_code = 73


class DiskError(UserError):
    """Reading or writing failed on the way: disk full, file vanished."""

    exit_code = 74


class Preempted(UserError):
    """The run was asked to stop; everything is saved and the same command resumes it."""

    exit_code = EXIT_PREEMPTED


class PeerLost(UserError):
    """Another process of the run did not come or is gone; the same command resumes the run."""

    exit_code = EXIT_PEER_LOST


class ConfigError(UserError):
    """The configuration has an unknown key, a wrong type or values that contradict each other."""

    exit_code = 78


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    """Parses flags, turning what absl and config_flags raise into one line and an exit code."""
    try:
        rest = flags.FLAGS(list(arguments))
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)  # at INFO, Orbax tells of every file it reads
        return rest
    except flags.Error as error:
        raise UsageError(f"{error}\nTry --help.") from error
    except FileNotFoundError as error:
        raise UsageError(f"--config names a file that does not exist: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # config_flags raises these for a --config.key that does not exist or has another type.
        raise ConfigError(str(error).strip("'\"")) from error


def run_command(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` as an absl command; a `UserError` ends it with its message and exit code."""
    try:
        app.run(main, flags_parser=_parse_flags)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
