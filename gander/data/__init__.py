"""Sources of images and their preparation, without torch: `prepare(open_source("photos/"), 64)`."""

from gander.data.check import Report, check, sizes
from gander.data.images import decode
from gander.data.prepare import Dataset, prepare
from gander.data.sources import Entry, Source, open_source

__all__ = ["Dataset", "Entry", "Report", "Source", "check", "decode", "open_source", "prepare", "sizes"]
