"""Start MiniStack, in `.venv-servers`, with CRC32C from a C library, because its own takes a second for 9 MB."""

import google_crc32c
from ministack import app
from ministack.services import s3

s3._crc32c = google_crc32c.value
app.main()
