"""What loading weights prints."""
import pytest

from ovdense.compat import weights


@pytest.fixture
def printed(monkeypatch) -> list[str]:
    """List of the messages that loading weights gives to the log."""
    messages: list[str] = []
    monkeypatch.setattr(weights, "print_log", lambda message, logger: messages.append(message))
    return messages
