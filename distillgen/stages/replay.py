"""replay: put the records that earlier rounds kept before those of this round."""

from __future__ import annotations

from itertools import chain, islice

from distillgen.flow.stage import CHUNK, CheckContext, Chunks, Job, Stage
from distillgen.stages._rounds import ITEM, kept_of


class Replay(Stage):
    """Inside `rounds`: put the records that earlier rounds kept before those of this round.

    A student then learns from the records of all rounds. The loop does not count the earlier records again,
    and they do not leave with this round.
    """

    kind = "replay"
    scope = "set"
    remakes = True
    reads = "the records that the earlier rounds kept"
    writes = "nothing"

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if the stage is not inside `rounds`."""
        context.need(ITEM, "'replay', which works only inside 'rounds',")
        return context.fields

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Yield the records of the earlier rounds, then the records of this round."""
        earlier = chain.from_iterable(map(kept_of, job.context.earlier))
        while records := list(islice(earlier, CHUNK)):
            yield records
        async for chunk in chunks:
            yield chunk
