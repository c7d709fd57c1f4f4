"""What is damaged in a DVC remote, or in the cache, is refused by name, and nothing is recorded of it."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.remote.dvc_transfer import StoreError
from flows.remote.order_receipt import fulfil, merge, place_order
from tests.helpers.servers import s3_server, ssh_server  # noqa: F401
from tests.helpers.tiny_run import shell
from tests.helpers.two_hosts import Hosts, fed_template, make_fed_hosts, make_hosts, template  # noqa: F401


def flip(data: bytes) -> bytes:
    """One bit of the last byte but one changed: the size stays."""
    return data[:-1] + bytes([data[-1] ^ 1])


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def rename(data: bytes) -> bytes:
    """A list of files in which one has another name: still a list."""
    return data.replace(b'"relpath": "0"', b'"relpath": "9"')


def hashed(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def objects(store: Path, md5: str) -> list[Path]:
    """An object of a remote or a cache, or the lists of files with `.dir`."""
    return [path for path in store.glob("files/md5/*/*") if path.parent.name + path.name == md5 or md5 == path.suffix]


def damage(store: Path, md5: str, change: Callable[[bytes], bytes]) -> Path:
    """Change an object in place, as rot on a disk does: neither its rights nor its name tell.

    Where a folder is the remote, DVC hashes single files that are not read-only; no server has such rights.
    """
    (path,) = objects(store, md5)
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))
    path.chmod(0o444)
    return path


def records(clone: Path) -> list[str]:
    return sorted(path.name for path in clone.glob(".dvc/cache/runs/*/*/*"))


# ---- order: the inputs ----

LETTER, OWN = hashed("b"), hashed("raw")
SLOW = pytest.mark.slow
INPUTS = [
    pytest.param(
        LETTER,
        flip,
        r"data/ingest/rows/1 is not what DVC has recorded; delete files/md5/92/eb5\w+ and ",
        id="a file of a folder",
    ),
    pytest.param(LETTER, cut, r"data/ingest/rows/1 is not", id="a file of a folder that was cut", marks=SLOW),
    pytest.param(
        OWN,
        flip,
        r"data/raw/own.txt is not what DVC has recorded; delete files/md5/bd/\w+ there, and run 'dvc push'",
        id="own data",
        marks=SLOW,
    ),
    pytest.param(
        ".dir",
        rename,
        r"data/ingest/rows is not what DVC has recorded; delete files/md5/\w\w/\w+\.dir there",
        id="a list of files",
        marks=SLOW,
    ),
    pytest.param(".dir", cut, r"data/ingest/rows", id="a list of files that was cut", marks=SLOW),
]


@pytest.mark.parametrize(("md5", "change", "match"), INPUTS)
def test_a_damaged_input_is_refused_by_name_before_the_stage_starts(fed, md5, change, match):
    order = place_order(fed.here, "train")
    damage(fed.store, md5, change)
    ran = fed.ran()
    with pytest.raises(
        StoreError, match=r"^the inputs of train came damaged from DVC remote 'store' \(.*\): " + match
    ) as caught:
        fulfil(order, fed.there, scratch=fed.scratch)
    assert "\n" not in str(caught.value)
    assert fed.ran() == ran
    assert records(fed.there) == []
    assert list(fed.scratch.iterdir()) == []
    # The remedy is the message's own.
    for name in re.findall(r"files/md5/\w\w/[\w.]+", str(caught.value)):
        (fed.store / name).unlink()
    shell("dvc", "push", folder=fed.here)
    receipt = fulfil(order, fed.there, scratch=fed.scratch)
    with fed.run() as folder:
        fed.repro(folder, "ingest")
        merge(receipt, folder)
        assert (folder / "data/train/model").read_text() == "0.001 ab, raw"


@pytest.mark.slow
def test_what_a_worker_has_pulled_damaged_before_is_refused_by_name(fed):
    """By plain `dvc pull`, whose remote does not verify: DVC takes what lies in its cache for good."""
    order = place_order(fed.here, "train")
    damage(fed.store, LETTER, flip)
    (fed.there / "dvc.lock").write_text(order.lock)
    shell("dvc", "pull", "data/ingest/rows", folder=fed.there)
    assert (fed.there / "data/ingest/rows/1").read_text() == "c"
    ran = fed.ran()
    with pytest.raises(
        StoreError, match=r"^data/ingest/rows/1 is not what dvc.lock records .*'python -m flows.verify --remove'"
    ):
        fulfil(order, fed.there, scratch=fed.scratch)
    assert fed.ran() == ran
    assert records(fed.there) == []


# ---- receipt: the outputs ----


@pytest.mark.parametrize(
    ("text", "name", "change"),
    [
        ("0.001 ab, raw", "model", flip),
        pytest.param("0.001 ab, raw", "model", cut, marks=SLOW),
        pytest.param('{"accuracy": 1}', "metrics.json", flip, marks=SLOW),
    ],
)
def test_a_damaged_result_is_refused_by_name_and_not_recorded(hosts, text, name, change):
    refuse_result(hosts, text, name, change)


@pytest.mark.slow
def test_a_damaged_result_leaves_the_one_before_it_recorded(hosts):
    with hosts.run() as folder:
        hosts.repro(folder, "train")
    (hosts.here / "params.yaml").write_text((hosts.here / "params.yaml").read_text().replace("rate: 0.001", "rate: 0.002"))
    (hosts.here / "dvc.lock").write_bytes((folder / "dvc.lock").read_bytes())
    refuse_result(hosts, "0.002 ab, raw", "model", flip)


def refuse_result(hosts: Hosts, text: str, name: str, change: Callable[[bytes], bytes]) -> None:
    with hosts.run() as folder:
        for file in ("params.yaml", "dvc.lock"):
            if (hosts.here / file).exists():
                shutil.copyfile(hosts.here / file, folder / file)
        hosts.repro(folder, "ingest")
        lock, known = (folder / "dvc.lock").read_text(), records(hosts.here)
        receipt = fulfil(place_order(folder, "train"), hosts.there, scratch=hosts.scratch)
        damage(hosts.store, hashed(text), change)
        expected = (
            rf"^the outputs of train came damaged from DVC remote 'store' .*: data/train/{name} is not what DVC has recorded"
        )
        with pytest.raises(StoreError, match=expected):
            merge(receipt, folder)
        assert (folder / "dvc.lock").read_text() == lock
        assert records(hosts.here) == known


@pytest.mark.slow
def test_a_damaged_result_of_another_host_is_not_taken_but_made_anew(fed):
    """The worker looks for the result in the remote's run-cache first."""
    order = place_order(fed.here, "train")
    first = fulfil(order, fed.there, scratch=fed.scratch)
    damage(fed.store, hashed("0.001 ab, raw"), flip)
    third = fed.clone("third")
    ran = fed.ran()
    second = fulfil(order, third, scratch=fed.scratch)
    assert (second.cached, second.entry) == (False, first.entry)
    assert fed.ran() == [*ran, "there train"]


