"""Answers of language models on disk: a JSONL file that only grows, so that nothing which was paid for is asked again."""
import hashlib
import json
import threading
import warnings
from dataclasses import asdict
from pathlib import Path

from ovdense.compat.atomic import append_whole
from ovdense.compat.json_text import loads
from ovdense.structures import ClassEntry

_KEYS = ("model", "prompt", "class", "name", "answer", "error")


def entry_key(entry: ClassEntry) -> str:
    """Return a hash of everything in a class but its frequency, which no question tells."""
    said = {key: value for key, value in asdict(entry).items() if key != "frequency"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


class AnswerCache:
    """One line an answer, keyed by model, prompt version and class entry; on disk before `add` returns.

    Lines that were cut short (a killed run, a full disk) are passed over with a warning, and so are broken answers, which
    are kept for the reader with what was wrong. Threads may share it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._answers: dict[tuple[str, str, str], str] = {}
        self._lock, self._ends_open = threading.Lock(), False
        if self.path.is_dir():
            raise IsADirectoryError(f"the cache of answers must be a file, got the folder {self.path}")
        if self.path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._answers)

    def _read(self) -> None:
        content = self.path.read_bytes()
        self._ends_open = bool(content) and not content.endswith(b"\n")
        for n, line in enumerate(content.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                row = loads(line)
                if not isinstance(row, dict) or set(row) != set(_KEYS) or not all(isinstance(row[k], str) for k in _KEYS[:-1]):
                    raise ValueError(f"a line must be an object with {', '.join(_KEYS)}")
            except ValueError:
                warnings.warn(f"{self.path}: line {n} is cut short or broken and ignored; its question is asked again", stacklevel=4)
                continue
            if row["error"] is None:
                self._answers[row["model"], row["prompt"], row["class"]] = row["answer"]

    def get(self, model: str, prompt: str, entry: ClassEntry) -> str | None:
        """Return the good answer of the model to the prompt about the class, None when there is none."""
        return self._answers.get((model, prompt, entry_key(entry)))

    def add(self, model: str, prompt: str, entry: ClassEntry, answer: str, error: str | None = None) -> None:
        """Write an answer; `error` says what is wrong with it, None for a good one."""
        key = model, prompt, entry_key(entry)
        row = json.dumps(dict(zip(_KEYS, (*key, entry.name, answer, error))), ensure_ascii=True)
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_whole(self.path, "\n" * self._ends_open + row + "\n")
            self._ends_open = False
            if error is None:
                self._answers[key] = answer
