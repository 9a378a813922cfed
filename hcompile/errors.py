"""The errors a user can meet: one line that says what, where and what to do, and the exit code of each kind."""

from __future__ import annotations

from typing import ClassVar


class HCompileError(Exception):
    """Base of every error that hcompile raises on purpose.

    The command line prints the message on one line of stderr and leaves with `exit_code`.
    """

    exit_code: ClassVar[int] = 1


class UsageError(HCompileError):
    """The request or its input is wrong: a missing file, a shape, an option, a damaged archive."""

    exit_code: ClassVar[int] = 2


class BudgetError(HCompileError):
    """The quality budget cannot be held by any plan but the dense one."""

    exit_code: ClassVar[int] = 3


class KernelError(HCompileError):
    """No generated kernel is valid for a node: every candidate failed, or the shape is outside the template."""

    exit_code: ClassVar[int] = 4


class EnvironmentFault(HCompileError):
    """The machine lacks what the work needs: a compiler, a writable database, a library version, disk space."""

    exit_code: ClassVar[int] = 5
