"""DVC's settings of a worktree, which several stages of a run write and read at once."""

import threading

from flows.repository.settings import LOCAL, read_settings, write_settings


def test_settings_are_never_seen_half_written(tmp_path):
    """Two stages are ordered at once: while one writes them, a DVC command of the other reads them."""
    (tmp_path / ".dvc").mkdir()
    settings = {f'remote "{number}"': {"url": "/a/place" * 20} for number in range(300)}
    write_settings(tmp_path, settings)
    done = threading.Event()
    seen = []

    def read() -> None:
        while not done.is_set():
            seen.append(len(read_settings(tmp_path / LOCAL)))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(40):
        write_settings(tmp_path, settings)
    done.set()
    reader.join()
    assert set(seen) == {300}
    assert (tmp_path / LOCAL).stat().st_mode & 0o077 == 0
    assert list((tmp_path / ".dvc" / "tmp").iterdir()) == []
