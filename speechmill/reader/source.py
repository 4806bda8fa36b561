"""What is read: windows of a dataset, alone or beside the same windows of other datasets, and samples made of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from manifests.corrupt import CorruptFileError
from manifests.lake import Lake
from manifests.storage import StorageConfig
from manifests.subsets import Subset
from speechmill.reader.dataset import Choice, OpenedDataset, Row, ShardWindows
from speechmill.reader.order import Run

if TYPE_CHECKING:
    import torch

Sample = dict[str, Any]
TOLD = ("recording_id", "split", "start_s", "duration_s", "tracks", "language", "num_speakers", "source", "licence")
"""Columns of SHARD_WINDOWS that a sample repeats."""


class Window(NamedTuple):
    """A window as it is stored: what is known of it, and its float16 features (tracks, frames, dim)."""

    row: Row
    features: np.ndarray


class Source:
    """Windows of a dataset, and what becomes of their features.

    A sample is a dictionary. `context` and `continuation` are tensors (tracks, tokens, patch * dim), where a token is
    `patch` neighbouring frames in order of time. Where the context is no whole number of tokens its first frames are
    left out, and of the continuation the last ones, so that both still meet: the tokens are those that the ledger
    counts. The first axis is there for windows of one track, too. `id`, `dataset`, `recording_id`, `split`,
    `start_s`, `duration_s`, `tracks`, `language`, `num_speakers`, `source`, `licence` and `labels` (a dictionary) tell
    of the window. `turns` are those of its speakers, each a dictionary of `speaker`, `track`, and `start_s` and `end_s`
    from the start of the window on; without diarization there are none.

    With `beside`, each sample holds the features of the same window of all of these sources, under
    `<dataset>.context` and `<dataset>.continuation`, and what is told of the window is from the first source. Windows
    that one of them lacks are left out and counted as `unpaired`. Where all hold the same windows in the same shards
    and order, as datasets of one recipe do, this reads as fast as each alone; otherwise windows are found by their ids.
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
        """Open a dataset of a lake: a folder, or s3://bucket/prefix.

        `split` is one split or several, `train` if not given; `version` the number of a version, else the newest;
        `tracks` keeps windows with that number of tracks. `budget` keeps the first windows in the order of the
        dataset's list of shards, of which any prefix is a fair sample: as many as have at most so many tokens, of
        context and continuation over all tracks, and a smaller budget keeps a part of what a larger one keeps.
        `subset` is a file that `speechmill study subset` has written, which says all of this by itself. `normalise`
        takes from each bin the mean and divides by the standard deviation: of the split that the dataset names,
        `train` where there is one, or of the split given by its name. With `whiten` too, values are turned onto the
        principal axes of that split, the one that varies most first, and divided by the standard deviation along each,
        so that their covariance is the identity. Features are stored as float16 and given as `dtype`.

        Raises FileNotFoundError where there is no such dataset or version, ValueError for what cannot be read so.
        """
        if patch < 1 or (budget is not None and budget < 1):
            raise ValueError("patch and budget must be 1 or more")
        if budget is not None and patch > 6:
            raise ValueError("budget: the list of shards tells tokens at patch 1 to 6 only")
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype must be 'float32' or 'float16', not {dtype!r}")
        opened = lake if isinstance(lake, Lake) else Lake.at(lake, config)
        if subset is not None:
            if (split, version, tracks, budget) != (None, None, None, None):
                raise ValueError("subset: it says which split, version, tracks and budget are read; leave them out")
            subset = subset if isinstance(subset, Subset) else Subset.read(subset, config or opened.config)
            if subset.about.dataset != dataset:
                raise ValueError(f"subset: it is of the dataset {subset.about.dataset}, not of {dataset}")
        splits = (split,) if isinstance(split, str) else tuple(split or ("train",))
        self.dataset = OpenedDataset(opened, dataset, version, Choice(splits, tracks, patch, budget), subset)
        self.patch, self.dtype, self.beside = patch, dtype, tuple(beside)
        self._scale: tuple[torch.Tensor, torch.Tensor] | None = None
        """Mean of each bin, and one over its standard deviation, or the matrix that whitens."""
        if whiten and not normalise:
            raise ValueError("whiten wants normalise, which says by the statistics of which split")
        if normalise:
            import torch

            of = None if normalise is True else normalise
            mean, scale = self.dataset.whitening(of) if whiten else self.dataset.statistics(of)
            self._scale = torch.from_numpy(mean), torch.from_numpy(scale if whiten else 1 / scale)
        names = [one.name for one in self.all]
        if len(set(names)) < len(names):
            raise ValueError(f"beside: {', '.join(names)} must be different datasets, since samples tell them by name")
        self._index = _Index(self.dataset)

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.dataset.name

    @property
    def all(self) -> tuple[Source, ...]:
        """This source and those beside it."""
        return (self, *self.beside)

    @property
    def tokens(self) -> int:
        """Tokens of context and continuation in an epoch; an estimate above patch 6."""
        return self.dataset.tokens

    def fetch(self, run: Run) -> list[list[Window] | None]:
        """Neighbouring windows of a shard, each as in all sources; None for one that not all of them have."""
        windows = self.dataset.table(run.shard)
        numbers = range(run.begin, run.end)
        made = map(Window, windows.rows(numbers), self.dataset.arrays(windows, numbers))
        if not self.beside:
            return [[window] for window in made]
        others = (other._matching(windows, numbers) for other in self.beside)
        return [list(found) if all(found) else None for found in zip(made, *others, strict=True)]

    def sample(self, found: Sequence[Window]) -> Sample:
        """The sample of a window, given as `fetch` gives it."""
        row = found[0].row
        made = {"id": row["window_id"], "dataset": self.name} | {name: row[name] for name in TOLD}
        made["turns"] = row["turns"] or []
        made["labels"] = {label["key"]: label["value"] for label in row["labels"] or ()}
        for source, window in zip(self.all, found, strict=True):
            prefix = f"{source.name}." if self.beside else ""
            made[f"{prefix}context"], made[f"{prefix}continuation"] = source.tensors(window)
        return made

    def tensors(self, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
        """Context and continuation of a window, (tracks, tokens, patch * dim). They share no memory with it."""
        import torch

        row, stored = window
        tracks, frames, dim = stored.shape
        context, k = row["context_frames"], self.patch
        if (tracks, frames) != (row["tracks"], context + row["continuation_frames"]):
            told = f"the features of {row['window_id']} have the shape {stored.shape}, which its table does not say"
            raise CorruptFileError.of(f"datasets/{self.name}", told)
        features = torch.from_numpy(stored.astype(np.float32 if self._scale else self.dtype))
        if self._scale:
            mean, scale = self._scale
            features = (features - mean) @ scale if scale.ndim == 2 else features.sub_(mean).mul_(scale)
        whole = features.to(getattr(torch, self.dtype))
        parts = whole[:, context % k : context], whole[:, context : frames - (frames - context) % k]
        return parts[0].reshape(tracks, -1, k * dim), parts[1].reshape(tracks, -1, k * dim)

    def _matching(self, wanted: ShardWindows, numbers: Sequence[int]) -> list[Window | None]:
        """Of each of some windows of another dataset the same window of this one, or None."""
        ids = wanted.ids[numbers[0] : numbers[-1] + 1]
        shard = self._index.shards.get((wanted.files.folder, wanted.files.shard))
        if shard is not None and numbers[-1] < self.dataset.counts[shard]:
            windows = self.dataset.table(shard)
            if np.array_equal(windows.ids[numbers[0] : numbers[-1] + 1], ids):
                return list(map(Window, windows.rows(numbers), self.dataset.arrays(windows, numbers)))
        found: list[Window | None] = [None] * len(ids)
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for place, (shard, number) in self._index.places(ids).items():
            by_shard.setdefault(shard, []).append((number, place))
        for shard, pairs in by_shard.items():
            pairs.sort()
            windows, there = self.dataset.table(shard), [number for number, _ in pairs]
            rows, arrays = windows.rows(there), self.dataset.arrays(windows, there)
            for (_, place), row, array in zip(pairs, rows, arrays, strict=True):
                found[place] = Window(row, array)
        return found


class _Index:
    """In which shard of a dataset a window lies. All tables are read only where one is not where it is looked for."""

    def __init__(self, dataset: OpenedDataset) -> None:
        self.dataset = dataset
        self.shards = {(files.folder, files.shard): place for place, files in enumerate(dataset.files)}
        """The places of shards in the dataset's list, by folder and number."""
        self._known: tuple[np.ndarray, np.ndarray] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["dataset"])  # type: ignore[misc]

    def places(self, ids: np.ndarray) -> dict[int, tuple[int, int]]:
        """Of each id that the dataset has, by its place in `ids`: the shard, and the number of the window there."""
        with self._lock:
            known, at = self._known = self._known or self._read()
        found = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return {
            int(place): (int(at[0, found[place]]), int(at[1, found[place]]))
            for place in np.flatnonzero(known[found] == ids)
        }

    def _read(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids in order, and for each the shard and the number in it, int64 (2, windows)."""
        ids, places = [], []
        shards = range(len(self.dataset.files))
        for shard, windows in zip(shards, self.dataset.lake.ahead(self.dataset.table, shards), strict=True):
            count = int(self.dataset.counts[shard])
            ids.append(windows.ids[:count])
            places.append(np.stack([np.full(count, shard), np.arange(count)]))
        joined = np.concatenate(ids)
        order = np.argsort(joined)
        return joined[order], np.concatenate(places, axis=1)[:, order]
