"""W4, W5, W5p and W11: what was recorded before is handled, or made a read model of."""

import itertools
import multiprocessing
import resource
import time
from collections.abc import Iterable

from benchmarks import sizes
from benchmarks.contestants import load
from benchmarks.contestants.contestant import Board, Contestant
from benchmarks.flights import Arrived, FlightEvent, iterate_events, read_events

BY_EVENT_EVENTS = 20_000
FEW_EVENTS = 100_000
MANY_EVENTS = 1_000_000
RECORDED_AT_A_TIME = 100_000

Result = dict[str, float]


def catch_up(contestant: Contestant) -> Result:
    """W4: what is recorded, typed, handed to a handler, with progress that a crash does not lose."""
    count, minutes = _filled(contestant, sizes.events(contestant.catch_up_events))
    seen = [0, 0]

    def handle(event: FlightEvent) -> None:
        seen[0] += 1
        seen[1] += event.minutes

    began = time.perf_counter()
    contestant.catch_up(count, handle)
    seconds = time.perf_counter() - began
    assert seen == [count, minutes], (seen, count, minutes)
    return {"rate": count / seconds, "events": count}


def project(contestant: Contestant) -> Result:
    """W5: what is recorded, counted into a table by carrier, with the last value."""
    count, _ = _filled(contestant, sizes.events(contestant.catch_up_events))
    began = time.perf_counter()
    contestant.project(count)
    seconds = time.perf_counter() - began
    _check_board(contestant, count)
    return {"rate": count / seconds, "events": count}


def project_by_event(contestant: Contestant) -> Result:
    """W5p: the same, one statement for each event."""
    count, _ = _filled(contestant, sizes.events(min(BY_EVENT_EVENTS, contestant.catch_up_events)))
    began = time.perf_counter()
    contestant.project_by_event(count)
    seconds = time.perf_counter() - began
    _check_board(contestant, count)
    return {"rate": count / seconds, "events": count}


def memory(contestant: Contestant) -> Result:
    """W11: the process's peak memory when it has handled few events, and when it has handled many.

    Another process records what is to be handled: reading it would be this one's peak.
    """
    few, many = sizes.events(FEW_EVENTS), sizes.events(MANY_EVENTS)
    _fill_in_another_process(contestant, many)
    seen, peaks = 0, dict.fromkeys((few, many), 0.0)

    def handle(event: FlightEvent) -> None:
        nonlocal seen
        seen += 1
        if seen in peaks:
            peaks[seen] = _peak_megabytes()

    contestant.catch_up(many, handle)
    assert seen == many, (seen, many)
    return {"megabytes_few": peaks[few], "megabytes_many": peaks[many], "events": many}


def board_of(events: Iterable[FlightEvent]) -> Board:
    """Count in plain Python what the contestants count in a table."""
    board: Board = {}
    for event in events:
        if isinstance(event, Arrived):
            board[event.carrier] = (board.get(event.carrier, (0, 0))[0] + 1, event.minutes)
    return board


def _fill_in_another_process(contestant: Contestant, count: int) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_fill, args=(type(contestant).name, contestant.url, count))
    process.start()
    process.join()
    assert process.exitcode == 0, f"recording the events ended with {process.exitcode}"


def _fill(name: str, url: str, count: int) -> None:
    contestant, events = load(name)(url), itertools.islice(iterate_events(), count)
    while some := list(itertools.islice(events, RECORDED_AT_A_TIME)):
        contestant.fill(some)
    contestant.settle()


def _filled(contestant: Contestant, count: int) -> tuple[int, int]:
    """Record what is to be caught up with, let the database settle; return the events' number and sum of minutes."""
    events = read_events(count)
    contestant.fill(events)
    contestant.settle()
    return count, sum(event.minutes for event in events)


def _check_board(contestant: Contestant, count: int) -> None:
    found, expected = contestant.board(), board_of(read_events(count))
    assert found == expected, (found, expected)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
