"""JSON that may come from anywhere: whatever is wrong with it is one kind of error."""
import json
from collections.abc import Callable
from typing import Any


def loads(text: str | bytes, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Return the content, as `json.loads` does, but with json.JSONDecodeError also for what is nested too deeply and for numbers of thousands of digits.

    UnicodeDecodeError for bytes that are no text; both are ValueErrors.
    """
    try:
        return json.loads(text, object_hook=object_hook)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except RecursionError:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from None
    except ValueError:
        raise json.JSONDecodeError("it holds a number of thousands of digits", "", 0) from None
