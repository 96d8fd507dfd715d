"""The machine on which the product runs in virtual time: all that is replaced in it is named here."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import sqlite3
import sys
import time
from collections.abc import Coroutine, Iterator
from typing import Any
from unittest import mock

import pyreqwest.client

from distillgen.inference import ledger, sqlite_store
from distillgen.runs import execute
from tests.simulator.provider import ClientBuilder
from tests.simulator.world import Connection, Thread, World

MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""A folder in memory, if there is one: what syncs to the disk is tested elsewhere."""

connect = sqlite3.connect


@contextlib.contextmanager
def simulated(world: World) -> Iterator[None]:
    """Replace what the product asks of the machine. Of the product itself only three things are changed,
    which cost time and are no part of its promises: the size of the reserve file, the lock file, and
    `usage.json` during a run.
    """
    state, logging_off, hooks = random.getstate(), logging.root.manager.disable, sys.get_asyncgen_hooks()
    random.seed(world.draw.random())
    logging.disable(logging.CRITICAL)
    sys.set_asyncgen_hooks(lambda agen: None, lambda agen: None)
    gc.disable()
    World._running = world
    try:
        with (
            mock.patch.object(ledger, "Worker", Thread),
            mock.patch.object(
                sqlite3, "connect", lambda *args, **more: connect(*args, factory=Connection, **more)
            ),
            mock.patch.object(pyreqwest.client, "ClientBuilder", ClientBuilder),
            mock.patch.object(time, "monotonic", world.monotonic),
            mock.patch.object(time, "time", world.wall),
            mock.patch.object(os, "getpid", lambda: world.current.number),
            mock.patch.object(os, "kill", world.send_signal),
            mock.patch.object(sqlite_store, "RESERVE_BYTES", 1),
            mock.patch.object(sqlite_store, "_refuse_network", lambda path: None),
            mock.patch.object(execute, "_write_lock", lambda *args: None),
            mock.patch.object(execute, "_save_state", lambda live: asyncio.sleep(1e9)),
        ):
            yield
    finally:
        gc.enable()
        World._running = None
        sys.set_asyncgen_hooks(*hooks)
        logging.disable(logging_off)
        random.setstate(state)


def in_virtual_time(coroutine: Coroutine[Any, Any, Any], seed: int = 0) -> Any:
    """Run a coroutine on a machine without faults; return its result."""
    world = World(seed)
    with simulated(world):
        process = world.start("test")
        task = process.start(coroutine)
        world.run(task.done, float("inf"))
        return task.result()
