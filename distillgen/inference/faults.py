"""How asking fails: what passes, what a request causes, and what ends a run."""

from __future__ import annotations

from typing import ClassVar

from distillgen.errors import DistillgenError
from distillgen.inference.request import Completion

CONNECTIONS = 4  # tries to connect to an endpoint that has never answered, about 3 s


class Retryable(Exception):
    """The endpoint could not answer now; `retry_after_s` is what it asked for, in seconds. `used` is what is billed, or may
    be, although there is no answer.
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
    """No connection could be made. Where an endpoint has never answered, that is tried so many times."""

    tries: ClassVar[int] = CONNECTIONS


class TimedOut(Retryable):
    """No answer came in time; tried twice, because a third wait is rarely better."""


class Rejected(Exception):
    """The endpoint will not answer this request, whatever is done; the row fails and its neighbours go on. `used` is what
    is billed all the same.
    """

    def __init__(self, message: str, *, used: Completion | None = None) -> None:
        super().__init__(message)
        self.used = used


class TeacherDown(DistillgenError):
    """No request can succeed until a person acts: a wrong key, a wrong address, a server that is down."""
