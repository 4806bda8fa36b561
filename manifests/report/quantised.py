"""What the card of a dataset says about features that are stored as int8: how to read them, and their error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

READING = """Features are stored as int8, with a scale and an offset for each dimension of each window and track:

```python
text = window["json"]["array"]["storage_path"]  # of webdataset and datasets; ".json" instead of "json" of wids
text = cut.latents.array.storage_path  # of Lhotse
scale, offset = np.frombuffer(bytes.fromhex(text), "<f2").reshape(2, *array.shape[:-2], 1, -1).astype(np.float32)
features = array * scale + offset  # `array` is the int8 array of the window
```

speechmill's reader does this itself."""


def section(statistics: Mapping[str, np.ndarray]) -> str:
    """Return the section of the card, from the arrays of `stats.safetensors`."""
    return f"{READING} {error_of(statistics)} `int8_rms` and `int8_max` in `stats.safetensors` are these errors.\n\n"


def error_of(statistics: Mapping[str, np.ndarray]) -> str:
    """Return a sentence on the error, relative to the standard deviation of each dimension."""
    if "int8_rms" not in statistics:
        return "No error was counted."
    deviation = np.sqrt(statistics["variance"])
    varies = deviation > 0
    if not varies.any():
        return "No dimension varies, so that their error relative to the standard deviation is not defined."
    rms, largest = (statistics[f"int8_{name}"][varies] / deviation[varies] for name in ("rms", "max"))
    return (
        "Relative to the standard deviation of each dimension, the root mean square of the error is "
        f"{100 * np.sqrt(np.square(rms).mean()):.2g} % over all dimensions and {100 * rms.max():.2g} % in the worst "
        f"one. The largest error is {100 * largest.max():.2g} %."
    )
