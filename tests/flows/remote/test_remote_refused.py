"""What cannot be ordered from another host, or not be fulfilled there, and the one line that says so."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.remote.dvc_transfer import StoreError
from flows.remote.order_receipt import Order, fulfil, place_order, publish
from flows.repository.workspace import CommandError
from stillhouse.core.errors import StillhouseError
from tests.helpers.tiny_run import shell
from tests.helpers.two_hosts import DEAD_END, fed_template, make_fed_hosts, make_hosts, template  # noqa: F401


def refused(folder: Path, match: str) -> None:
    with pytest.raises(StillhouseError, match=match) as caught:
        place_order(folder, "train")
    assert "\n" not in str(caught.value)


def lose_letter_a(data: Path) -> None:
    """Delete one file of the folder `rows` from a cache or a remote."""
    (lost,) = (path for path in data.glob("files/md5/*/*") if path.read_text() == "a")
    lost.unlink()


def test_no_dvc_remote(hosts):
    (hosts.here / ".dvc/config.local").unlink()
    refused(hosts.here, "no default DVC remote is configured.*'dvc remote add --default NAME URL' sets one")
    (hosts.here / ".dvc/config.local").write_text("['remote \"store\"']\n    url = /nowhere\n")
    refused(hosts.here, "'dvc remote default store' sets one")


def test_code_that_is_not_committed(fed):
    (fed.here / "params.yaml").write_text((fed.here / "params.yaml").read_text() + "# another\n")
    place_order(fed.here, "train")
    (fed.here / "code" / "new.py").write_text("")
    refused(fed.here, "^code/new.py differs from the commit.*commit and push it")
    (fed.here / "code" / "steps.py").write_text("")
    refused(fed.here, r"^code/steps.py \(and 1 more\) differs from the commit")
    # In the worktree of a run the snapshot lies in git's index.
    shell("git", "add", "--all", folder=fed.here)
    refused(fed.here, r"^code/new.py \(and 1 more\) differs from the commit")


@pytest.mark.slow
def test_a_commit_that_no_git_remote_has(fed):
    shell("git", "commit", "--quiet", "--allow-empty", "-m", "not pushed", folder=fed.here)
    refused(fed.here, "is on no branch or tag of a git remote.*'git push' it")
    shell("git", "tag", "v1", folder=fed.here)
    refused(fed.here, "is on no branch or tag of a git remote")
    shell("git", "push", "--quiet", "origin", "v1", folder=fed.here)
    order = place_order(fed.here, "train")
    # A commit that only a tag holds reaches the other host too.
    assert not fulfil(order, fed.there, scratch=fed.scratch).cached
    shell("git", "remote", "remove", "origin", folder=fed.here)
    refused(fed.here, "no git remote")


def test_an_upstream_stage_that_has_not_run(hosts):
    refused(hosts.here, "train needs data/ingest/rows, which dvc.lock does not hold; run the stages before it first")


def test_a_stage_that_is_none(hosts):
    with pytest.raises(StillhouseError, match=r"'trian' is not a stage of dvc.yaml; did you mean 'train'"):
        place_order(hosts.here, "trian")


def test_inputs_that_this_host_has_lost(fed):
    """`dvc push` of a folder with a lost file warns, pushes the rest and exits with 0."""
    lose_letter_a(fed.here / ".dvc" / "cache")
    refused(fed.here, r"data/ingest/rows/0 did not reach DVC remote 'store' \(.*\): the local cache does not hold all of it")


def test_a_remote_that_does_not_answer(fed):
    pytest.importorskip("dvc_ssh")
    fed.use_remote(fed.here, DEAD_END)
    refused(
        fed.here,
        rf"^DVC remote 'store' \({DEAD_END}\) cannot be used: 'dvc push data/ingest/rows data/raw/own.txt.dvc' in .* failed: "
        r".*Connect call failed.*; check that it is up, its address and credentials$",
    )
    # The host that fulfils says the same.
    params, lock = ((fed.here / name).read_text() for name in ("params.yaml", "dvc.lock"))
    revision = shell("git", "rev-parse", "HEAD", folder=fed.here).stdout.strip()
    order = Order(stage="train", revision=revision, params=params, lock=lock, run="r")
    fed.use_remote(fed.there, DEAD_END)
    with pytest.raises(StoreError, match=rf"^DVC remote 'store' \({DEAD_END}\) does not answer: .*Connect call failed"):
        fulfil(order, fed.there, scratch=fed.scratch)


# ---- what cannot be fulfilled ----


def test_an_order_names_a_commit_and_not_a_branch():
    with pytest.raises(StillhouseError, match="order of train: 'main' is not a full commit hash"):
        Order(stage="train", revision="main", params="", lock="", run="r")


@pytest.mark.slow
def test_a_revision_is_fetched_and_an_unknown_one_refused(fed):
    (fed.here / "code" / "steps.py").write_text((fed.here / "code" / "steps.py").read_text() + "# newer\n")
    shell("git", "commit", "--quiet", "--all", "-m", "newer", folder=fed.here)
    shell("git", "push", "--quiet", "origin", "HEAD", folder=fed.here)
    order = place_order(fed.here, "train")
    assert not fulfil(order, fed.there, scratch=fed.scratch).cached
    unknown = replace(order, revision="0" * 40)
    with pytest.raises(StillhouseError, match=r"commit 000000000000, ordered by .*, is in no git remote of .*; push it"):
        fulfil(unknown, fed.there, scratch=fed.scratch)
    shell("git", "remote", "set-url", "origin", "/nowhere", folder=fed.there)
    with pytest.raises(StillhouseError, match=r"is in no git remote of .*'git fetch"):
        fulfil(unknown, fed.there, scratch=fed.scratch)


@pytest.mark.slow
def test_inputs_that_the_remote_has_lost(fed):
    order = place_order(fed.here, "train")
    expected = r"the inputs of train are not all in DVC remote 'store' \(.*/store\): .*data/ingest/rows.* missing; push"
    lose_letter_a(fed.store)
    with pytest.raises(StoreError, match=expected):
        fulfil(order, fed.there, scratch=fed.scratch)
    shell("rm", "-rf", str(fed.store), folder=fed.folder)
    with pytest.raises(StoreError, match=expected):
        fulfil(order, fed.clone("another"), scratch=fed.scratch)
    # Nothing was done, so that nothing is kept.
    assert list(fed.scratch.iterdir()) == []


def test_a_worker_without_a_remote_says_so_before_it_runs_the_stage(hosts):
    order = place_order(hosts.here, "baseline")
    (hosts.there / ".dvc/config.local").unlink()
    with pytest.raises(StoreError, match="no default DVC remote"):
        fulfil(order, hosts.there, scratch=hosts.scratch)
    assert hosts.ran() == []


@pytest.mark.slow
def test_a_failed_stage_keeps_its_worktree_and_pushes_nothing(fed, monkeypatch):
    order = place_order(fed.here, "train")
    before = sorted(fed.store.rglob("*"))
    monkeypatch.setenv("STAGE_FAILS", "train")
    with pytest.raises(CommandError, match="failed to reproduce 'train'"):
        fulfil(order, fed.there, scratch=fed.scratch)
    assert sorted(fed.store.rglob("*")) == before
    (kept,) = (path for path in fed.scratch.iterdir() if path.is_dir())
    assert (kept / "data/ingest/rows/0").is_file()
    monkeypatch.delenv("STAGE_FAILS")
    assert not fulfil(order, fed.there, scratch=fed.scratch).cached


@pytest.mark.slow
def test_an_execution_that_leaves_the_stage_stale_gives_no_receipt(fed):
    order = place_order(fed.here, "train")
    with pytest.raises(StoreError, match="train is not up to date"):
        fulfil(order, fed.there, lambda folder: False, scratch=fed.scratch)


@pytest.mark.slow
def test_a_run_of_which_the_cache_has_lost_a_file_is_not_published(fed):
    with fed.run() as folder:
        fed.repro(folder, "ingest")
        lose_letter_a(fed.here / ".dvc" / "cache")
        with pytest.raises(StoreError, match=r"data/ingest/rows/0 did not reach DVC remote 'store'"):
            publish(folder)
