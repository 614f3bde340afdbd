"""Receipts: a step of a handler that was done once is not done again when its event is delivered again."""

from datetime import UTC, datetime, timedelta

import pytest

from eventlog.errors import UsageError
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.receipts import count_receipts, forget_receipts
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Sent

AT_ONCE = Retry(attempts=3, first_seconds=0)


class Shop:
    """Charges, then ships; shipping fails at first."""

    def __init__(self, app: App, *, delivery: str = "at-least-once", key: str | None = None) -> None:
        self.app = app
        self.charged: list[int] = []
        self.shipped: list[int] = []
        self.fails = True
        self.key = key
        app.subscriber("shop", delivery=delivery, retry=AT_ONCE)(self.handle)

    def handle(self, crate: Sent, ctx: Context) -> None:
        with ctx.once(self.key or f"charge-{ctx.event.id}") as first_time:
            if first_time:
                self.charged.append(crate.number)
        if self.fails:
            raise BugError
        self.shipped.append(crate.number)


def test_a_step_with_a_receipt_is_not_done_again_by_a_retry(bench: Bench) -> None:
    bench.send(1)
    shop = Shop(bench.app())
    shop.app.drain()
    shop.fails = False
    control.retry(bench.log.database, "shop")
    shop.app.drain()

    assert (shop.charged, shop.shipped) == ([1], [1])
    assert count_receipts(bench.log.database, "shop") == 1


def test_in_a_transaction_the_receipt_goes_with_the_handlers_writes(bench: Bench) -> None:
    """A handler that fails has charged nobody: its writes are rolled back, and so is the receipt."""
    bench.send(1)
    shop = Shop(bench.app(), delivery="transactional")
    shop.app.drain()
    assert count_receipts(bench.log.database, "shop") == 0
    shop.fails = False
    control.retry(bench.log.database, "shop")
    shop.app.drain()

    assert count_receipts(bench.log.database, "shop") == 1


def test_receipts_outlive_a_rewind(bench: Bench) -> None:
    bench.send(2)
    shop = Shop(bench.app())
    shop.fails = False
    shop.app.drain()
    control.rewind(bench.log.database, "shop", control.to_start, resend=True)
    shop.app.drain()

    assert (shop.charged, shop.shipped) == ([1, 2], [1, 2, 1, 2])


def test_a_key_belongs_to_the_subscriber_and_not_to_the_event(bench: Bench) -> None:
    bench.send(3)
    shop = Shop(bench.app(), key="order-7")
    shop.fails = False
    other = shop.app.subscriber("other")
    seen: list[bool] = []

    @other
    def handle(_crate: Sent, ctx: Context) -> None:
        with ctx.once("order-7") as first_time:
            seen.append(first_time)

    shop.app.drain()
    assert shop.charged == [1]
    assert seen == [True, False, False]


def test_a_step_that_fails_has_no_receipt(bench: Bench) -> None:
    bench.send(1)
    app = bench.app()
    seen: list[bool] = []

    @app.subscriber("shop", retry=AT_ONCE)
    def handle(_crate: Sent, ctx: Context) -> None:
        with ctx.once("charge") as first_time:
            seen.append(first_time)
            if len(seen) < 3:
                raise BugError

    for _ in range(3):
        app.drain()
        bench.make_due("shop")
    assert seen == [True, True, True]
    assert count_receipts(bench.log.database, "shop") == 1


@pytest.mark.parametrize("delivery", ["at-least-once", "transactional"])
def test_a_coroutine_awaits_it(bench: Bench, delivery: str) -> None:
    bench.send(2)
    app = bench.app()
    seen: list[bool] = []

    @app.subscriber("shop", delivery=delivery)
    async def handle(_crate: Sent, ctx: Context) -> None:
        async with ctx.once("charge") as first_time:
            seen.append(first_time)

    app.drain()
    assert seen == [True, False]


@pytest.mark.parametrize("key", ["", "x" * 501, "a\0b", 7, None])
def test_what_is_no_key_is_refused(bench: Bench, key: object) -> None:
    bench.send(1)
    app = bench.app()
    refused: list[UsageError] = []

    @app.subscriber("shop")
    def handle(_crate: Sent, ctx: Context) -> None:
        try:
            ctx.once(key)  # type: ignore[arg-type]  # the point of the test
        except UsageError as error:
            refused.append(error)

    app.drain()
    assert len(refused) == 1


def test_two_that_do_a_step_at_the_same_time_leave_one_receipt(bench: Bench) -> None:
    """A receipt is no lock: both find none, and both write."""
    bench.send(1)
    app = bench.app()

    @app.subscriber("shop")
    def handle(_crate: Sent, ctx: Context) -> None:
        with ctx.once("charge") as outer, ctx.once("charge") as inner:
            assert (outer, inner) == (True, True)

    assert app.drain().failed == 0
    assert count_receipts(bench.log.database, "shop") == 1


def test_receipts_are_forgotten_by_key_or_by_age(bench: Bench) -> None:
    bench.send(3)
    shop = Shop(bench.app())
    shop.fails = False
    shop.app.drain()
    database = bench.log.database
    long_ago = datetime.now(UTC) - timedelta(days=1)

    assert forget_receipts(database, "shop", before=long_ago) == 0
    assert forget_receipts(database, "shop", keys=[f"charge-{bench.log.get(1).id}"]) == 1
    assert forget_receipts(database, "shop", before=datetime.now(UTC) + timedelta(days=1)) == 2
    with pytest.raises(UsageError, match="which receipts"):
        forget_receipts(database, "shop")
