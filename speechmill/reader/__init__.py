"""The reader for training: it gives the windows of datasets on a disk or in S3 as tensors, and resumes exactly.

`Source` selects what is read, `Reader` decides the order and shares the windows out over processes, and `Loader` makes
batches with `collate`. docs/reader.md has examples.
"""

from speechmill.reader.batches import Batch, Loader, collate
from speechmill.reader.reader import Reader, join_states
from speechmill.reader.source import Sample, Source

__all__ = ["Batch", "Loader", "Reader", "Sample", "Source", "collate", "join_states"]
