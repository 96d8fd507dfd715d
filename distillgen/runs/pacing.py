"""Pacing under a cost cap: begun rows are finished before further rows begin."""

from __future__ import annotations

import asyncio
import logging

from distillgen.flow.stage import Chunks, Job
from distillgen.inference.limits import Outlook
from distillgen.record import Record
from distillgen.runs.state import Live

log = logging.getLogger("distillgen")

LOOK_S = 0.02  # seconds between two checks whether another row can be paid for
STALL_S = 1.0  # seconds without any progress, after which more rows begin whatever they may cost


async def depth_first(chunks: Chunks, live: Live, job: Job, first: int) -> Chunks:
    """Let a row begin when the remaining money pays for it and for the rest of the begun rows.

    The costs count up to the first stage that sees all rows before one leaves it.
    """
    budget, outlook = live.budget, outlook_of(live, first)
    budget.outlook, begun_rows, source, spare, stall = outlook, 0, "", 0, 1
    ready: list[Record] = []
    async for chunk in chunks:
        for record in chunk:
            if record.source != source:
                source, still_s, before = record.source, 0.0, (0.0, [0])
                while not spare:
                    stages = min(job.services.whole, default=live.last + 1) - first
                    if stages <= 0 or outlook.affords(budget.left_usd, begun_rows + 1, stages):
                        break
                    if ready:
                        yield ready
                        ready = []
                    standing = (budget.spent, [*outlook.finished()])
                    if begun_rows <= standing[1][stages - 1]:  # all begun rows are finished
                        if outlook.measured(stages):
                            raise budget.stop("the next row is likely to cost more than is left")
                        break
                    idle = standing == before and all(teacher.idle for teacher in live.teachers.values())
                    still_s, before = still_s + LOOK_S if idle else 0.0, standing
                    if still_s > STALL_S:  # a stage waits for more rows
                        spare, stall, still_s = stall, 2 * stall, 0.0
                        log.info("nothing moves, so that %d rows more are begun, whatever they cost", spare)
                    await asyncio.sleep(LOOK_S)
                begun_rows, spare = begun_rows + 1, max(0, spare - 1)
            ready.append(record)
        if ready:
            yield ready
            ready = []


def outlook_of(live: Live, first: int) -> Outlook:
    """Return the outlook on the cost of a row in the stages from `first` on: by the plan, and by the rows so
    far.
    """
    rows = live.plan[0].rows
    names = [stage.name for stage in live.pipeline.stages]
    worst = [
        None if cost is None or not rows else cost / rows
        for cost in (estimate.max_cost_usd for estimate in live.plan)
    ]

    def finished() -> list[int]:
        return [count.sources for count in live.stages[first : live.last + 1]]

    def paid() -> list[float]:
        costs = dict.fromkeys(names, 0.0)
        for used in live.ledger.usage(live.ledger_run):
            stage = used.stage.partition("/")[0]
            costs[stage] = costs.get(stage, 0.0) + used.cost_usd
        return [costs[name] for name in names[first : live.last + 1]]

    return Outlook(worst[first : live.last + 1], live.total, finished, paid)
