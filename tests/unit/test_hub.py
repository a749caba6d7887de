"""Downloads against a hub on the loopback: what arrives, what is refused, what stays behind."""

import hashlib
import json
import logging
import multiprocessing
import os
import socket
import traceback

import numpy as np
import pytest
from hub_server import Fault, HubServer, isolate

from flag_st.core.errors import FlagError
from flag_st.transfer.hub import Hub
from flag_st.transfer.store import RemoteFile, Store, git_digest, human

REPO = "owner/cohort"
KEY = f"datasets/{REPO}"
TOKEN = "hf_thisMustNeverBeSeenAnywhere"
BYTES = np.random.default_rng(0).bytes
FILES = {
    "st/A1.h5ad": BYTES(300_000),
    "st/A2.h5ad": BYTES(1_000),
    "metadata/A1.json": b'{"pixel_size_um_estimated": 0.5}',
    "patches/A1.h5": BYTES(200_000),
    "empty.txt": b"",
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    with HubServer({KEY: dict(FILES)}, tokens={TOKEN}) as server:
        yield server


@pytest.fixture
def hub(server, tmp_path):
    return Hub(REPO, tmp_path / "data", endpoint=server.url)


def visible(root) -> set[str]:
    """Files under their final names."""
    found = (p.relative_to(root) for p in root.rglob("*") if p.is_file())
    return {p.as_posix() for p in found if p.parts[0] != ".download"}


def test_files_arrive_whole_and_are_recorded(hub, server):
    names = list(FILES)
    paths = hub.fetch(names)
    assert [p.read_bytes() for p in paths] == [FILES[n] for n in names]
    assert visible(hub.root) == set(FILES)
    record = json.loads((hub.root / ".download/records/st/A1.h5ad.json").read_text())
    assert record == {
        "origin": f"dataset:{REPO}@main",
        "revision": server.commit(KEY),
        "path": "st/A1.h5ad",
        "bytes": 300_000,
        "sha256": hashlib.sha256(FILES["st/A1.h5ad"]).hexdigest(),
    }
    left = [p for p in (hub.root / ".download/partial").rglob("*") if p.is_file()]
    assert {p.suffix for p in left} == {".lock"}


def test_only_the_files_asked_for_are_transferred(hub, server):
    hub.fetch(["st/A2.h5ad"])
    assert visible(hub.root) == {"st/A2.h5ad"}
    assert {r.path.rpartition("//")[2] for r in server.transfers() if "/content/" in r.path} == {
        "st/A2.h5ad"
    }


def test_model_repositories_work_too(server, tmp_path):
    server.files["models/owner/encoder"] = {"pytorch_model.bin": b"weights"}
    hub = Hub("owner/encoder", tmp_path / "weights", kind="model", endpoint=server.url)
    assert hub.fetch(["pytorch_model.bin"])[0].read_bytes() == b"weights"


def test_second_call_asks_the_hub_nothing(hub, server):
    hub.fetch(list(FILES))
    server.requests.clear()
    hub.fetch(list(FILES))
    assert server.requests == []


def test_files_here_without_a_record_are_adopted_not_transferred(hub, server):
    (hub.root / "st").mkdir(parents=True)
    (hub.root / "st/A1.h5ad").write_bytes(FILES["st/A1.h5ad"])
    hub.fetch(["st/A1.h5ad"])
    assert server.transfers() == []
    server.requests.clear()
    hub.fetch(["st/A1.h5ad"])
    assert server.requests == []


def test_plan_states_sizes_and_transfers_nothing(hub, server):
    hub.fetch(["st/A2.h5ad"])
    server.requests.clear()
    plan = hub.plan(list(FILES))
    assert [f.path for f in plan.here] == ["st/A2.h5ad"]
    assert plan.need == sum(len(d) for n, d in FILES.items() if n != "st/A2.h5ad")
    assert "300.0 kB  st/A1.h5ad" in str(plan)
    assert server.transfers() == []


def test_plan_is_logged_before_the_first_byte(hub, server, caplog):
    seen = []

    class Watch(logging.Handler):
        def emit(self, record):
            seen.append((record.getMessage(), len(server.transfers())))

    logger = logging.getLogger("flag_st.transfer.store")
    logger.addHandler(watch := Watch())
    try:
        with caplog.at_level(logging.INFO, "flag_st.transfer.store"):
            hub.fetch(["st/A1.h5ad"])
    finally:
        logger.removeHandler(watch)
    message, transfers = seen[0]
    assert "1 files to download, 300.0 kB" in message
    assert transfers == 0


def test_a_moving_branch_is_kept_at_its_first_commit(hub, server, tmp_path):
    hub.fetch(["st/A1.h5ad"])
    first = server.commit(KEY)
    server.files[KEY]["st/A2.h5ad"] = b"newer release"
    with pytest.raises(FlagError, match="no revision main"):  # the stand-in keeps one commit only
        hub.fetch(["st/A2.h5ad"])
    assert first in json.loads((hub.root / ".download/revisions.json").read_text()).values()
    other = Hub(REPO, tmp_path / "other", revision=server.commit(KEY), endpoint=server.url)
    assert other.fetch(["st/A2.h5ad"])[0].read_bytes() == b"newer release"


def test_a_file_that_changed_at_its_origin_replaces_what_was_downloaded(hub, server):
    hub.fetch(["st/A2.h5ad"])
    server.files[KEY]["st/A2.h5ad"] = b"newer release"
    newer = Hub(REPO, hub.root, revision=server.commit(KEY), endpoint=server.url)
    assert newer.fetch(["st/A2.h5ad"])[0].read_bytes() == b"newer release"


# Faults of the connection


def test_a_cut_connection_resumes_within_the_call(hub, server):
    server.faults["st/A1.h5ad"] = Fault(cut=100_000, times=1)
    assert hub.fetch(["st/A1.h5ad"])[0].read_bytes() == FILES["st/A1.h5ad"]
    ranges = [r.range for r in server.transfers("st/A1.h5ad") if r.host == "network"]
    assert ranges == [None, "bytes=100000-"]
    assert server.sent["st/A1.h5ad"] == 300_000


def test_a_lost_connection_leaves_no_final_name_and_the_next_run_resumes(hub, server):
    server.faults["st/A1.h5ad"] = Fault(cut=100_000, times=1, then=Fault(cut=0))
    with pytest.raises(FlagError, match=r"connection to .* failed.*resumes"):
        hub.fetch(["st/A1.h5ad"])
    assert visible(hub.root) == set()
    server.faults = {}
    server.requests.clear()
    server.sent.clear()
    assert hub.plan(["st/A1.h5ad"]).need == 200_000
    assert hub.fetch(["st/A1.h5ad"])[0].read_bytes() == FILES["st/A1.h5ad"]
    assert {r.range for r in server.transfers("st/A1.h5ad")} == {"bytes=100000-"}
    assert server.sent["st/A1.h5ad"] == 200_000


def test_a_server_that_ignores_ranges_does_not_corrupt_a_resumed_file(hub, server):
    partial = hub.store._partial(hub._listed(["st/A1.h5ad"], server.commit(KEY))[0])
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 1000)
    server.faults["st/A1.h5ad"] = Fault(ignore_range=True)
    assert hub.fetch(["st/A1.h5ad"])[0].read_bytes() == FILES["st/A1.h5ad"]


