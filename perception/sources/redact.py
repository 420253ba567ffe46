"""Takes credentials out of any text that a person, a log or a message will see."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

_HIDDEN = "***"
_SECRET_KEY = (
    r"(?:[\w-]*(?:passw(?:or)?d|passphrase|pwd|secret|token|api[-_]?key|auth(?:orization)?)|user-pw|pass|pw|key|sig"
    r"|signature|psk)"
)
# Greedy up to the last @: a password may hold @ and / unescaped, and hiding too much is the safe mistake.
_USER_INFO = re.compile(r"://\S*@")
_KEY_VALUE = re.compile(rf"(?i)\b({_SECRET_KEY}=)(\"[^\"]*\"|'[^']*'|[^&;\s\"']+)")
_HEADER = re.compile(r"(?i)\b((?:proxy-)?authorization:\s*(?:basic|bearer|digest)?\s*)[^\s'\"]+")
_IS_SECRET_KEY = re.compile(rf"(?i){_SECRET_KEY}")
_SHORTEST_SECRET = 4


def redact(text: str) -> str:
    """The text with `user:password@`, secret query values and authorization headers replaced by `***`."""
    text = _USER_INFO.sub(f"://{_HIDDEN}@", text)
    text = _KEY_VALUE.sub(rf"\g<1>{_HIDDEN}", text)
    return _HEADER.sub(rf"\g<1>{_HIDDEN}", text)


def secrets_of(url: str) -> tuple[str, ...]:
    """The credentials in one URL, as written and unquoted, longest first: to find them where no URL is around them."""
    try:
        parts = urlsplit(url)
        found = [parts.password or ""]
    except ValueError:
        return ()
    found += [value for key, value in parse_qsl(parts.query) if _IS_SECRET_KEY.fullmatch(key)]
    spellings = {spelling for secret in found for spelling in (secret, unquote(secret))}
    return tuple(sorted((s for s in spellings if len(s) >= _SHORTEST_SECRET), key=len, reverse=True))


def one_line(text: str, url: str = "") -> str:
    """The text on one line, at most 300 characters, without credentials, those of `url` wherever they stand."""
    for secret in secrets_of(url):
        text = text.replace(secret, _HIDDEN)
    text = " ".join(redact(text).split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def shown(url: str) -> str:
    """A source setting as people may see it."""
    return one_line(url, url)
