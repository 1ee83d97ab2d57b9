"""Results in a store: the files of a folder, each picture once, whatever dies; in memory, and by S3 itself."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

import e2e_deploy as e2e
from e2e_deploy.errors import E2EDeployError, InputError, UsageError
from e2e_deploy.runtime.bulk import bulk as bulk_module
from e2e_deploy.runtime.bulk import store as module
from e2e_deploy.runtime.bulk.ledger import Ledger
from e2e_deploy.runtime.bulk.outputs.objects import StoreOutput
from e2e_deploy.runtime.bulk.parcel import Parcel
from tests.plain_bundle import write_plain_bundle
from tests.runtime.bulk import s3
from tests.runtime.bulk.serial import DAMAGED, results_of, without_ray, write_pictures

COUNT, OUT = 14, "memory://bucket/out"
PLAN = {"schema": 1, "pictures": 9}


@pytest.fixture
def kept(monkeypatch):
    """A store in memory, of fsspec, which is one here because there is one process."""
    memory = pytest.importorskip("fsspec").filesystem("memory")
    monkeypatch.setattr(module, "_HERE", ())
    memory.store.clear()
    yield memory
    memory.store.clear()
    module._filesystem.cache_clear()


@pytest.fixture
def inputs(tmp_path):
    pictures = write_pictures(tmp_path / "in", COUNT)
    write_pictures(pictures / "sub", 2)
    return pictures, write_plain_bundle(tmp_path / "depth")


def objects(memory):
    """The results in the store, by the names that they would have in a folder."""
    files = {name.removeprefix("/bucket/out/"): memory.cat_file(name) for name in memory.store}
    return {name: data for name, data in files.items() if not name.startswith("_bulk/")}


@pytest.mark.parametrize("format", ["png16", "parquet", "webdataset", "zarr"])
def test_the_files_are_those_of_a_folder(inputs, kept, tmp_path, monkeypatch, format):
    without_ray(monkeypatch)
    there = e2e.bulk(*inputs, OUT, format=format, shard=4)
    here = e2e.bulk(*inputs, tmp_path / "out", format=format, shard=4)
    assert objects(kept) == results_of(tmp_path / "out")
    assert (there.out, there.written) == (OUT, here.written)
    told = json.loads(kept.cat_file("/bucket/out/_bulk/report.json"))
    assert (told["failures"], told["out"]) == (len(DAMAGED), OUT)
    for name in ("failed.csv", "failed.parquet"):
        of_folder = (tmp_path / "out" / "_bulk" / name).read_bytes()
        assert kept.cat_file(f"/bucket/out/_bulk/{name}") == of_folder


class DeathError(Exception):
    """What stands for the end of the process."""


@pytest.mark.parametrize("alive", [0, 1, 3])
def test_what_died_goes_on(inputs, kept, tmp_path, monkeypatch, alive):
    begun = []

    def die(parcel):
        if len(begun) == alive:
            raise DeathError
        begun.append(parcel.shard)

    without_ray(monkeypatch, before_write=die)
    with pytest.raises(E2EDeployError, match=f"DeathError; {4 * alive} of 16 pictures are done"):
        e2e.bulk(*inputs, OUT, shard=4)
    again = []
    without_ray(monkeypatch, before_write=lambda p: again.append(p.shard), order=reversed)
    report = e2e.bulk(*inputs, OUT, shard=4)
    assert sorted(begun + again) == list(range(4))
    e2e.bulk(*inputs, tmp_path / "out", shard=4)
    assert objects(kept) == results_of(tmp_path / "out")
    assert (report.before, report.finished) == (4 * alive, COUNT + 2)


def test_a_store_that_takes_no_more_ends_the_run_in_a_sentence(inputs, kept, tmp_path, monkeypatch):
    without_ray(monkeypatch)
    write = module.Store.write

    def full(self, name, data):
        if name == "p008_depth.json":
            with module._told(self.shown(name), "could not be written", E2EDeployError):
                raise OSError("AWS Error QUOTA during PutObject operation: no more")
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(module.Store, "write", full)
        said = (
            "out/p008_depth.json could not be written: AWS Error QUOTA .* 8 of 16 pictures are done"
        )
        with pytest.raises(E2EDeployError, match=said):
            e2e.bulk(*inputs, OUT, shard=4)
    e2e.bulk(*inputs, OUT, shard=4)
    e2e.bulk(*inputs, tmp_path / "out", shard=4)
    assert objects(kept) == results_of(tmp_path / "out")


def test_two_runs_of_the_same_do_no_harm(kept):
    """Both write; a shard that both have done counts once."""
    with Ledger(OUT).open(PLAN) as one, Ledger(OUT).open(PLAN) as two:
        one.commit([Parcel(0, written=3), Parcel(1, written=3)])
        two.commit([Parcel(1, written=3), Parcel(2, written=2)])
        one.commit([Parcel(3, written=1)])
    again = Ledger(OUT)
    with again.open(PLAN):
        assert again.done == {0, 1, 2, 3}
        assert again.written == 9
    assert len(kept.ls("/bucket/out/_bulk/ledger")) == 3


def test_two_runs_of_different_things_see_each_other(kept):
    with Ledger(OUT).open(PLAN) as one:
        with pytest.raises(UsageError, match="begun with other pictures"):
            Ledger(OUT).open(PLAN | {"pictures": 8}).__enter__()
        # As if the other had looked before our plan was there.
        kept.pipe_file("/bucket/out/_bulk/plan.json", json.dumps(PLAN | {"pictures": 8}).encode())
        with pytest.raises(UsageError, match="begun with other pictures"):
            one.commit([Parcel(0, written=3)])


def test_what_is_there_and_is_no_run(inputs, kept, tmp_path):
    kept.pipe_file("/bucket/out/a.png", b"x")
    with pytest.raises(UsageError, match=f"{OUT} holds files that no bulk run wrote"):
        e2e.bulk(*inputs, OUT)
    with pytest.raises(UsageError, match="`out` memory://bucket/in/out lies in memory://bucket/in"):
        e2e.bulk("memory://bucket/in/", inputs[1], "memory://bucket/in/out")
    with pytest.raises(UsageError, match="credentials and options come from the environment"):
        e2e.bulk(*inputs, "s3://key:pass@bucket/out")


def test_a_store_that_is_not_there_is_no_missing_input(monkeypatch):
    for name, value in s3.variables("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "TRIES", 1)
    module._filesystem.cache_clear()
    with pytest.raises(E2EDeployError, match="nobody answers") as caught:
        Ledger("s3://bucket/out").open(PLAN).__enter__()
    module._filesystem.cache_clear()
    assert not isinstance(caught.value, InputError)


def test_a_damaged_ledger_is_a_sentence(kept):
    with Ledger(OUT).open(PLAN) as ledger:
        ledger.commit([Parcel(0, written=3)])
    (name,) = kept.ls("/bucket/out/_bulk/ledger", detail=False)
    kept.pipe_file(name, b"{")
    with pytest.raises(InputError, match=f"{OUT}/_bulk/ledger/000001-.* cannot be read as JSON"):
        Ledger(OUT).open(PLAN).__enter__()
    kept.rm("/bucket/out/_bulk/plan.json")
    with pytest.raises(InputError, match=r"plan.json is missing"):
        Ledger(OUT).open(PLAN).__enter__()


def test_what_goes_to_workers_holds_the_address_alone(monkeypatch):
    for name, value in s3.variables("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    module._filesystem.cache_clear()
    data = pickle.dumps(StoreOutput("s3://bucket/out"))
    module._filesystem.cache_clear()
    assert b"s3://bucket/out" in data
    assert s3.SECRET.encode() not in data
    assert len(data) < 200


@s3.needs_s3
def test_results_in_s3_by_ray_of_a_run_that_is_killed(inputs, tmp_path):
    pictures, bundle = inputs
    write_pictures(pictures / "many", 200, sizes=((240, 320),))
    with s3.server() as given:
        theirs = s3.bucket("bucket", given["AWS_ENDPOINT_URL"])
        command = [sys.executable, "-m", "e2e_deploy", "bulk", str(pictures), "--workers", "1"]
        command += ["--bundle", str(bundle), "--out", "s3://bucket/out", "--cores", "1"]
        surroundings = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
        options = {"env": surroundings | given, "stderr": subprocess.PIPE, "text": True}

        def there():
            from pyarrow import fs

            found = theirs.get_file_info(
                fs.FileSelector("bucket/out", recursive=True, allow_not_found=True)
            )
            return {f.path.removeprefix("bucket/out/"): f for f in found if f.is_file}

        process = subprocess.Popen([*command, "--shard", "4"], **options)
        while process.poll() is None and sum("_depth.png" in name for name in there()) < 20:
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        again = subprocess.run(
            [*command, "--shard", "4"], check=False, stdout=subprocess.PIPE, timeout=500, **options
        )
        assert again.returncode == 1, again.stderr
        assert again.stdout.strip() == "s3://bucket/out/_bulk/report.json"
        contents = {}
        for name in there():
            with theirs.open_input_file(f"bucket/out/{name}") as stream:
                contents[name] = stream.read()
        refused = subprocess.run(
            [*command[:-4], "--out", "s3://nosuch/out"], check=False, timeout=100, **options
        )
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    assert last == "error: s3://nosuch/*** cannot be read: there is no such bucket"
    with pytest.MonkeyPatch.context() as patch:
        without_ray(patch)
        bulk_module.bulk(pictures, bundle, tmp_path / "ref", shard=4)
    found = {name: data for name, data in contents.items() if not name.startswith("_bulk/")}
    assert found == results_of(tmp_path / "ref")
    assert json.loads(contents["_bulk/report.json"])["finished"] == COUNT + 202
    assert not [name for name, data in contents.items() if s3.SECRET.encode() in data]


def test_who_begins_while_ray_does_is_seen_before_the_first_result(inputs, kept, monkeypatch):
    without_ray(monkeypatch)
    plain = bulk_module.cluster

    @contextmanager
    def slow(*given, **asked):
        with plain(*given, **asked) as here:
            kept.pipe("/bucket/out/_bulk/plan.json", json.dumps(PLAN).encode())
            yield here

    monkeypatch.setattr(bulk_module, "cluster", slow)
    with pytest.raises(UsageError, match="begun with other"):
        e2e.bulk(*inputs, OUT, shard=4)
    assert not objects(kept)


def test_a_long_ledger_is_listed_once(kept, monkeypatch):
    with Ledger(OUT).open(PLAN) as ledger:
        for shard in range(6):
            ledger.commit([Parcel(shard, written=1)])
    looked = []
    folder = module.Store.folder
    monkeypatch.setattr(
        module.Store, "folder", lambda self, name="": looked.append(name) or folder(self, name)
    )
    again = Ledger(OUT)
    with again.open(PLAN):
        assert again.written == 6
    assert looked.count("_bulk/ledger") == 1


def test_an_address_with_credentials_is_not_shown(inputs):
    with pytest.raises(UsageError) as caught:
        e2e.bulk("s3://KEY:SECRET@bucket/p", inputs[1], "s3://KEY:SECRET@bucket/p/out")
    assert "SECRET" not in str(caught.value)
