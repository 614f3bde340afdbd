"""Measure one workload of one contestant, and print it as JSON."""

import json
import sys

from benchmarks.contestants import load
from benchmarks.workloads import WORKLOADS


def main() -> None:
    """Take workload, contestant and URL from the command line."""
    workload, name, url = sys.argv[1:]
    contestant = load(name)(url)
    contestant.create()
    sys.stdout.write(json.dumps(WORKLOADS[workload](contestant)) + "\n")


if __name__ == "__main__":
    main()
