"""What `bench data` calls: the data sets that must be downloaded, by name."""

from .catalogue import dataset, names
from .download import fetch
from .files import verify

__all__ = ["dataset", "fetch", "names", "verify"]
