"""replay: put the records that earlier rounds kept before those of this round."""

from __future__ import annotations

from itertools import chain, islice

from distillgen.flow.stage import CHUNK, CheckContext, Chunks, Job, Stage
from distillgen.stages._rounds import ITEM, kept_of


class Replay(Stage):
    """Inside `rounds`: put the records that earlier rounds kept before those of this round.

    So a student is trained on the records of all rounds. The earlier records are not counted again, and
    do not leave with this round.
    """

    kind = "replay"
    scope = "set"
    reads = "the records that the earlier rounds kept"
    writes = "nothing"

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError outside a round."""
        context.need(ITEM, "'replay', which stands inside 'rounds',")
        return context.fields

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Yield the records of earlier rounds, then those of this one."""
        earlier = chain.from_iterable(map(kept_of, job.context.earlier))
        while some := list(islice(earlier, CHUNK)):
            yield some
        async for chunk in chunks:
            yield chunk
