"""Concurrency: a set limit is kept, an unknown one is found, and overload reduces the rate."""

import asyncio
import random

import pytest

from distillgen.errors import BudgetStop
from distillgen.inference.limits import Budget, Rate, Slots
from tests.simulator.machine import in_virtual_time


class Simulated:
    """An endpoint in virtual time that serves `capacity` requests side by side, each in 0.2 s, and refuses or
    queues the rest.
    """

    def __init__(self, capacity, *, queues, luck=0.0):
        self.capacity, self.queues, self.luck, self.chance = capacity, queues, luck, random.Random(0)

    def serve(self, slots: Slots, seconds: float) -> tuple[float, float, list[float]]:
        """Answers a second and the share of refusals over the second half, and the limit after each tenth of
        a second.
        """
        step, begun, flying, answered, refused, limits = 0.01, 1000.0, [], 0, 0, []
        slots._waiting.append(None)  # there is always more to ask
        now = begun
        while now < begun + seconds:
            now += step
            while len(flying) < int(slots.limit):
                busy = sum(1 for _, ok in flying if ok)
                ok = (self.queues or busy < self.capacity) and self.chance.random() >= self.luck
                behind = max(0, busy - self.capacity) / self.capacity if self.queues else 0
                flying.append(
                    (now + (0.2 * (1 + behind) * self.chance.uniform(0.9, 1.1) if ok else 0.05), ok)
                )
            for end, ok in [each for each in flying if each[0] <= now]:
                flying.remove((end, ok))
                slots.note(end, overloaded=not ok)
                if now > begun + seconds / 2:
                    answered, refused = answered + ok, refused + (not ok)
            limits.append(slots.limit)
        return answered / (seconds / 2), refused / max(1, answered + refused), limits


