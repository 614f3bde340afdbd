"""URLs as they may be shown: without their passwords, wherever those stand.

Nothing is imported to know them by: the command line does so before it knows whether it needs a database.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

SECRETS = ("password", "sslpassword")
"""What may stand in a URL's query and is nobody's business."""


def shown_url(url: "URL") -> str:
    """Write a URL for people."""
    hidden = {name: "***" for name in SECRETS if name in url.query}
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def has_secret(url: "URL") -> bool:
    """Tell whether a URL has a password in it."""
    return url.password is not None or any(name in url.query for name in SECRETS)
