"""files.replacing: the new file, or the old one untouched, and nothing left beside it."""

import pytest

from albert_fast.files import replacing


def test_a_file_takes_its_place_when_the_block_ends_well(tmp_path):
    target = tmp_path / "new folder" / "f.json"
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new" and list(target.parent.iterdir()) == [target]
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "f.json"
    target.write_text("old")
    with pytest.raises(KeyError), replacing(target) as temporary:
        temporary.write_text("half")
        raise KeyError("interrupted")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
