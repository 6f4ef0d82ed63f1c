"""An OpenAI-compatible server as a language model.

The only place that knows the API key; it goes into the header of requests and nowhere else, and whatever a server says
is cleared of it.
"""
import email.utils
import http.client
import json
import os
import random
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from dataclasses import dataclass

from ovdense.text.language_models import AskingError, Chat, Pace

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_MAX_REPLY_BYTES = 2**22
_MAX_BACK_OFF = 60.0
_KEY = re.compile(r"[!-~]+")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class ServerSpec:
    """How a server is asked: `base_url` such as http://127.0.0.1:8000/v1, the `model`, and the settings that are sent (None: the server's own).

    `api_key_env`: the environment variable that holds the key; None for a server without keys. `json_mode` asks for
    JSON by "response_format", which not every server knows. `tries` counts all requests for one answer; the wait after
    a failed one starts at `back_off` seconds and doubles; a Retry-After longer than `max_wait` seconds ends the asking.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    json_mode: bool = False
    requests_per_minute: float | None = None
    timeout: float = 60.0
    tries: int = 6
    back_off: float = 1.0
    max_wait: float = 600.0

    def __post_init__(self) -> None:
        url = urllib.parse.urlsplit(self.base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("the base URL must begin with http:// or https:// and a host, such as http://127.0.0.1:8000/v1, "
                             f"got the scheme {url.scheme!r} and the host {url.hostname!r}")  # fmt: skip
        if "@" in url.netloc or url.query or url.fragment:
            raise ValueError(f"the base URL of {url.hostname} must hold no user, password, query or fragment; a key goes into an environment variable")
        if not self.model.strip():
            raise ValueError("the model must be named; the server knows it under a name such as 'llama-3.1-8b-instruct'")
        for field in ("timeout", "tries", "back_off", "max_wait"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} must be more than 0, got {getattr(self, field)}")


class ChatServer:
    """An OpenAI-compatible server: POST {base_url}/chat/completions. Waits out what passes (429, 5xx, timeouts), and says what does not."""

    max_workers = 64

    def __init__(self, spec: ServerSpec) -> None:
        self.spec, self.pace = spec, Pace(spec.requests_per_minute)
        self.url = spec.base_url.rstrip("/") + "/chat/completions"
        self.name = spec.model if spec.temperature is None else f"{spec.model} at temperature {spec.temperature:g}"
        self._key = _read_key(spec.api_key_env)
        self._opener = urllib.request.build_opener(_NoRedirect)
        url = urllib.parse.urlsplit(spec.base_url)
        if self._key and url.scheme == "http" and url.hostname not in _LOCAL_HOSTS:
            warnings.warn(f"the key is sent in the clear to {url.hostname}: give an https:// base URL if it has one", stacklevel=2)

    def stop(self) -> None:
        """Let threads that wait end with Stopped."""
        self.pace.stopped.set()

    def ask(self, chat: Chat) -> str:
        """Return the answer; AskingError when there is none."""
        spec = self.spec
        body: dict = {"model": spec.model, "messages": [{"role": role, "content": text} for role, text in chat]}
        body |= {k: v for k, v in (("temperature", spec.temperature), ("max_tokens", spec.max_tokens)) if v is not None}
        if spec.json_mode:
            body["response_format"] = {"type": "json_object"}
        data, trouble = json.dumps(body).encode(), ""
        for attempt in range(spec.tries):
            self.pace.wait()
            try:
                return self._content(self._post(data))
            except urllib.error.HTTPError as error:
                trouble, wait = self._http_trouble(error)
            except (TimeoutError, urllib.error.URLError, http.client.HTTPException, OSError) as error:
                trouble, wait = self._no_reply(error), None
            if attempt + 1 < spec.tries:
                back_off = min(spec.back_off * 2**attempt, _MAX_BACK_OFF) * random.uniform(0.75, 1.25)
                self.pace.sleep(back_off if wait is None else wait)
        raise AskingError(f"no answer after {spec.tries} tries: {trouble}", fatal=False)

    def _post(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "ovdense"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        with self._opener.open(urllib.request.Request(self.url, data=data, headers=headers), timeout=self.spec.timeout) as reply:
            return reply.read(_MAX_REPLY_BYTES)

    def _clear(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _content(self, reply: bytes) -> str:
        """Return the answer inside a reply, cleared of the key."""
        try:
            content = json.loads(reply)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            said = self._clear(reply[:4000].decode(errors="replace"))[:200]
            raise AskingError(f"{self.url} must reply in OpenAI's form (choices, message, content), got {said!r}; check the base URL", fatal=True) from None
        return self._clear(content) if isinstance(content, str) else ""

    def _http_trouble(self, error: urllib.error.HTTPError) -> tuple[str, float | None]:
        """Return what the server says and how long it asks to wait; AskingError where trying again is of no use."""
        code, model = error.code, self.spec.model
        try:
            said = self._clear(error.read(2000).decode(errors="replace"))[:300]
        except OSError:
            said = ""
        if code in (408, 429) or code >= 500:
            wait = _retry_after(error.headers.get("Retry-After"))
            if wait is not None and wait > self.spec.max_wait:
                raise AskingError(f"{self.url} asks to wait for {wait:.0f} seconds (HTTP {code}): {said}; run again later", fatal=True) from None
            if wait is not None:
                self.pace.pause(wait)
            return f"HTTP {code} from {self.url}: {said}", wait
        if code in (401, 403):
            key = f"the key in {self.spec.api_key_env}" if self._key else "a request without a key"
            hint = "put a valid one there" if self._key else "put a key into an environment variable and name it with --api-key-env"
            raise AskingError(f"{self.url} refuses {key} (HTTP {code}); {hint}. It says: {said}", fatal=True) from None
        if code == 404:
            raise AskingError(f"{self.url} does not exist or has no model {model!r} (HTTP 404); check the base URL (most end with /v1) and the model. "
                              f"It says: {said}", fatal=True) from None  # fmt: skip
        if 300 <= code < 400:
            target = self._clear(str(error.headers.get("Location")))[:200]
            raise AskingError(f"{self.url} redirects to {target} (HTTP {code}); give that as the base URL if you trust it", fatal=True) from None
        raise AskingError(f"{self.url} does not take the request (HTTP {code}); it says: {said}", fatal=True) from None

    def _no_reply(self, error: Exception) -> str:
        """Return what went wrong on the way; AskingError where nothing listens."""
        reason = getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError):
            raise AskingError(f"nothing listens at {self.spec.base_url} (connection refused); start the server or correct the base URL", fatal=True) from None
        if isinstance(reason, OSError) and type(reason).__name__ in ("gaierror", "SSLCertVerificationError"):
            raise AskingError(f"{self.spec.base_url} cannot be reached: {self._clear(str(reason))}; correct the base URL or the network", fatal=True) from None
        if isinstance(reason, TimeoutError):
            return f"no reply from {self.url} within {self.spec.timeout:g} seconds"
        return f"the connection to {self.url} broke: {self._clear(str(reason)) or type(reason).__name__}"


def _read_key(variable: str | None) -> str | None:
    """Return the key of an environment variable; ValueError, which does not show it, when it is not set or no key."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable} must hold the API key, but it is not set; "
                         "set it, or leave --api-key-env out for a server without keys")  # fmt: skip
    if not _KEY.fullmatch(key):
        raise ValueError(f"the API key in {variable} must be printable ASCII without blanks; it is not, check how it was set")
    return key


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header: a number, or a date; None for none or anything else."""
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if float(value) < float("inf") else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