@pytest.mark.parametrize("capacity", [3, 40, 300])
def test_the_limit_of_an_endpoint_that_refuses_is_found(capacity):
    rate, refused, limits = Simulated(capacity, queues=False).serve(Slots(None), 30)
    assert rate > 0.8 * capacity / 0.2
    assert max(limits[len(limits) // 2 :]) < 1.5 * capacity + 4 and (refused < 0.2 or capacity < 10)


@pytest.mark.parametrize("capacity", [40, 300])
def test_the_limit_of_a_queueing_endpoint_is_found(capacity):
    rate, _, limits = Simulated(capacity, queues=True).serve(Slots(None), 60)
    assert rate > 0.85 * capacity / 0.2
    assert max(limits) <= 8 * max(capacity, 32)


def test_a_set_limit_survives_refusals_unrelated_to_load():
    slots = Slots(64)
    rate, _, limits = Simulated(10**6, queues=True, luck=0.1).serve(slots, 30)
    assert max(limits) <= 64 and rate > 0.6 * 64 / 0.2


def test_an_overloaded_endpoint_is_asked_one_by_one_and_recovers():
    slots = Slots(64)
    Simulated(0, queues=False).serve(slots, 20)
    assert 1 <= slots.limit < 8
    rate, _, _ = Simulated(10**6, queues=True).serve(slots, 30)
    assert rate > 0.9 * 64 / 0.2


def test_slots_go_in_order_and_a_cancelled_wait_takes_none():
    async def main():
        slots, order, most, busy = Slots(2), [], 0, 0

        async def one(i):
            nonlocal most, busy
            await slots.take()
            busy += 1
            most = max(most, busy)
            order.append(i)
            await asyncio.sleep(0)
            busy -= 1
            slots.give()

        tasks = [asyncio.create_task(one(i)) for i in range(20)]
        await asyncio.sleep(0)
        for i in (5, 6, 7):
            tasks[i].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most == 2 and order == [i for i in range(20) if i not in (5, 6, 7)]

    asyncio.run(main())


def test_a_slot_of_a_cancelled_wait_is_passed_on():
    async def main():
        slots = Slots(1)
        await slots.take()
        wait = asyncio.create_task(slots.take())
        await asyncio.sleep(0)
        slots.give()
        wait.cancel()
        assert isinstance((await asyncio.gather(wait, return_exceptions=True))[0], asyncio.CancelledError)
        await asyncio.wait_for(slots.take(), 1)
        with pytest.raises(asyncio.TimeoutError):  # and it was given back once
            await asyncio.wait_for(slots.take(), 0.01)

    asyncio.run(main())


def test_a_rate_is_smooth_and_takes_large_units():
    async def main():
        loop, rate, moments = asyncio.get_running_loop(), Rate(600), []  # ten a second, a burst of ten
        begun = loop.time()
        for units in [1] * 12 + [5, 1]:
            await rate.take(units)
            moments.append(loop.time() - begun)
        assert moments[9] < 0.05 and moments[11] >= 0.09 and moments[13] >= 0.5

    asyncio.run(main())


def test_a_rate_saves_nothing_up_while_nothing_is_asked():
    async def main():
        loop, rate = asyncio.get_running_loop(), Rate(600)
        await rate.take(1)
        await asyncio.sleep(3600)
        begun = loop.time()
        for _ in range(40):
            await rate.take(1)
        return loop.time() - begun

    assert 2.8 < in_virtual_time(main()) < 3.2


def test_a_rate_waits_for_what_was_used_beyond_the_estimate():
    async def main():
        loop, rate = asyncio.get_running_loop(), Rate(60)
        await rate.take(1)
        rate.settle(9)
        await rate.take(1)
        return loop.time()

    assert 8.9 < in_virtual_time(main()) - 1000 < 9.3


def test_the_budget_reserves_the_worst_case_and_frees_the_rest():
    async def main():
        budget = Budget(1.0)
        await budget.reserve(0.4)
        await budget.reserve(0.4)
        waits = [asyncio.create_task(budget.reserve(worst)) for worst in (0.4, 0.5)]
        await asyncio.sleep(0.01)
        assert budget.reserved == pytest.approx(0.8) and not any(wait.done() for wait in waits)
        budget.settle(0.4, 0.3)  # 0.3 spent, 0.4 set aside: neither 0.4 nor 0.5 fits
        await asyncio.sleep(0.01)
        assert not any(wait.done() for wait in waits)
        budget.settle(
            0.4, 0.2
        )  # now one of them does, and the other one may, as soon as that has turned out cheap
        await asyncio.sleep(0.01)
        assert [wait.done() for wait in waits] == [True, False] and budget.reserved == pytest.approx(0.4)
        budget.settle(0.4, 0.05)
        with pytest.raises(
            BudgetStop,
            match=r"stopped by --max-cost-usd 1: \$0.5500 is spent, and the next request could cost \$0.5000",
        ):
            await asyncio.wait_for(waits[1], 1)
        assert budget.spent == pytest.approx(0.55) and budget.reserved == pytest.approx(0)

    asyncio.run(main())


def test_a_budget_is_used_up_and_without_a_cap_nothing_waits():
    async def main():
        budget = Budget(1.0)
        await budget.reserve(1.0)
        assert budget.reserved == 1.0
        free = Budget()
        for _ in range(3):
            await asyncio.wait_for(free.reserve(1e9), 1)

    asyncio.run(main())


def test_what_is_promised_is_spent_until_its_request_is_sent():
    budget = Budget(2.0, 1.0, promised={b"k": 0.5, b"l": 0.25})
    assert budget.left_usd == 1.75 and "$0.2500 is spent, answers that an earlier" in str(budget.stop("why"))
    assert budget.take_promised([b"k", b"other"]) == 0.5 and budget.take_promised([b"k"]) == 0
    assert (budget.spent, budget.reserved, budget.left_usd) == (0.5, 0.5, 1.75)
    assert budget.take_promised([b"l"]) == 0.25 and "$0.2500 is spent, and why" in str(budget.stop("why"))
