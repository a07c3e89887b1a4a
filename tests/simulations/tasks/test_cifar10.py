"""CIFAR-10 is read from its binary archive or what that holds, within bounds, never unpickled."""

import gzip
import io
import tarfile

import numpy as np
import pytest
import torch

from roundel.core.data import Examples
from roundel.core.errors import ConfigError, DataError
from roundel.core.seeds import isolated_rng
from roundel.simulations import simulate
from roundel.simulations.tasks import cifar10 as module
from roundel.simulations.tasks.augment import crop_and_flip
from roundel.simulations.tasks.cifar10 import ABOUT, cifar10, load_pool, load_test

RECORDS = 40
SIZE = RECORDS * 3073
NAMES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(module, "RECORDS", RECORDS)


def records(file):
    """Made-up records: class k has its rows 3k to 3k + 2 bright, in the colour k modulo 3."""
    noise = np.random.default_rng(file).integers(0, 32, (RECORDS, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(RECORDS, dtype=np.uint8) % 10
    for image, label in zip(noise, labels, strict=True):
        image[label % 3, 3 * label : 3 * label + 3] = 255
    return np.concatenate([labels[:, None], noise.reshape(RECORDS, -1)], axis=1)


DATA = {f"{name}.bin": records(i).tobytes() for i, name in enumerate([*NAMES, "test_batch"])}


def pack(path, files=DATA, folder="cifar-10-batches-bin/", **more):
    with tarfile.open(path / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, data in {"batches.meta.txt": b"airplane\n", **files, **more}.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def unpack(path):
    path.mkdir(exist_ok=True)
    for name, data in DATA.items():
        (path / name).write_bytes(data)
    return path


def complaint(path, load=load_pool):
    with pytest.raises(DataError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- reading


def test_the_pool_is_the_five_batches_in_their_order(tmp_path):
    pool = load_pool(pack(tmp_path))
    assert pool.inputs.shape == (5 * RECORDS, 3, 32, 32)
    assert (pool.inputs.dtype, pool.targets.dtype) == (torch.float32, torch.int64)
    assert pool.targets[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    third = records(2)[0, 1:].reshape(3, 32, 32) / 255
    for channel, (mean, std) in enumerate([(0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)]):
        expected = torch.from_numpy((third[channel] - mean) / std).float()
        assert pool.inputs[2 * RECORDS, channel].allclose(expected)


def test_the_test_set_is_the_batch_of_that_name(tmp_path):
    test = load_test(pack(tmp_path))
    red = records(5)[0, 1] / 255
    assert len(test) == RECORDS
    assert float(test.inputs[0, 0, 0, 0]) == pytest.approx((red - 0.4914) / 0.2470, rel=1e-5)


def test_archive_folder_and_files_are_the_same_data(tmp_path):
    packed = load_pool(pack(tmp_path)).inputs
    assert load_pool(tmp_path / "cifar-10-binary.tar.gz").inputs.equal(packed)
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    folder = unpack(unpacked / "cifar-10-batches-bin")
    assert load_pool(unpacked).inputs.equal(packed)
    assert load_pool(folder).inputs.equal(packed)


def test_reading_an_archive_writes_nothing(tmp_path):
    load_pool(pack(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


# ---- what is wrong with the data


def test_without_a_path_it_is_said_where_the_data_belongs():
    assert complaint(None) == (
        "cifar10 does not ship with Roundel; set task.path to the directory that holds "
        "cifar-10-binary.tar.gz"
    )


def test_an_empty_directory_and_a_missing_one_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        assert complaint(path) == (
            f"there is neither cifar-10-binary.tar.gz nor cifar-10-batches-bin in {path}; set "
            "task.path to the directory that holds one of them"
        )


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-batches-py/", "data_batch_1"])
def test_pickles_are_refused_with_the_name_of_the_other_archive(tmp_path, name):
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_bytes(b"\x80\x04")
    sentence = complaint(tmp_path)
    assert f"has {name.strip('/')}, CIFAR-10 as pickles" in sentence
    assert "download the binary version, cifar-10-binary.tar.gz" in sentence
    if not name.endswith("/"):
        assert "as pickles" in complaint(tmp_path / name)


@pytest.mark.parametrize("length", [0, 5, 1000, 100_000])
def test_an_archive_cut_short_is_refused(tmp_path, length):
    file = pack(tmp_path) / "cifar-10-binary.tar.gz"
    file.write_bytes(file.read_bytes()[:length])
    sentence = complaint(tmp_path)
    assert sentence.startswith(f"{file} cannot be read (")
    assert sentence.endswith("it is truncated, damaged or another archive: download it again")


def test_damaged_bytes_in_an_archive_are_noticed(tmp_path):
    file = pack(tmp_path) / "cifar-10-binary.tar.gz"
    data = bytearray(file.read_bytes())
    for place in range(1000, 1100):
        data[place] ^= 0x55
    file.write_bytes(bytes(data))
    assert "cannot be read" in complaint(tmp_path)


def test_a_member_of_another_size_is_refused(tmp_path):
    pack(tmp_path, DATA | {"data_batch_3.bin": DATA["data_batch_3.bin"][:-3073]})
    assert complaint(tmp_path) == (
        f"cifar-10-batches-bin/data_batch_3.bin has {SIZE - 3073} bytes and not the {SIZE} of "
        f"{RECORDS} images; it is truncated or damaged: download the archive again"
    )


def test_a_missing_member_is_named(tmp_path):
    pack(tmp_path, {name: data for name, data in DATA.items() if name != "data_batch_5.bin"})
    assert "it has no file cifar-10-batches-bin/data_batch_5.bin" in complaint(tmp_path)
    assert len(load_test(tmp_path)) == RECORDS


def test_members_outside_the_folder_do_not_count(tmp_path):
    pack(tmp_path, folder="../")
    assert "it has no file cifar-10-batches-bin/data_batch_1.bin" in complaint(tmp_path)
    assert not (tmp_path.parent / "data_batch_1.bin").exists()


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(DATA["test_batch.bin"])
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.type, member.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(member)
    assert "it has no file cifar-10-batches-bin/test_batch.bin" in complaint(tmp_path, load_test)


def test_a_small_archive_that_unpacks_to_a_huge_one_is_refused(tmp_path):
    file = tmp_path / "cifar-10-binary.tar.gz"
    file.write_bytes(gzip.compress(bytes(6 * SIZE + (1 << 20) + 1), compresslevel=1))
    assert f"it unpacks to more than {6 * SIZE + (1 << 20)} bytes" in complaint(tmp_path)


def test_a_file_of_another_size_is_refused(tmp_path):
    file = unpack(tmp_path) / "data_batch_2.bin"
    for data in (DATA["data_batch_2.bin"][:-1], DATA["data_batch_2.bin"] + b"\0"):
        file.write_bytes(data)
        assert complaint(tmp_path).startswith(f"{file} has {len(data)} bytes and not the {SIZE}")


def test_a_missing_file_beside_others_is_named(tmp_path):
    (unpack(tmp_path) / "test_batch.bin").unlink()
    assert complaint(tmp_path, load_test) == (
        f"{tmp_path / 'test_batch.bin'} cannot be read (No such file or directory); extract "
        "cifar-10-binary.tar.gz again"
    )


def test_a_label_that_is_no_class_is_refused(tmp_path):
    data = bytearray(DATA["test_batch.bin"])
    data[7 * 3073] = 10
    (unpack(tmp_path) / "test_batch.bin").write_bytes(bytes(data))
    assert complaint(tmp_path, load_test) == (
        f"test_batch.bin in {tmp_path}: example 7 has the label 10, but labels are 0 to 9"
    )


# ---- models and augmentation


@pytest.mark.parametrize(("model", "norm"), [("cnn", "group"), ("resnet", "batch")])
def test_models_score_ten_classes_and_have_as_many_parameters_as_is_said(model, norm):
    made = cifar10(model=model, norm=norm).new_model(0)
    assert made(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in made.parameters()) == ABOUT.models[model]


def test_the_first_model_is_the_default():
    assert cifar10().model is cifar10(model=next(iter(ABOUT.models))).model


def test_the_residual_network_has_20_layers_whatever_its_normalisation():
    for norm in ("group", "batch", "layer"):
        model = cifar10(model="resnet", norm=norm).new_model(0)
        kinds = [type(part).__name__ for part in model.modules()]
        assert kinds.count("Conv2d") + kinds.count("Linear") == 20
        assert ("BatchNorm2d" in kinds) == (norm == "batch")
        assert sum(p.numel() for p in model.parameters()) == 269_722


def test_a_shortcut_takes_every_second_pixel_and_adds_channels_of_zeros():
    block = module.Block(16, 32, 2, "layer")
    for part in block.parameters():
        part.data.zero_()
    images = torch.rand(2, 16, 6, 6)
    out = block(images)
    assert out.shape == (2, 32, 3, 3)
    assert out[:, 8:24].equal(images[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_an_unknown_model_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match="'resnet20' is not a model of cifar10; did you mean"):
        cifar10(model="resnet20")


def test_batches_are_augmented_if_that_is_asked_for():
    assert cifar10().augment is None
    augment = cifar10(augment=True).augment
    assert augment is not None
    batch = Examples(torch.rand(8, 3, 32, 32), torch.arange(8))
    with isolated_rng(0):
        changed = augment(batch)
    with isolated_rng(0):
        assert crop_and_flip(batch).inputs.equal(changed.inputs)
    assert not changed.inputs.equal(batch.inputs)


def test_a_federation_learns_the_made_up_photographs(tmp_path):
    run = simulate(
        settings=[
            *("task.name=cifar10", f"task.path={pack(tmp_path)}", "evaluation.clients=0"),
            *("partition.kind=iid", "partition.clients=2", "partition.test=0", "cohort.size=2"),
            *("client.lr=0.02", "client.momentum=0.8", "client.epochs=2", "client.batch_size=5"),
            "rounds=3",
        ],
        out=tmp_path / "run",
    )
    assert run.series("accuracy")[-1] >= 0.9
