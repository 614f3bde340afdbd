"""Runs workloads of the benchmarks, in a process that is told what to do in JSON and answers in JSON.

    python -m tests.benchmarks_child '[["W1", "rewindlog", "postgresql://..."], ...]'

In a process of its own because the benchmarks declare event types that other tests' names must not meet.
"""

import json
import sys

from benchmarks import contest
from benchmarks.contestants import load
from benchmarks.workloads import WORKLOADS, processes


def main() -> None:
    """Run them one after the other; `late` instead of a workload is a contest whose runs have no time."""
    processes.PROCESSES_MAX = 1
    answers: list[object] = []
    for workload, name, url in json.loads(sys.argv[1]):
        taker = load(name)
        if workload == "late":
            found = contest.measure(url, "W1", [taker], rounds=1, seconds_max=0.05)
            answers.append({"problems": found[0].problems, "figures": found[0].rounds})
            continue
        contestant = taker(url)
        contestant.create()
        answers.append(WORKLOADS[workload](contestant))
    sys.stdout.write("\n" + json.dumps(answers))


if __name__ == "__main__":
    main()
