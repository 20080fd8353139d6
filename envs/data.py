"""What `bench data` calls: the data sets that must be downloaded, by name."""

from .catalogue import names
from .download import fetch
from .files import verify

__all__ = ["fetch", "names", "verify"]
