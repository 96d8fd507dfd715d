"""Addresses of an endpoint, and their state while it is asked."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from distillgen.errors import ConfigError
from distillgen.teachers._credentials import check_header, credentials, further_secrets, trimmed

if TYPE_CHECKING:
    pass

OFFICIAL = "https://api.openai.com/v1"


class Address(BaseModel):
    """Where an endpoint is and what it is shown."""

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

    @field_validator("headers")
    @classmethod
    def _trim_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        return {name: trimmed(value) for name, value in headers.items()}

    def credentials(self) -> set[str]:
        """What opens the endpoint, as it is sent."""
        return credentials(self.api_key, self.headers, self.base_url)

    def secrets(self) -> set[str]:
        """What opens the endpoint, and all values of headers and their words."""
        return self.credentials() | further_secrets(self.headers)

    def check(self, root: Path) -> None:
        """Raise ConfigError where the address is not one or the official endpoint has no key."""
        with suppress(ValueError):  # a port above 65535, half an IPv6 address
            parts = urlsplit(self.base_url)
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
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
        """Where a path below the address is; the address's own query (`?api-version=…`) goes with it."""
        base, _, query = self.base_url.partition("?")
        path, _, own = path.partition("?")
        both = "&".join(filter(None, (query, own)))
        return f"{base.rstrip('/')}/{path}{f'?{both}' if both else ''}"

    @property
    def local(self) -> bool:
        """Whether it is on this machine, which no proxy can reach."""
        return urlsplit(self.base_url).hostname in ("localhost", "127.0.0.1", "::1")

    def proxy(self) -> str:
        """A clause that names the proxy of the environment that is between, if any."""
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
    """An address in use. `served` counts requests by weight; until `rests_until` others are asked instead; it is `down` from
    when it says that a person must act until it answers or is out of reach. `forbidden` counts statuses 403 in a row.
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
    """Azure's own name for the key's header."""
    host = urlsplit(address.base_url).hostname or ""
    return {"api-key": address.api_key} if address.api_key and host.endswith(".azure.com") else {}
