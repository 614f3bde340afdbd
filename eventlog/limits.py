"""The stated limits of what one event, one append and one condition may hold.

The lengths of stream, type and tags are checks in the database too; the sizes of data and metadata are checked before
anything is sent. They are generous for facts and small for files: put a file elsewhere and record where it is.

An append goes to the database in one message, and PostgreSQL ends the connection over one of a gigabyte; a text grows
at most twofold on the way. Larger imports are several appends, in one transaction if they belong together: how many a
transaction holds is not limited.
"""

STREAM_CHARACTERS_MAX = 500
TYPE_CHARACTERS_MAX = 200
DATA_BYTES_MAX = 1_048_576
METADATA_BYTES_MAX = 65_536
TAG_CHARACTERS_MAX = 200
TAGS_MAX = 32
QUERIES_MAX = 32
BATCH_EVENTS_MAX = 100_000
BATCH_BYTES_MAX = 268_435_456
