"""Do readers lose events? Many writers, a reader that follows them, and an exact audit of the one against the other.

    python -m benchmarks.lost_events [ADAPTER ...] [--seconds 10] [--writers 16] [--seed N]

Writers do, in a random order, whatever puts events into a log and makes it hard to follow (`shapes.Shape`); their
backends are ended under them, and where the reader is this project's, so are the reader's. Each writer journals what
it is about to write before it sends it, and what became of it; what stayed unknown, since the connection was lost, is
looked up in the table afterwards. Then the audit (`audit.py`) says which committed events never arrived, which came
twice, and which out of order.

An adapter (`adapters/`) is one log and one way to read it. Two of them are controls, which are known to lose events: a
run in which they lose none has not looked hard enough, and fails.
"""
