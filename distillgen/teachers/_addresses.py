"""Addresses of an endpoint, and their state during a run."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from distillgen.errors import ConfigError
from distillgen.teachers._credentials import check_header, credentials, further_secrets, trimmed

OFFICIAL = "https://api.openai.com/v1"
_URL = re.compile(r"[^\s\x00-\x1f\x7f]+")  # which urlsplit takes, and no client


class Address(BaseModel):
    """The address of an endpoint, with its key and headers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    base_url: str = Field(
        OFFICIAL, description="address of the endpoint, up to and without /chat/completions"
    )
    api_key: str | None = Field(
        None, description="key, as ${NAME} of an environment variable; never written to a file"
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="further HTTP headers; never written to a file"
    )
    weight: float = Field(
        1.0, gt=0, description="share of the requests that this address gets, relative to the others"
    )

    @field_validator("api_key")
    @classmethod
    def _trim(cls, key: str | None) -> str | None:
        return None if key is None else trimmed(key)

    @field_validator("base_url")
    @classmethod
    def _single_slash(cls, url: str) -> str:
        return url.replace(".azure.com//", ".azure.com/")  # the variable of the address ends with a slash

    @field_validator("headers")
    @classmethod
    def _trim_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        return {name: trimmed(value) for name, value in headers.items()}

    def credentials(self) -> set[str]:
        """Return the keys of the endpoint in each form in which they are sent."""
        return credentials(self.api_key, self.headers, self.base_url)

    def secrets(self) -> set[str]:
        """Return the keys of the endpoint, and all values of headers and their words."""
        return self.credentials() | further_secrets(self.headers)

    def check(self, root: Path) -> None:
        """Raise ConfigError if the address is malformed or the official endpoint has no key."""
        with suppress(ValueError):  # a port above 65535, half an IPv6 address
            parts = urlsplit(self.base_url)
            fits = _URL.fullmatch(self.base_url)
            if fits and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
                if self.base_url.rstrip("/") == OFFICIAL and not self.api_key:
                    raise ConfigError("api.openai.com needs a key: api_key: ${OPENAI_API_KEY}")
                if self.api_key is not None and not self.api_key:
                    remedy = "set the variable that it names, or leave it out where the endpoint needs none"
                    raise ConfigError(f"'api_key' is empty; {remedy}")
                check_header("api_key", "authorization", self.api_key or "")
                for name, value in self.headers.items():
                    check_header(f"headers.{name}", name, value)
                return
        raise ConfigError(f"'base_url' {self.base_url!r} is not an address like http://localhost:8000/v1")

    def url(self, path: str) -> str:
        """Return the URL of a path below the address, with the query of the address (`?api-version=…`)."""
        base, _, query = self.base_url.partition("?")
        path, _, path_query = path.partition("?")
        query = "&".join(filter(None, (query, path_query)))
        return f"{base.rstrip('/')}/{path}{f'?{query}' if query else ''}"

    @property
    def local(self) -> bool:
        """Whether the address is on this machine, which no proxy can reach."""
        return urlsplit(self.base_url).hostname in ("localhost", "127.0.0.1", "::1")

    def proxy(self) -> str:
        """Return a clause that names the proxy for this address, or ""."""
        from urllib.request import getproxies, proxy_bypass

        parts, proxies = urlsplit(self.base_url), getproxies()
        between = urlsplit(proxies.get(parts.scheme) or proxies.get("all") or "")
        if self.local or not between.hostname or proxy_bypass(parts.hostname or ""):
            return ""
        port = f":{between.port}" if between.port else ""
        name = f"{parts.scheme}_proxy" if proxies.get(parts.scheme) else "all_proxy"
        around = f"NO_PROXY={parts.hostname} does without it"
        return f", through the proxy {between.hostname}{port} that {name.upper()} names ({around})"

    @property
    def identity(self) -> str:
        """The address without credentials, query or trailing slash."""
        parts = urlsplit(self.base_url)
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
        return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


@dataclass
class Place:
    """An address in use. `served` counts requests divided by weight. Until `rests_until`, other addresses are
    used. It is `down` if a person must act, until it answers again. `forbidden` counts statuses 403 in a row.
    """

    address: Address
    client: Any = None
    package: Any = None
    urls: dict[str, str] = field(default_factory=dict)
    forbidden: int = 0
    served: float = 0.0
    rests_until: float = 0.0
    down: bool = False


def azure_headers(address: Address) -> dict[str, str]:
    """Return Azure's own header for the key."""
    host = urlsplit(address.base_url).hostname or ""
    return {"api-key": address.api_key} if address.api_key and host.endswith(".azure.com") else {}
