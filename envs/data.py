"""What `bench data` calls: the data sets that must be downloaded, by name."""

from .catalogue import names
from .download import fetch
from .files import missing, verify

__all__ = ["fetch", "missing", "names", "verify"]
