"""Language models that answer one chat at a time: what they all do, and a local folder of transformers. Servers: `chat_server`."""
import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from ovdense.compat.json_text import loads

Role = Literal["system", "user", "assistant"]
Chat = Sequence[tuple[Role, str]]


class AskingError(Exception):
    """No answer can be had. `fatal`: no other question would fare better; the message says what to do."""

    def __init__(self, message: str, *, fatal: bool) -> None:
        super().__init__(message)
        self.fatal = fatal


class Stopped(Exception):
    """The asking was ended from outside."""


class LanguageModel(Protocol):
    """What answers. `name` tells models and their settings apart; `ask` may be called from `max_workers` threads."""

    name: str
    max_workers: int

    def ask(self, chat: Chat) -> str: ...
    def stop(self) -> None: ...


class Pace:
    """Lets requests through evenly, at most `per_minute` (None: at once), and none before the end of a pause."""

    def __init__(self, per_minute: float | None) -> None:
        if per_minute is not None and not per_minute > 0:
            raise ValueError(f"requests per minute must be more than 0, got {per_minute}")
        self._interval = 60 / per_minute if per_minute else 0.0
        self._next, self._lock, self.stopped = 0.0, threading.Lock(), threading.Event()

    def wait(self) -> None:
        """Return when this thread may send; Stopped when `stopped` was set."""
        while True:
            with self._lock:
                now = time.monotonic()
                if now >= self._next:
                    self._next = now + self._interval
                    break
                left = self._next - now
            self.sleep(left)
        if self.stopped.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Let nothing through for that long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Sleep; Stopped as soon as `stopped` is set."""
        if self.stopped.wait(seconds):
            raise Stopped


class LocalModel:
    """A causal language model of a local folder: config.json, safetensors weights and a tokenizer; no code of the folder is run.

    `temperature` None or 0 takes the likeliest word each time. Answers one question at a time.
    """

    max_workers = 1

    def __init__(self, folder: str | Path, *, temperature: float | None = None, max_tokens: int = 256, device: str = "cpu") -> None:
        self.folder = _check_folder(Path(folder).expanduser())
        if max_tokens < 1 or (temperature is not None and temperature < 0):
            raise ValueError(f"max_tokens must be at least 1 and temperature at least 0, got {max_tokens} and {temperature}")
        self.temperature, self.max_tokens, self.device = temperature or 0.0, max_tokens, device
        self.name = f"{self.folder.name} {_fingerprint(self.folder)}" + (f" at temperature {temperature:g}" if temperature else "")
        self._load()

    def _load(self) -> None:
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        local = dict(local_files_only=True, trust_remote_code=False)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(self.folder), **local)
            self._model = AutoModelForCausalLM.from_pretrained(str(self.folder), use_safetensors=True, dtype="auto", **local)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{self.folder} must hold a causal language model and its tokenizer for transformers, but {str(error).splitlines()[0]}") from None
        self._model.eval().to(self.device)
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let `ask` end with Stopped, after the next word."""
        self._stopped.set()

    def ask(self, chat: Chat) -> str:
        """Return the answer."""
        import torch

        if self._stopped.is_set():
            raise Stopped
        ids = self._encode(chat).to(self.device)
        room = getattr(self._model.config, "max_position_embeddings", None)
        if room is not None and ids.shape[1] + self.max_tokens > room:
            raise AskingError(f"{self.folder} has room for {room} tokens, the question and its answer need {ids.shape[1] + self.max_tokens}; "
                              "take another model or fewer --max-tokens", fatal=True)  # fmt: skip
        sampling = dict(do_sample=True, temperature=self.temperature) if self.temperature else dict(do_sample=False)
        pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else self._tokenizer.eos_token_id
        with torch.inference_mode():
            made = self._model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.max_tokens, pad_token_id=pad,
                                        stopping_criteria=[lambda *_: self._stopped.is_set()], **sampling)  # fmt: skip
        if self._stopped.is_set():
            raise Stopped
        text = self._tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()
        return text if self._tokenizer.chat_template else text.split("\n\n")[0].strip()

    def _encode(self, chat: Chat):
        """Return the token ids (1, L) of the chat: in the model's chat form, or as plain text for a model that has none."""
        if self._tokenizer.chat_template:
            messages = [{"role": role, "content": text} for role, text in chat]
            text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            return self._tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        heads = {"system": "", "user": "Question: ", "assistant": "Answer: "}
        return self._tokenizer("\n\n".join(heads[role] + text for role, text in chat) + "\n\nAnswer:", return_tensors="pt")["input_ids"]


def _check_folder(folder: Path) -> Path:
    """Return the folder; FileNotFoundError or ValueError when it does not hold a model that is data only."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"a local language model must be a folder with config.json, *.safetensors and a tokenizer, got {folder}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} must hold its weights as *.safetensors, found none; other formats can run code and are not read")
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in loads((folder / name).read_text(encoding="utf-8")):
            raise ValueError(f"{folder / name} asks for code of its own (auto_map), which is not run; take a model that transformers knows")
    return folder


def _fingerprint(folder: Path) -> str:
    """Return a hash of the configuration and of size and time of the weight files."""
    made = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        made.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return made.hexdigest()[:8]
