"""Order and receipt between two clones that share only git and a DVC remote: a folder, an SSH server, an S3 server.

The pipelines are small: what is tested is what travels. `two_hosts.py` holds the machinery.
"""

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.remote import Order, Receipt, fulfil, merge, place_order, publish
from flows.settings import read_settings
from flows.store import StoreError, write_entry
from flows.workspace import CommandError
from stillhouse.core.errors import StillhouseError
from stillhouse.core.params import read_yaml
from tests.two_hosts import DEAD_END, Hosts, NetworkHosts, make_hosts, s3_server, shell, ssh_server  # noqa: F401


def order_and_merge(hosts: Hosts, folder: Path, stage: str) -> Receipt:
    """The whole way, through JSON as Prefect would carry it."""
    order = Order(**json.loads(json.dumps(asdict(place_order(folder, stage, "run-1")))))
    receipt = fulfil(order, hosts.there, scratch=hosts.scratch)
    receipt = Receipt(**json.loads(json.dumps(asdict(receipt))))
    merge(receipt, folder)
    return receipt


def test_a_stage_ordered_from_another_host_leaves_the_same_as_one_that_ran_here(hosts):
    with hosts.run() as folder:
        hosts.repro(folder, "ingest")
        params = folder / "params.yaml"
        params.write_text(params.read_text().replace("rate: 0.001", "rate: 1e-4"))
        receipt = order_and_merge(hosts, folder, "train")
        assert not receipt.cached
        assert hosts.ran() == ["here ingest", "there train"]
        assert json.loads(shell("dvc", "status", "--json", "train", folder=folder).stdout) == {}
        assert (folder / "data/train/model").read_text() == "0.0001 ab, raw"
        merged = (folder / "dvc.lock").read_bytes()
    # DVC's own record of a run on one host: the same bytes.
    hosts.here.joinpath("params.yaml").write_text(hosts.here.joinpath("params.yaml").read_text().replace("0.001", "1e-4"))
    shell("rm", "-rf", ".dvc/cache/runs", folder=hosts.here)
    hosts.repro(hosts.here, "train")
    assert hosts.ran()[2:] == ["here ingest", "here train"]
    assert (hosts.here / "dvc.lock").read_bytes() == merged
    assert list(hosts.scratch.iterdir()) == []
    assert shell("git", "worktree", "list", folder=hosts.there).stdout.count("\n") == 1


@pytest.mark.slow
def test_the_next_run_here_finds_the_merged_result_without_asking(hosts):
    with hosts.run() as folder:
        hosts.repro(folder, "ingest")
        order_and_merge(hosts, folder, "train")
    with hosts.run() as folder:
        hosts.repro(folder, "train")
    assert hosts.ran() == ["here ingest", "there train"]


@pytest.mark.slow
def test_the_record_that_is_pushed_is_the_one_that_dvc_wrote_and_no_other(hosts):
    hosts.repro(hosts.there, "baseline")
    records = {path.name for path in hosts.there.glob(".dvc/cache/runs/*/*/*")}
    with hosts.run() as folder:
        hosts.repro(folder, "ingest")
        order_and_merge(hosts, folder, "train")
    (new,) = {path.name for path in hosts.there.glob(".dvc/cache/runs/*/*/*")} - records
    assert [path.name for path in hosts.store.glob("runs/*/*/*")] == [new]


@pytest.mark.slow
def test_a_third_host_takes_the_result_of_the_second_from_the_remote(hosts):
    with hosts.run() as folder:
        hosts.repro(folder, "ingest")
        order = place_order(folder, "train")
        first = fulfil(order, hosts.there, scratch=hosts.scratch)
        second = fulfil(order, hosts.clone("third"), scratch=hosts.scratch)
    assert (first.cached, second.cached) == (False, True)
    assert first.entry == second.entry
    assert hosts.ran() == ["here ingest", "there train"]


