"""A shop on FastAPI: an order is a row and an event in one transaction, and a worker in the same process reacts to it.

    pip install 'rewindlog[async]' fastapi uvicorn
    SHOP_URL=sqlite+aiosqlite:///shop.db uvicorn fastapi_shop:service

With PostgreSQL the URL is postgresql+psycopg://..., and nothing else changes.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import Column, Float, MetaData, String, Table, insert, select, update
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventlog import App, Context, event
from eventlog.sqlite import prepare

engine = create_async_engine(os.environ.get("SHOP_URL", "sqlite+aiosqlite:///shop.db"))
if engine.dialect.name == "sqlite":
    prepare(engine)  # transactions begin with BEGIN IMMEDIATE; without this an append is refused
sessions = async_sessionmaker(engine)
app = App(engine.url)  # reads and the worker have a plain engine of their own, on the same database


class Base(DeclarativeBase):
    """The service's own tables."""


class Order(Base):
    """An order, as the service keeps it."""

    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    total: Mapped[float]


@event("order.placed", stream="order-{number}")
class OrderPlaced(msgspec.Struct, frozen=True):
    """What the rest of the world is told about it."""

    number: int
    customer: str
    total: float


spent = Table("spent", MetaData(), Column("customer", String, primary_key=True), Column("total", Float))
spending = app.projection("spending", tables=[spent])


@spending
def add(order: OrderPlaced, ctx: Context) -> None:
    """Runs in the worker's thread; its writes and the subscriber's checkpoint are one transaction."""
    mine = spent.c.customer == order.customer
    added = ctx.connection.execute(update(spent).where(mine).values(total=spent.c.total + order.total))
    if not added.rowcount:
        ctx.connection.execute(insert(spent).values(customer=order.customer, total=order.total))


@asynccontextmanager
async def lifespan(_service: FastAPI) -> AsyncIterator[None]:
    """Make what is missing in the database, and run a worker for as long as the service is up."""
    await asyncio.to_thread(app.log.init)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with app.lifespan()(service):
        yield
    await engine.dispose()
    app.engine.dispose()


service = FastAPI(lifespan=lifespan)


class NewOrder(BaseModel):
    """What a client sends."""

    number: int
    customer: str
    total: float


@service.post("/orders", status_code=201)
async def place(order: NewOrder) -> dict[str, int]:
    """The row and the event are there together, or neither of them is."""
    async with sessions.begin() as session:
        session.add(Order(number=order.number, customer=order.customer, total=order.total))
        placed = OrderPlaced(number=order.number, customer=order.customer, total=order.total)
        (recorded,) = await app.log.append_async(placed, tx=session, expected="none")
        if order.total > 1_000:
            raise HTTPException(402, "no credit for so much")
    return {"position": recorded.position}


@service.get("/orders/{number}/events")
async def history(number: int) -> list[dict[str, Any]]:
    """What happened to an order."""
    return [
        {"position": one.position, "type": one.type, "data": msgspec.to_builtins(one.data)}
        async for one in app.log.read_async(stream=f"order-{number}")
    ]


@service.get("/customers/{customer}")
async def customer_total(customer: str) -> dict[str, float]:
    """Ask the read model. It is as far as the worker is: soon after the order."""
    async with sessions() as session:
        total = await session.scalar(select(spent.c.total).where(spent.c.customer == customer))
    return {"total": total or 0}


@service.get("/events")
async def events(after: int = 0) -> StreamingResponse:
    """Every event as it comes, one line of JSON each, until the client goes; it comes back with `after`."""

    async def lines() -> AsyncIterator[bytes]:
        async for one in app.log.follow_async(after=after):
            yield msgspec.json.encode(one) + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")
