"""What tests expect of the messages that users read."""

from typing import Any

import pytest


def error_line(result: Any) -> str:
    """The one line in which a script ended. result: what the fixture `run_script` gives."""
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert result.code == 1
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err
    return lines[0]


def one_line(error: pytest.ExceptionInfo) -> str:
    """The message of a caught exception, after checking that it is one line that says something."""
    message = str(error.value)
    assert message.strip()
    assert "\n" not in message
    return message