def test_slow_transfer_arrives(hub, server):
    server.faults["patches/A1.h5"] = Fault(delay=0.05)
    assert hub.fetch(["patches/A1.h5"])[0].read_bytes() == FILES["patches/A1.h5"]


@pytest.mark.parametrize("where", ["st/A1.h5ad", "metadata/A1.json"])
def test_corruption_is_refused_and_the_next_run_succeeds(hub, server, where):
    server.faults[where] = Fault(corrupt=True, times=1)
    with pytest.raises(FlagError, match=f"{where} .*corrupted"):
        hub.fetch([where])
    assert visible(hub.root) == set()
    assert hub.fetch([where])[0].read_bytes() == FILES[where]


def test_server_errors_are_named(hub, server):
    server.faults["st/A1.h5ad"] = Fault(status=503)
    with pytest.raises(FlagError, match="answered 503"):
        hub.fetch(["st/A1.h5ad"])
    assert visible(hub.root) == set()


def test_unreachable_hub_is_an_error_even_if_the_folder_is_not_empty(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://me:secret@127.0.0.1:{free.getsockname()[1]}"
    root = tmp_path / "data"
    (root / "st").mkdir(parents=True)
    (root / "st/other.h5ad").write_bytes(b"something else")
    hub = Hub(REPO, root, endpoint=endpoint)
    with pytest.raises(FlagError, match=r"connection to 127\.0\.0\.1:\d+ failed"):
        hub.fetch(["st/A1.h5ad"])
    assert visible(root) == {"st/other.h5ad"}


def test_what_is_here_needs_no_hub(hub, server):
    hub.fetch(["st/A1.h5ad"])
    away = Hub(REPO, hub.root, endpoint="http://127.0.0.1:9")
    assert away.fetch(["st/A1.h5ad"])[0].read_bytes() == FILES["st/A1.h5ad"]


def test_offline_mode_is_named(hub, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(FlagError, match="HF_HUB_OFFLINE"):
        hub.fetch(["st/A1.h5ad"])


# Access


def test_gated_repository_without_login(hub, server):
    server.gated[KEY] = {TOKEN}
    with pytest.raises(FlagError, match=r"needs a login.*huggingface.co/datasets/owner/cohort"):
        hub.fetch(["st/A1.h5ad"])
    assert visible(hub.root) == set()


def test_gated_repository_with_accepted_conditions(hub, server, monkeypatch):
    server.gated[KEY] = {TOKEN}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub.fetch(["st/A1.h5ad"])[0].read_bytes() == FILES["st/A1.h5ad"]


def test_gate_not_accepted(hub, server, monkeypatch):
    server.gated[KEY] = set()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(FlagError, match="your login has no access; the repository is gated"):
        hub.fetch(["metadata/A1.json"])
    assert visible(hub.root) == set()


def test_expired_login(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(FlagError, match="does not accept your login"):
        hub.fetch(["st/A1.h5ad"])


def test_token_goes_to_the_hub_alone_and_nowhere_else(hub, server, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.gated[KEY] = {TOKEN}
    caplog.set_level(logging.DEBUG)
    hub.fetch(list(FILES))
    assert {r.authorized for r in server.requests if r.host == "hub"} == {True}
    assert {r.authorized for r in server.requests if r.host == "network"} == {False}
    texts = []
    server.gated[KEY] = set()
    faults = {"p.h5": Fault(status=500), "q.h5": Fault(corrupt=True), "r.h5": Fault(cut=0)}
    server.files[KEY] |= dict.fromkeys((*faults, "gate.h5"), b"0123456789")
    hub = Hub(REPO, hub.root, revision=server.commit(KEY), endpoint=server.url)
    for name in (*faults, "gate.h5", "unknown.h5"):
        server.faults = faults
        server.gated[KEY] = set() if name == "gate.h5" else {TOKEN}
        with pytest.raises(FlagError) as error:
            hub.fetch([name])
        texts.append("".join(traceback.format_exception(error.value)))
    assert len(set(texts)) == 5
    texts += [r.getMessage() + str(r.__dict__) for r in caplog.records]
    texts += [p.read_bytes().decode(errors="replace") for p in tmp_path.rglob("*") if p.is_file()]
    assert len(caplog.records) > 20
    assert not [t for t in texts if TOKEN in t]


# Names


def test_unknown_file_names_its_neighbours(hub, server):
    with pytest.raises(FlagError, match=r"no file st/A3.h5ad .*Valid: .*st/A1.h5ad"):
        hub.fetch(["st/A1.h5ad", "st/A3.h5ad"])
    assert server.transfers() == []
    with pytest.raises(FlagError, match=r"no file nowhere/A1.h5ad .*Valid: none"):
        hub.fetch(["nowhere/A1.h5ad"])


def test_unknown_repository_and_revision(server, tmp_path, monkeypatch):
    with pytest.raises(FlagError, match="owner/none needs a login"):
        Hub("owner/none", tmp_path, endpoint=server.url).fetch(["a"])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(FlagError, match="no dataset owner/none"):
        Hub("owner/none", tmp_path, endpoint=server.url).fetch(["a"])
    with pytest.raises(FlagError, match="no revision v9"):
        Hub(REPO, tmp_path, revision="v9", endpoint=server.url).fetch(["empty.txt"])


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "", ".download/x"])
def test_names_cannot_leave_the_folder(name):
    with pytest.raises(FlagError, match="no file name"):
        RemoteFile(name, 1)


def test_pinned_digest(server, tmp_path):
    good = hashlib.sha256(FILES["st/A1.h5ad"]).hexdigest()
    pin = {"st/A1.h5ad": good, "metadata/A1.json": "0" * 64}
    hub = Hub(REPO, tmp_path / "data", endpoint=server.url, sha256=pin)
    hub.fetch(["st/A1.h5ad"])
    with pytest.raises(FlagError, match="arrived corrupted: sha256"):
        hub.fetch(["metadata/A1.json"])
    bad = Hub(REPO, tmp_path / "data", endpoint=server.url, sha256={"st/A1.h5ad": "0" * 64})
    with pytest.raises(FlagError, match="is pinned"):
        bad.fetch(["st/A1.h5ad"])


# The folder


def test_a_changed_file_is_noticed(hub):
    path = hub.fetch(["st/A1.h5ad"])[0]
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    with pytest.raises(FlagError, match=r"changed since it was downloaded.*delete"):
        hub.fetch(["st/A1.h5ad"])


def test_a_stranger_under_the_name_is_not_overwritten(hub):
    path = hub.root / "st/A1.h5ad"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"my own notes")
    with pytest.raises(FlagError, match="is not the file"):
        hub.fetch(["st/A1.h5ad"])
    assert path.read_bytes() == b"my own notes"


def test_too_little_space_is_said_before_the_first_byte(hub, server):
    server.sizes["st/A1.h5ad"] = 10**17
    with pytest.raises(FlagError, match=r"100000.0 TB to download, but only .* free"):
        hub.fetch(["st/A1.h5ad"])
    assert server.transfers() == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device /dev/full")
def test_disk_that_fills_up_while_writing(hub, server):
    # Every write to /dev/full fails as on a full disk, whatever the free space said before.
    partial = hub.store._partial(hub._listed(["st/A1.h5ad"], server.commit(KEY))[0])
    partial.parent.mkdir(parents=True)
    partial.symlink_to("/dev/full")
    with pytest.raises(FlagError, match=r"disk full while writing.*resumes"):
        hub.fetch(["st/A1.h5ad"])
    assert visible(hub.root) == set()


def test_an_oversized_partial_file_starts_anew(hub, server):
    partial = hub.store._partial(hub._listed(["st/A2.h5ad"], server.commit(KEY))[0])
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 5000)
    assert hub.fetch(["st/A2.h5ad"])[0].read_bytes() == FILES["st/A2.h5ad"]


def _fetch(root, endpoint, queue):
    queue.put(Hub(REPO, root, endpoint=endpoint).fetch(["st/A1.h5ad"])[0].stat().st_size)


def test_two_processes_transfer_one_file_once(server, tmp_path):
    server.faults["st/A1.h5ad"] = Fault(delay=0.1)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    arguments = (tmp_path / "data", server.url, queue)
    workers = [context.Process(target=_fetch, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [queue.get(timeout=1) for _ in workers] == [300_000, 300_000]
    assert server.sent["st/A1.h5ad"] == 300_000


def test_git_digest_is_gits(tmp_path):
    (tmp_path / "file").write_bytes(b"hello\n")
    # printf 'hello\n' | git hash-object --stdin
    assert git_digest(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_sizes_for_people():
    assert [human(n) for n in (0, 999, 1000, 2.5e6, 3e9, 1.85e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "2.5 MB",
        "3.0 GB",
        "1.9 TB",
    ]


def test_store_does_not_take_records_of_another_origin(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    Store(tmp_path, "one").get([RemoteFile("a", 1)], lambda *_: None)
    assert Store(tmp_path, "one").recorded("a")
    assert Store(tmp_path, "two").recorded("a") is None