# ---- servers ----


@pytest.mark.slow
@pytest.mark.parametrize("change", [flip, cut])
@pytest.mark.parametrize("server", ["ssh_server", "s3_server"])
def test_what_a_server_holds_damaged_is_refused_by_name(hosts, server, change, request, tmp_path):
    url, settings = request.getfixturevalue(server)
    for clone in (hosts.here, hosts.there):
        hosts.use_remote(clone, url, settings)
    with hosts.run() as folder:
        hosts.repro(folder, "ingest")
        order = place_order(folder, "train")
        harm(url, settings, LETTER, change)
        match = r"^the inputs of train came damaged from DVC remote 'store' .*: data/ingest/rows/1 is not what DVC has recorded"
        with pytest.raises(StoreError, match=match):
            fulfil(order, hosts.there, scratch=hosts.scratch)
        assert hosts.ran() == ["here ingest"]
        assert records(hosts.there) == []
        # A fresh clone's own `dvc repro --pull`, without a flow: its remote is told to verify.
        fresh = hosts.clone("fresh")
        hosts.use_remote(fresh, url, {**settings, "verify": "true"})
        (fresh / "dvc.lock").write_text(order.lock)
        shell("dvc", "repro", "--pull", "train", folder=fresh)
        assert (fresh / "data/train/model").read_text() == "0.001 ab, raw"


def harm(url: str, settings: dict[str, str], md5: str, change: Callable[[bytes], bytes]) -> None:
    """Damage an object behind a server."""
    name = f"files/md5/{md5[:2]}/{md5[2:]}"
    if url.startswith("ssh://"):
        path = Path(url.split("://", 1)[1].partition("/")[2])
        damage(Path("/") / path, md5, change)
        return
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=settings["endpointurl"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    data = client.get_object(Bucket="bucket", Key=f"store/{name}")["Body"].read()
    client.put_object(Bucket="bucket", Key=f"store/{name}", Body=change(data))
