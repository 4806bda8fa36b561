"""The reader for trainers: windows of datasets on a disk or in S3 as tensors, counted, and resumed exactly.

`Source` says what is read, `Reader` in which order and by whom, `Loader` makes batches by `collate`. docs/reader.md
shows how.
"""

from speechmill.reader.batches import Batch, Loader, collate
from speechmill.reader.reader import Reader, joined
from speechmill.reader.source import Sample, Source

__all__ = ["Batch", "Loader", "Reader", "Sample", "Source", "collate", "joined"]
