"""The ordering key of an event, and the partition a key belongs to.

Events of one key are handled in the order of the log, by one worker at a time; an event whose handler failed holds back
only those of its key. The key is the stream unless a subscriber declares otherwise.

The hash is MD5, which PostgreSQL has built in: the SQL function `partition_of` gives the same number.
"""

import hashlib


def partition_of(key: str, *, partitions: int) -> int:
    """Return the partition a key belongs to, from 0: the first 32 bits of its MD5, modulo their number."""
    if partitions == 1:
        return 0
    return int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest()[:4], "big") % partitions
