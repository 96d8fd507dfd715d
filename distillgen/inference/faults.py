"""Faults of an endpoint: temporary ones, those of one request, and those that end the run."""

from __future__ import annotations

from typing import ClassVar

from distillgen.errors import DistillgenError
from distillgen.inference.request import Completion

CONNECTIONS = 4  # tries to connect to an endpoint that has never answered; they take about 3 s


class Retryable(Exception):
    """A temporary fault. `retry_after_s` is the pause that the endpoint asks for, in seconds. `used` holds
    the tokens that are billed, or may be, although there is no answer.
    """

    def __init__(
        self,
        message: str,
        retry_after_s: float = 0.0,
        *,
        overloaded: bool = False,
        used: Completion | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s, self.overloaded, self.used = retry_after_s, overloaded, used


class Unreachable(Retryable):
    """The connection failed. The run stops after this number of tries if the endpoint has never answered."""

    tries: ClassVar[int] = CONNECTIONS


class TimedOut(Retryable):
    """The answer did not come in time."""


class Rejected(Exception):
    """The endpoint does not answer this request: the row fails, and the others go on. `used` holds the tokens
    that are billed all the same.
    """

    def __init__(self, message: str, *, used: Completion | None = None) -> None:
        super().__init__(message)
        self.used = used


class TeacherDown(DistillgenError):
    """No request can succeed until a person acts: the key or the address is wrong, or the server is down."""


class NothingAsked(TeacherDown):
    """The endpoint did not take the requests, and bills none of them."""
