"""The error boundary of the command line: one line on stderr, the exit code of the error's kind."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner

import hcompile
from hcompile import errors
from hcompile.cli.main import main


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.fixture
def failing() -> Iterator[list[BaseException]]:
    """Add a command `fail` that raises the exception put into the list."""
    exceptions: list[BaseException] = []

    @main.command("fail")
    def fail() -> NoReturn:
        raise exceptions[0]

    yield exceptions
    del main.commands["fail"]


@pytest.mark.parametrize(
    ("kind", "code"),
    [(errors.UsageError, 2), (errors.BudgetError, 3), (errors.KernelError, 4), (errors.EnvironmentFault, 5)],
)
def test_own_error_is_one_line_with_its_exit_code(
    runner: CliRunner, failing: list[BaseException], kind: type[errors.HCompileError], code: int
) -> None:
    failing.append(kind("model x.pt: cut off\nat byte 12: fetch it again"))
    result = runner.invoke(main, ["fail"])
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "Error: model x.pt: cut off at byte 12: fetch it again\n"


def test_unexpected_error_is_one_line_that_says_how_to_see_more(
    runner: CliRunner, failing: list[BaseException]
) -> None:
    failing.append(ZeroDivisionError("division by zero"))
    result = runner.invoke(main, ["fail"])
    assert (result.exit_code, result.stdout) == (1, "")
    expected = (
        "Error: unexpected ZeroDivisionError: division by zero (hcompile --traceback ... shows where)\n"
    )
    assert result.stderr == expected


@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), errors.UsageError("wrong")])
def test_traceback_option_lets_the_error_through(
    runner: CliRunner, failing: list[BaseException], error: Exception
) -> None:
    failing.append(error)
    assert runner.invoke(main, ["--traceback", "fail"]).exception is error


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tune", "Interrupted: what was measured is kept, and the same command goes on from there.\n"),
        ("bench", "Interrupted.\n"),
    ],
)
def test_interrupt_says_whether_work_is_kept(
    runner: CliRunner,
    failing: list[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    expected: str,
) -> None:
    failing.append(KeyboardInterrupt())
    monkeypatch.setitem(main.commands, name, main.commands["fail"])
    result = runner.invoke(main, [name])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", expected)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_being_told_to_end_is_an_interrupt(runner: CliRunner, number: signal.Signals) -> None:
    def harmless(*_: object) -> None: ...

    @main.command("wait")
    def wait() -> None:
        signal.raise_signal(number)

    before = signal.signal(number, harmless)
    try:
        assert runner.invoke(main, ["wait"]).exit_code == 130
        assert signal.getsignal(number) is harmless
    finally:
        signal.signal(number, before)
        del main.commands["wait"]


def test_warning_is_one_line_on_stderr(runner: CliRunner) -> None:
    @main.command("warn")
    def warn() -> None:
        warnings.simplefilter("always")
        warnings.warn("tuned on\nanother machine", stacklevel=1)

    try:
        result = runner.invoke(main, ["warn"])
    finally:
        del main.commands["warn"]
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Warning: tuned on another machine\n")


def test_unknown_command_is_a_usage_error(runner: CliRunner) -> None:
    result = runner.invoke(main, ["optimise"])
    assert result.exit_code == 2
    assert "No such command 'optimise'" in result.stderr


def test_version_is_the_package_s(runner: CliRunner) -> None:
    assert runner.invoke(main, ["--version"]).stdout == f"hcompile, version {hcompile.__version__}\n"


def test_every_command_explains_itself(runner: CliRunner) -> None:
    for name, command in sorted(main.commands.items()):
        assert runner.invoke(main, [name, "--help"]).exit_code == 0
        assert command.help
        for option in command.params:
            assert not isinstance(option, click.Option) or option.help, f"{name} --{option.name} has no help"
