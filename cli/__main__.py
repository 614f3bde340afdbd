"""`python -m eventlog.cli` is the command `eventlog`."""

import sys

from eventlog.cli.main import main

sys.exit(main())
