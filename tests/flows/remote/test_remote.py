"""Order and receipt between two clones that share only git and a DVC remote: a folder, an SSH server, an S3 server.

The pipelines are small: what is tested is what travels. What is refused stands in `test_remote_refused.py`.
"""

import json
import re
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flows.remote.dvc_transfer import StoreError, write_entry
from flows.remote.order_receipt import Order, OrderError, Receipt, fulfil, merge, place_order, publish
from flows.repository.settings import read_settings
from flows.repository.workspace import open_workspace
from stillhouse.core.errors import StillhouseError
from stillhouse.core.params import read_yaml
from tests.helpers.network_hosts import NetworkHosts
from tests.helpers.servers import s3_server, ssh_server  # noqa: F401
from tests.helpers.tiny_run import shell
from tests.helpers.two_hosts import Hosts, fed_template, make_fed_hosts, make_hosts, template  # noqa: F401


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
def test_an_ordered_stage_works_with_data_that_were_written_anew_here(hosts):
    own = hosts.here / "data" / "raw" / "own.txt"
    own.unlink()
    own.write_text("written anew")
    folder = open_workspace(hosts.here, "edited")
    hosts.repro(folder, "ingest")
    order_and_merge(hosts, folder, "train")
    assert (folder / "data/train/model").read_text() == "0.001 ab, written anew"
    order = place_order(folder, "train")
    assert set(order.data) == {"data/raw/own.txt.dvc"}
    assert replace(order, data={"data/raw/models/bert.dvc": "x"}).data, "pointers of pretrained models travel, too"
    for name in ("../own.txt.dvc", "data/raw/../../x.dvc", "data/raw/models/../x.dvc", "/etc/x.dvc", "params.yaml"):
        with pytest.raises(OrderError, match=rf"order of train: '{re.escape(name)}' is no \.dvc file in data/raw"):
            replace(order, data={name: "x"})


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


@pytest.mark.slow
def test_a_receipt_whose_parameters_are_not_those_of_the_workspace_is_refused(fed):
    with fed.run() as folder:
        fed.repro(folder, "ingest")
        receipt = fulfil(place_order(folder, "train"), fed.there, scratch=fed.scratch)
        (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("0.001", "0.002"))
        with pytest.raises(StoreError, match=r"train is not up to date in .*params.yaml.*modified"):
            merge(receipt, folder)


def test_settings_of_this_host_reach_the_worktrees_and_relative_paths_keep_their_meaning(fed):
    (fed.here / ".dvc/config.local").write_text("[core]\n    remote = near\n['remote \"near\"']\n    url = ../../near\n")
    with fed.run() as folder:
        fed.repro(folder, "ingest")
        place_order(folder, "train")
        assert read_settings(folder / ".dvc/config.local")['remote "near"']["url"] == str(fed.folder / "near")
        assert (folder / ".dvc/config.local").stat().st_mode & 0o077 == 0
    assert list((fed.folder / "near").glob("files/md5/*/*"))


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
            "from flows.remote.order_receipt import place_order\n"
            "subprocess.run(['dvc', 'repro', '--quiet', 'ingest'], check=True, cwd=clone, env=environment(clone))\n"
            "answer = asdict(place_order(clone, 'train'))"
        )
        receipt = network.on_worker(
            "from flows.remote.order_receipt import Order, fulfil\n"
            "assert not any(hidden.iterdir())\n"
            "answer = asdict(fulfil(Order(**given), clone, scratch=clone.parent / 'scratch'))",
            given=order,
        )
        assert receipt["cached"] is False
        model = network.on_parent(
            "from flows.remote.order_receipt import Receipt, merge\n"
            "assert not any(hidden.iterdir())\n"
            "merge(Receipt(**given), clone)\n"
            "answer = (clone / 'data/train/model').read_text()",
            given=receipt,
        )
        assert model == "0.001 ab, raw"
