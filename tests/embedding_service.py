"""A FastAPI service with a worker in it, for tests that run several of it, reload it and stop it.

Each call of the handler is a line in the file CALLS; while the file HOLD exists, the handler stands.
"""

import os
import time
from pathlib import Path

from fastapi import FastAPI

from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from tests.subscribers_support import Sent

CALLS = Path(os.environ["CALLS"])
HOLD = Path(os.environ["HOLD"])

app = App(os.environ["LOG_URL"], lease_seconds=2.0)
mail = app.subscriber("mail", partitions=2)


@mail
def send(crate: Sent, ctx: Context) -> None:
    """Note the beginning and the end of the call."""
    note(f"begin {crate.number} {ctx.redelivery}")
    while HOLD.exists():
        time.sleep(0.01)
    note(f"end {crate.number} {ctx.redelivery}")


def note(line: str) -> None:
    with CALLS.open("a") as calls:
        calls.write(f"{line} {os.getpid()}\n")


service = FastAPI(lifespan=app.lifespan())


@service.get("/")
async def up() -> dict[str, int]:
    """Say which process answers."""
    return {"process": os.getpid()}
