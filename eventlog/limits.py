"""The stated limits of what one event may hold.

The lengths of stream and type are checks in the database too; the sizes of data and metadata are checked before
anything is sent. They are generous for facts and small for files: put a file elsewhere and record where it is.
"""

STREAM_CHARACTERS_MAX = 500
TYPE_CHARACTERS_MAX = 200
DATA_BYTES_MAX = 1_048_576
METADATA_BYTES_MAX = 65_536
TAG_CHARACTERS_MAX = 200
TAGS_MAX = 32
QUERIES_MAX = 32
