"""`Source`: the windows of a dataset, alone or together with the same windows of other datasets, as samples."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from manifests.storage import StorageConfig
from manifests.stored import Stored
from manifests.subsets import Subset
from speechmill.reader.dataset import Choice, OpenedDataset, Row, ShardWindows
from speechmill.reader.order import Run

if TYPE_CHECKING:
    import torch

Sample = dict[str, Any]
SAMPLE_COLUMNS = (
    "recording_id", "split", "start_s", "duration_s", "tracks", "language", "num_speakers", "source", "licence",
)  # fmt: skip
"""Columns of SHARD_WINDOWS that a sample contains as they are."""


class Window(NamedTuple):
    """A window as it is stored: its table row, and its features."""

    row: Row
    features: Stored


class Source:
    """The windows of a dataset, and how their features are turned into samples.

    A sample is a dictionary with these keys:

    - `context` and `continuation`: tensors (tracks, tokens, patch * dim). A token is `patch` consecutive frames. If a
      part is not a whole number of tokens, the first frames of the context and the last frames of the continuation are
      left out, so that the two parts still meet. These are the tokens that the ledger counts. The axis of tracks is
      present for windows of one track, too.
    - `id`, `dataset`, `recording_id`, `split`, `start_s`, `duration_s`, `tracks`, `language`, `num_speakers`, `source`,
      `licence` and `labels` (a dictionary): properties of the window.
    - `turns`: a list of dictionaries with `speaker`, `track`, `start_s` and `end_s`, in seconds from the start of the
      window. It is empty without diarization.

    With `beside`, a sample holds the features of the same window in all of these sources, as `<dataset>.context` and
    `<dataset>.continuation`. The properties of the window are those of the first source. Windows that one source lacks
    are left out and counted as `unpaired`. Datasets of one recipe have the same windows in the same shards and order,
    and are read as fast as separately; in other datasets windows are looked up by their ids.
    """

    def __init__(
        self,
        lake: str | Lake,
        dataset: str,
        *,
        split: str | Sequence[str] | None = None,
        version: int | None = None,
        tracks: int | None = None,
        budget: int | None = None,
        subset: str | Subset | None = None,
        patch: int = 1,
        normalise: bool | str = False,
        whiten: bool = False,
        dtype: Literal["float32", "float16"] = "float32",
        beside: Sequence[Source] = (),
        config: StorageConfig | None = None,
    ) -> None:
        """Open a dataset.

        Args:
            lake: A folder, or s3://bucket/prefix.
            dataset: The name of the dataset.
            split: One split or several; `train` by default.
            version: The number of a version; the newest by default.
            tracks: Read only windows with this number of tracks.
            budget: Read at most this many tokens, of context and continuation over all tracks. Windows are taken in the
                order of the dataset's list of shards, any prefix of which is a fair sample. A smaller budget selects a
                subset of what a larger one selects.
            subset: A file that `speechmill study subset` has written. It replaces `split`, `version`, `tracks` and
                `budget`.
            patch: Frames per token.
            normalise: Subtract the mean from each feature dimension and divide it by the standard deviation. True takes
                the statistics of the default split of the dataset, which is `train` if there is one; a name takes those
                of that split.
            whiten: With `normalise`, rotate features onto the principal axes, in the order of their variance, before
                dividing by the standard deviation along each. The covariance is then the identity.
            dtype: Type of the tensors. Features are stored as float16, or as int8 with scales, which are applied.
            beside: Other sources whose features are read together with these.
            config: Options of the storage.

        Raises:
            FileNotFoundError: There is no such dataset or version.
            ValueError: The arguments contradict each other or the dataset.
        """
        if patch < 1 or (budget is not None and budget < 1):
            raise ValueError("patch and budget must be 1 or more")
        if budget is not None and patch > 6:
            raise ValueError("budget: tokens are only counted for patch sizes of 1 to 6")
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be 'float32' or 'float16', not {dtype!r}")
        opened = lake if isinstance(lake, Lake) else Lake.at(lake, config)
        if subset is not None:
            if (split, version, tracks, budget) != (None, None, None, None):
                raise ValueError("subset: it defines the split, version, tracks and budget; do not give them too")
            subset = subset if isinstance(subset, Subset) else Subset.read(subset, config or opened.config)
            if subset.about.dataset != dataset:
                raise ValueError(f"subset: it belongs to the dataset {subset.about.dataset}, not to {dataset}")
        splits = (split,) if isinstance(split, str) else tuple(split or ("train",))
        self.dataset = OpenedDataset(opened, dataset, version, Choice(splits, tracks, patch, budget), subset)
        self.patch, self.dtype, self.beside = patch, dtype, tuple(beside)
        self._scale: tuple[torch.Tensor, torch.Tensor] | None = None
        """The mean, (dim,), and either the reciprocal of the standard deviation, (dim,), or the whitening matrix."""
        if whiten and not normalise:
            raise ValueError("whiten needs normalise, which names the split whose statistics are used")
        if normalise:
            import torch

            statistics_split = None if normalise is True else normalise
            if whiten:
                mean, scale = self.dataset.whitening(statistics_split)
            else:
                mean, deviation = self.dataset.statistics(statistics_split)
                scale = 1 / deviation
            self._scale = torch.from_numpy(mean), torch.from_numpy(scale)
        names = [source.name for source in self.all]
        if len(set(names)) < len(names):
            raise ValueError(f"beside: {', '.join(names)} must be different datasets, since their names are the keys")
        self._index = _Index(self.dataset)

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.dataset.name

    @property
    def all(self) -> tuple[Source, ...]:
        """This source and those in `beside`."""
        return (self, *self.beside)

    @property
    def tokens(self) -> int:
        """Tokens of context and continuation in an epoch; an estimate if `patch` is above 6."""
        return self.dataset.tokens

    def fetch(self, run: Run) -> list[list[Window] | None]:
        """Read adjacent windows of a shard from all sources.

        Returns:
            For each window, one `Window` from each of `all`; None if one of these sources lacks it.
        """
        windows = self.dataset.table(run.shard)
        numbers = range(run.begin, run.end)
        own = map(Window, windows.rows(numbers), self.dataset.arrays(windows, numbers))
        if not self.beside:
            return [[window] for window in own]
        others = (other._matching(windows, numbers) for other in self.beside)
        return [list(paired) if all(paired) else None for paired in zip(own, *others, strict=True)]

    def sample(self, paired: Sequence[Window]) -> Sample:
        """Make a sample from one element of the result of `fetch`."""
        row = paired[0].row
        sample = {"id": row["window_id"], "dataset": self.name} | {name: row[name] for name in SAMPLE_COLUMNS}
        sample["turns"] = row["turns"] or []
        sample["labels"] = {label["key"]: label["value"] for label in row["labels"] or ()}
        for source, window in zip(self.all, paired, strict=True):
            prefix = f"{source.name}." if self.beside else ""
            sample[f"{prefix}context"], sample[f"{prefix}continuation"] = source.tensors(window)
        return sample

    def tensors(self, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
        """Return context and continuation of a window, (tracks, tokens, patch * dim) each. They are copies."""
        import torch

        row, stored = window.row, window.features.values()
        stored = stored[None] if stored.ndim == 2 else stored
        tracks, frames, dim = stored.shape
        context, k = row["context_frames"], self.patch
        if (tracks, frames) != (row["tracks"], context + row["continuation_frames"]):
            what = f"the features of {row['window_id']} have the shape {stored.shape}, which differs from its table"
            raise CorruptFileError.of(f"datasets/{self.name}", what)
        features = torch.from_numpy(stored.astype(np.float32 if self._scale else self.dtype))
        if self._scale:
            mean, scale = self._scale
            features = (features - mean) @ scale if scale.ndim == 2 else features.sub_(mean).mul_(scale)
        whole = features.to(getattr(torch, self.dtype))
        parts = whole[:, context % k : context], whole[:, context : frames - (frames - context) % k]
        return parts[0].reshape(tracks, -1, k * dim), parts[1].reshape(tracks, -1, k * dim)

    def _matching(self, wanted: ShardWindows, numbers: Sequence[int]) -> list[Window | None]:
        """Find, for each of some windows of another dataset, the same window in this one; None if it is missing."""
        ids = wanted.ids[numbers[0] : numbers[-1] + 1]
        shard = self._index.shards.get((wanted.files.folder, wanted.files.shard))
        if shard is not None and numbers[-1] < self.dataset.counts[shard]:
            windows = self.dataset.table(shard)
            if np.array_equal(windows.ids[numbers[0] : numbers[-1] + 1], ids):
                return list(map(Window, windows.rows(numbers), self.dataset.arrays(windows, numbers)))
        matches: list[Window | None] = [None] * len(ids)
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for place, (shard, number) in self._index.places(ids).items():
            by_shard.setdefault(shard, []).append((number, place))
        for shard, pairs in by_shard.items():
            pairs.sort()
            windows, own_numbers = self.dataset.table(shard), [number for number, _ in pairs]
            rows, arrays = windows.rows(own_numbers), self.dataset.arrays(windows, own_numbers)
            for (_, place), row, array in zip(pairs, rows, arrays, strict=True):
                matches[place] = Window(row, array)
        return matches


class _Index:
    """Finds the shard of a window by its id. It reads all tables of the dataset at the first call of `places`."""

    def __init__(self, dataset: OpenedDataset) -> None:
        self.dataset = dataset
        self.shards = {(files.folder, files.shard): place for place, files in enumerate(dataset.files)}
        """Index of each shard in the dataset's list, by folder and number."""
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["dataset"])  # type: ignore[misc]

    def places(self, ids: np.ndarray) -> dict[int, tuple[int, int]]:
        """Look up window ids.

        Returns:
            For each id that the dataset has, by its index in `ids`: the shard and the number of the window in it.
        """
        with self._lock:
            all_ids, at = self._sorted = self._sorted or self._read()
        nearest = np.minimum(np.searchsorted(all_ids, ids), len(all_ids) - 1)
        return {
            int(place): (int(at[0, nearest[place]]), int(at[1, nearest[place]]))
            for place in np.flatnonzero(all_ids[nearest] == ids)
        }

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        """Read all ids. Returns them sorted, and the shard and number of each, int64 (2, windows)."""
        ids, places = [], []
        shards = range(len(self.dataset.files))
        for shard, windows in zip(shards, self.dataset.lake.prefetch(self.dataset.table, shards), strict=True):
            count = int(self.dataset.counts[shard])
            ids.append(windows.ids[:count])
            places.append(np.stack([np.full(count, shard), np.arange(count)]))
        all_ids = np.concatenate(ids)
        order = np.argsort(all_ids)
        return all_ids[order], np.concatenate(places, axis=1)[:, order]
