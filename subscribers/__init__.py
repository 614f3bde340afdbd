"""Subscribers: declared in code, registered in the database, run by workers, moved by operators.

app.py           declare, drain, run                     registration.py  code against what is registered
routing.py       which handler takes an event            leases.py        who may run a partition; the fence
delivery.py      live delivery, two modes                ledger.py        failures and attempts
retrying.py      failed events tried again               control.py       rewind, undo, retry, skip
partition.py     one partition's turn                    operations.py    the record of what operators did
worker.py        threads, polling, drain                 status.py        how everything stands; lags.py, rates.py
feed.py          pages of the log, shared and decoded once
share.py         which of them are one partition's
metrics.py       for Prometheus                          traces.py        for OpenTelemetry
"""