@pytest.mark.slow
def test_a_fresh_clone_with_only_the_remote_restores_a_run_and_executes_nothing(hosts):
    with hosts.run() as folder:
        hosts.repro(folder, "ingest", "baseline")
        order_and_merge(hosts, folder, "train")
        publish(folder)
        lock = (folder / "dvc.lock").read_bytes()
    ran = hosts.ran()
    for name, text in (("with_lock", lock), ("without_lock", b"")):
        fresh = hosts.clone(name)
        if text:
            (fresh / "dvc.lock").write_bytes(text)
        shell("dvc", "repro", "--pull", folder=fresh)
        assert read_yaml(fresh / "dvc.lock") == read_yaml(hosts.as_yaml(lock))
        assert (fresh / "data/train/model").read_text() == "0.001 ab, raw"
        assert (fresh / "data/raw/own.txt").read_text() == "raw"
    assert hosts.ran() == ran


@pytest.mark.slow
def test_stages_that_end_at_the_same_time_all_stand_in_the_lock_file(hosts):
    with hosts.run() as folder:
        hosts.repro(folder, "ingest")
        receipts = [fulfil(place_order(folder, s), hosts.there, scratch=hosts.scratch) for s in ("train", "baseline")]
        failures = []

        def merged(receipt: Receipt) -> None:
            try:
                merge(receipt, folder)
            except StillhouseError as error:
                failures.append(str(error))

        threads = [threading.Thread(target=merged, args=[receipt]) for receipt in receipts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sorted(read_yaml(folder / "dvc.lock")["stages"]) == ["baseline", "ingest", "train"]
        assert shell("dvc", "status", "--json", folder=folder).stdout.strip() == "{}"


def test_an_entry_is_written_under_the_lock_of_dvc(hosts):
    """While a stage's command runs, DVC does not hold it; at its end DVC writes the lock file too."""
    folder = hosts.here
    (folder / "params.yaml").write_text("ingest: {letters: ab}\ntrain: {rate: 0.001}\nbaseline: {rate: 1}\n")
    threads = [threading.Thread(target=hosts.repro, args=[folder, "baseline"])]
    threads += [threading.Thread(target=write_entry, args=[folder, f"other_{i}", {"cmd": "x"}]) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stages = read_yaml(folder / "dvc.lock")["stages"]
    assert sorted(stages) == sorted(["baseline", *(f"other_{i}" for i in range(20))])


def test_a_receipt_whose_parameters_are_not_those_of_the_workspace_is_refused(hosts):
    with hosts.run() as folder:
        hosts.repro(folder, "ingest")
        receipt = fulfil(place_order(folder, "train"), hosts.there, scratch=hosts.scratch)
        (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("0.001", "0.002"))
        with pytest.raises(StoreError, match=r"train is not up to date in .*params.yaml.*modified"):
            merge(receipt, folder)


def test_settings_of_this_host_reach_the_worktrees_and_relative_paths_keep_their_meaning(hosts):
    (hosts.here / ".dvc/config.local").write_text("[core]\n    remote = near\n['remote \"near\"']\n    url = ../../near\n")
    with hosts.run() as folder:
        hosts.repro(folder, "ingest")
        place_order(folder, "train")
        assert read_settings(folder / ".dvc/config.local")['remote "near"']["url"] == str(hosts.folder / "near")
        assert (folder / ".dvc/config.local").stat().st_mode & 0o077 == 0
    assert list((hosts.folder / "near").glob("files/md5/*/*"))


# ---- what cannot be ordered, said in one line ----


def refused(folder: Path, match: str) -> None:
    with pytest.raises(StillhouseError, match=match) as caught:
        place_order(folder, "train")
    assert "\n" not in str(caught.value)


def test_no_dvc_remote(hosts):
    (hosts.here / ".dvc/config.local").unlink()
    refused(hosts.here, "no default DVC remote is configured.*'dvc remote add --default NAME URL' sets one")
    (hosts.here / ".dvc/config.local").write_text("['remote \"store\"']\n    url = /nowhere\n")
    refused(hosts.here, "'dvc remote default store' sets one")


def test_code_that_is_not_committed(hosts):
    hosts.repro(hosts.here, "ingest")
    (hosts.here / "params.yaml").write_text((hosts.here / "params.yaml").read_text() + "# another\n")
    place_order(hosts.here, "train")
    (hosts.here / "code" / "new.py").write_text("")
    refused(hosts.here, "^code/new.py differs from the commit.*commit and push it")
    (hosts.here / "code" / "steps.py").write_text("")
    refused(hosts.here, r"^code/steps.py \(and 1 more\) differs from the commit")
    # In the worktree of a run the snapshot lies in git's index.
    shell("git", "add", "--all", folder=hosts.here)
    refused(hosts.here, r"^code/new.py \(and 1 more\) differs from the commit")


@pytest.mark.slow
def test_a_commit_that_no_git_remote_has(hosts):
    hosts.repro(hosts.here, "ingest")
    shell("git", "commit", "--quiet", "--allow-empty", "-m", "not pushed", folder=hosts.here)
    refused(hosts.here, "is on no branch or tag of a git remote.*'git push' it")
    shell("git", "tag", "v1", folder=hosts.here)
    refused(hosts.here, "is on no branch or tag of a git remote")
    shell("git", "push", "--quiet", "origin", "v1", folder=hosts.here)
    order = place_order(hosts.here, "train")
    # A commit that only a tag holds reaches the other host too.
    assert not fulfil(order, hosts.there, scratch=hosts.scratch).cached
    shell("git", "remote", "remove", "origin", folder=hosts.here)
    refused(hosts.here, "no git remote")


def test_an_upstream_stage_that_has_not_run(hosts):
    refused(hosts.here, "train needs data/ingest/rows, which dvc.lock does not hold; run the stages before it first")


def test_a_stage_that_is_none(hosts):
    with pytest.raises(StillhouseError, match=r"'trian' is no stage of dvc.yaml; did you mean 'train'"):
        place_order(hosts.here, "trian")


def test_inputs_that_this_host_has_lost(hosts):
    """`dvc push` of a folder with a lost file warns, pushes the rest and exits with 0."""
    hosts.repro(hosts.here, "ingest")
    for path in hosts.here.glob(".dvc/cache/files/md5/*/*"):
        if path.read_text() == "a":
            path.unlink()
    refused(hosts.here, r"data/ingest/rows/0 did not reach DVC remote 'store' \(.*\): the local cache does not hold all of it")


def test_a_remote_that_does_not_answer(hosts):
    pytest.importorskip("dvc_ssh")
    hosts.repro(hosts.here, "ingest")
    hosts.use_remote(hosts.here, DEAD_END)
    refused(hosts.here, r"'dvc push data/ingest/rows data/raw/own.txt.dvc' in .* failed: .*Connect call failed")


# ---- what cannot be fulfilled ----


def test_an_order_names_a_commit_and_not_a_branch():
    with pytest.raises(StillhouseError, match="order of train: 'main' is no full commit hash"):
        Order(stage="train", revision="main", params="", lock="", run="r")


@pytest.mark.slow
def test_a_revision_is_fetched_and_an_unknown_one_refused(hosts):
    (hosts.here / "code" / "steps.py").write_text((hosts.here / "code" / "steps.py").read_text() + "# newer\n")
    shell("git", "commit", "--quiet", "--all", "-m", "newer", folder=hosts.here)
    shell("git", "push", "--quiet", "origin", "HEAD", folder=hosts.here)
    hosts.repro(hosts.here, "ingest")
    order = place_order(hosts.here, "train")
    assert not fulfil(order, hosts.there, scratch=hosts.scratch).cached
    unknown = replace(order, revision="0" * 40)
    with pytest.raises(StillhouseError, match=r"commit 000000000000, ordered by .*, is in no git remote of .*; push it"):
        fulfil(unknown, hosts.there, scratch=hosts.scratch)
    shell("git", "remote", "set-url", "origin", "/nowhere", folder=hosts.there)
    with pytest.raises(StillhouseError, match=r"is in no git remote of .*'git fetch"):
        fulfil(unknown, hosts.there, scratch=hosts.scratch)


@pytest.mark.slow
def test_inputs_that_the_remote_has_lost(hosts):
    hosts.repro(hosts.here, "ingest")
    order = place_order(hosts.here, "train")
    expected = r"the inputs of train are not all in DVC remote 'store' \(.*/store\): data/ingest/rows.* missing; push"
    for path in hosts.store.glob("files/md5/*/*"):
        if path.read_text() == "a":
            path.unlink()
    with pytest.raises(StoreError, match=expected):
        fulfil(order, hosts.there, scratch=hosts.scratch)
    shell("rm", "-rf", str(hosts.store), folder=hosts.folder)
    with pytest.raises(StoreError, match=expected):
        fulfil(order, hosts.clone("another"), scratch=hosts.scratch)
    # Nothing was done, so that nothing is kept.
    assert list(hosts.scratch.iterdir()) == []


def test_a_worker_without_a_remote(hosts):
    hosts.repro(hosts.here, "ingest")
    order = place_order(hosts.here, "train")
    (hosts.there / ".dvc/config.local").unlink()
    with pytest.raises(StoreError, match="no default DVC remote"):
        fulfil(order, hosts.there, scratch=hosts.scratch)


@pytest.mark.slow
def test_a_failed_stage_keeps_its_worktree_and_pushes_nothing(hosts, monkeypatch):
    hosts.repro(hosts.here, "ingest")
    order = place_order(hosts.here, "train")
    before = sorted(hosts.store.rglob("*"))
    monkeypatch.setenv("STAGE_FAILS", "train")
    with pytest.raises(CommandError, match="failed to reproduce 'train'"):
        fulfil(order, hosts.there, scratch=hosts.scratch)
    assert sorted(hosts.store.rglob("*")) == before
    (kept,) = hosts.scratch.iterdir()
    assert (kept / "data/ingest/rows/0").is_file()
    monkeypatch.delenv("STAGE_FAILS")
    assert not fulfil(order, hosts.there, scratch=hosts.scratch).cached


def test_an_execution_that_leaves_the_stage_stale_gives_no_receipt(hosts):
    hosts.repro(hosts.here, "ingest")
    order = place_order(hosts.here, "train")
    with pytest.raises(StoreError, match="train is not up to date"):
        fulfil(order, hosts.there, lambda folder: False, scratch=hosts.scratch)


# ---- real servers ----


@pytest.mark.slow
@pytest.mark.parametrize("server", ["ssh_server", "s3_server"])
def test_order_and_receipt_through_a_server(hosts, server, request):
    url, settings = request.getfixturevalue(server)
    for clone in (hosts.here, hosts.there):
        hosts.use_remote(clone, url, settings)
    with hosts.run() as folder:
        hosts.repro(folder, "ingest", "baseline")
        receipt = order_and_merge(hosts, folder, "train")
        assert not receipt.cached
        publish(folder)
        lock = (folder / "dvc.lock").read_bytes()
    assert not hosts.store.exists()
    fresh = hosts.clone("fresh")
    hosts.use_remote(fresh, url, settings)
    ran = hosts.ran()
    shell("dvc", "repro", "--pull", folder=fresh)
    assert hosts.ran() == ran
    assert read_yaml(fresh / "dvc.lock") == read_yaml(hosts.as_yaml(lock))


@pytest.mark.slow
def test_two_hosts_in_two_network_namespaces_that_cannot_see_each_other(tmp_path):
    """Parent and worker reach each other's data over one wire only: SSH for git and for DVC."""
    with NetworkHosts(tmp_path) as network:
        order = network.on_parent(
            "from flows.remote import place_order\n"
            "subprocess.run(['dvc', 'repro', '--quiet', 'ingest'], check=True, cwd=clone, env=environment(clone))\n"
            "answer = asdict(place_order(clone, 'train'))"
        )
        receipt = network.on_worker(
            "from flows.remote import Order, fulfil\n"
            "assert not any(hidden.iterdir())\n"
            "answer = asdict(fulfil(Order(**given), clone, scratch=clone.parent / 'scratch'))",
            given=order,
        )
        assert receipt["cached"] is False
        model = network.on_parent(
            "from flows.remote import Receipt, merge\n"
            "assert not any(hidden.iterdir())\n"
            "merge(Receipt(**given), clone)\n"
            "answer = (clone / 'data/train/model').read_text()",
            given=receipt,
        )
        assert model == "0.001 ab, raw"
