"""A bundle that was changed in any way is refused, by name where a name is known."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from made_bundles import blob, layers_of, make_by_hand, manifest_of, write_pair

from edgeslm.bundle import layout
from edgeslm.bundle.contents import Contents
from edgeslm.bundle.layout import open_layout, read_image
from edgeslm.bundle.signing import read_private_key
from edgeslm.bundle.verification import sign_bundle, verify_bundle
from edgeslm.errors import (
    EdgeslmError,
    InvalidBundle,
    InvalidGGUF,
    NotFound,
    OutputFailure,
    Unsupported,
    Untrusted,
    UserError,
)

MUTATIONS = 1000


def sign(bundle: Path, private: Path) -> Contents:
    return sign_bundle(bundle, read_private_key(private, str))


def test_it_is_complete_and_unchanged(packed: Path, tar: Path) -> None:
    in_directory, in_tar = verify_bundle(packed), verify_bundle(tar)
    assert in_directory == in_tar
    assert (in_tar.signed, in_tar.key) == (False, None)
    assert in_tar.contents.created_by is not None
    assert in_tar.contents.created_by.startswith("edgeslm ")


@pytest.mark.parametrize("first", [64, 1 << 20])
def test_of_a_model_in_a_tar_as_much_is_read_as_its_header_takes(
    packed: Path, tar: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    monkeypatch.setattr(layout, "_FIRST_BYTES", first)
    assert verify_bundle(tar).contents == verify_bundle(packed).contents


def test_a_full_disk_for_temporary_files(tar: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OutputFailure, match="cannot write"):
            verify_bundle(tar)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_nothing_there_and_other_things(tmp_path: Path, model: Path) -> None:
    with pytest.raises(NotFound):
        verify_bundle(tmp_path / "none")
    with pytest.raises(InvalidBundle, match="neither a directory nor a tar"):
        verify_bundle(model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidBundle, match="not a bundle"):
        verify_bundle(tmp_path / "empty")
    with pytest.raises(EdgeslmError, match="too long"):
        verify_bundle(tmp_path / ("x" * 300))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidBundle):
        verify_bundle(tmp_path / "pipe")


def test_a_bundle_made_by_hand_is_read(tmp_path: Path, model: Path) -> None:
    for named in (True, False):
        bundle = make_by_hand(tmp_path / str(named), model.read_bytes(), named=named)
        contents = verify_bundle(bundle).contents
        assert contents.model.file == ("weights/some.gguf" if named else "model.gguf")
        assert contents.model.architecture == "llama"
        assert (contents.prediction, contents.prompt, contents.created_by) == (None, None, None)


def test_a_tar_made_by_tar_is_read(tmp_path: Path, packed: Path, private: Path) -> None:
    sign(packed, private)
    for number, kind in enumerate((tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=kind) as stream:
            stream.add(packed, ".")
        assert verify_bundle(path, private.with_suffix(".pub")).contents.model.file == "model.gguf"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"artifactType": "application/vnd.other"}, "artifactType"),
        ({"schemaVersion": 1}, "schemaVersion"),
        ({"mediaType": "application/vnd.oci.image.index.v1+json"}, "mediaType"),
        ({"layers": []}, "0 layers"),
        ({"layers": [{}] * 5000}, "5000 layers"),
        ({"layers": ["x"]}, "not a JSON object"),
        ({"layers": None}, "layers has the wrong type"),
        ({"config": {"mediaType": "text/plain"}}, "mediaType"),
        ({"annotations": {"x": 1}}, "annotations"),
    ],
)
def test_other_manifests_are_refused(
    tmp_path: Path, model: Path, change: dict[str, object], words: str
) -> None:
    bundle = make_by_hand(tmp_path / "bundle", model.read_bytes(), change=change)
    with pytest.raises(InvalidBundle, match=words):
        verify_bundle(bundle)


LAYER = {
    "mediaType": "application/vnd.cncf.model.weight.v1.raw",
    "digest": "sha256:" + "0" * 64,
    "size": 3,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": "sha512:" + "0" * 128}, "not of SHA-256"),
        ({"digest": "sha256:" + "0" * 63}, "not a SHA-256"),
        ({"digest": "sha256:" + "A" * 64}, "not a SHA-256"),
        ({"digest": "sha256:../../../../etc/passwd"}, "not a SHA-256"),
        ({"size": -1}, "size"),
        ({"size": True}, "size has the wrong type"),
        ({"size": 1.5}, "size has the wrong type"),
        ({"annotations": ["x"]}, "annotations"),
        ({}, "is missing, or not a regular file"),
    ],
)
def test_malformed_layers_are_refused(
    tmp_path: Path, model: Path, change: dict[str, object], words: str
) -> None:
    layers = {"layers": [{**LAYER, **change}]}
    bundle = make_by_hand(tmp_path / "bundle", model.read_bytes(), change=layers)
    with pytest.raises(InvalidBundle, match=words):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    "name",
    [
        *("../x", "/etc/passwd", "a/../b", "a//b", "", ".", "..", "a/", "a\\b", "a\nb", "\0"),
        *("x" * 256, "C:x", "\u202egnp", "a/./b", "~*", "\ud800"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, model: Path, name: str) -> None:
    for key in ("org.cncf.model.filepath", "org.opencontainers.image.title"):
        layers = {"layers": [{**LAYER, "annotations": {key: name}}]}
        bundle = make_by_hand(tmp_path / key, model.read_bytes(), change=layers)
        with pytest.raises(InvalidBundle, match=r"not a plain relative file name|surrogates"):
            verify_bundle(bundle)


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/b", "a/b/c")])
def test_names_that_clash_are_refused(tmp_path: Path, model: Path, names: tuple[str, ...]) -> None:
    layers = [{**LAYER, "annotations": {"org.cncf.model.filepath": name}} for name in names]
    bundle = make_by_hand(tmp_path / "b", model.read_bytes(), change={"layers": layers})
    with pytest.raises(InvalidBundle, match="named twice"):
        verify_bundle(bundle)


def test_two_names_for_one_file_are_refused(tmp_path: Path, model: Path) -> None:
    both = {"org.cncf.model.filepath": "a", "org.opencontainers.image.title": "b"}
    layers = {"layers": [{**LAYER, "annotations": both}]}
    bundle = make_by_hand(tmp_path / "b", model.read_bytes(), change=layers)
    with pytest.raises(InvalidBundle, match="two names"):
        verify_bundle(bundle)


def test_one_role_is_one_layer(tmp_path: Path, model: Path) -> None:
    layer = {**LAYER, "annotations": {"io.github.edgeslm.role": "chat"}}
    bundle = make_by_hand(tmp_path / "b", model.read_bytes(), change={"layers": [layer, layer]})
    with pytest.raises(InvalidBundle, match="two layers for chat"):
        verify_bundle(bundle)


def test_weights_in_another_form_are_refused_with_a_reason(tmp_path: Path, model: Path) -> None:
    def as_tar(bundle: Path) -> dict[str, object]:
        layer = manifest_of(bundle)["layers"][0]
        return {"layers": [{**layer, "mediaType": "application/vnd.cncf.model.weight.v1.tar"}]}

    first = make_by_hand(tmp_path / "first", model.read_bytes())
    bundle = make_by_hand(tmp_path / "bundle", model.read_bytes(), change=as_tar(first))
    with pytest.raises(Unsupported, match="no GGUF file") as caught:
        verify_bundle(bundle)
    assert "weight.v1.tar" in (caught.value.hint or "")


def test_a_model_that_llama_cpp_cannot_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidGGUF):
        verify_bundle(make_by_hand(tmp_path / "b", b"GGUF\3\0\0\0"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe{\0}\0", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"schemaVersion":2,"schemaVersion":2,"manifests":[]}', "twice"),
        (b'{"schemaVersion":2,"manifests":[NaN]}', "no JSON"),
        (b'{"schemaVersion":2,"manifests":[]}', "names 0 manifests"),
        (b'{"schemaVersion":2,"manifests":[{},{}]}', "names 2 manifests"),
        (b'{"schemaVersion":2,"manifests":[],"subject":{}}', "unknown entry 'subject'"),
        (b" " * (5 << 20), "too large"),
    ],
)
def test_malformed_indexes_are_refused(packed: Path, text: bytes, words: str) -> None:
    (packed / "index.json").write_bytes(text)
    with pytest.raises(InvalidBundle, match=words):
        verify_bundle(packed)


def test_what_nothing_protects_must_be_known(packed: Path) -> None:
    index = json.loads((packed / "index.json").read_text())
    index["manifests"][0]["urls"] = ["https://example.org/"]
    (packed / "index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidBundle, match="urls"):
        verify_bundle(packed)


def test_extra_missing_and_linked_files_are_named(packed: Path, tmp_path: Path) -> None:
    for extra in ("notes.txt", "blobs/notes.txt", "blobs/sha256/" + "0" * 64):
        (packed / extra).touch()
        with pytest.raises(InvalidBundle, match=f"{extra} is not in the manifest"):
            verify_bundle(packed)
        (packed / extra).unlink()
    for folder in ("blobs/sha512", "more"):
        (packed / folder).mkdir()
        with pytest.raises(InvalidBundle, match=folder):
            verify_bundle(packed)
        (packed / folder).rmdir()
    verify_bundle(packed)
    license_ = layers_of(packed)["LICENSE"]
    away = license_.rename(tmp_path / "away")
    with pytest.raises(InvalidBundle, match=f"{license_.name} is missing"):
        verify_bundle(packed)
    license_.symlink_to(away)
    with pytest.raises(InvalidBundle, match="not a regular file"):
        verify_bundle(packed)
    license_.unlink()
    os.mkfifo(license_)
    with pytest.raises(InvalidBundle, match="not a regular file"):
        verify_bundle(packed)


def test_a_linked_folder_is_refused(packed: Path, tmp_path: Path) -> None:
    (packed / "blobs").rename(tmp_path / "away")
    (packed / "blobs").symlink_to(tmp_path / "away")
    with pytest.raises(InvalidBundle):
        verify_bundle(packed)


@pytest.mark.parametrize("size", [5 << 20, 0])
def test_documents_of_no_size_and_too_large_are_refused(packed: Path, size: int) -> None:
    for name in ("oci-layout", "index.json"):
        kept = (packed / name).read_bytes()
        with (packed / name).open("r+b") as stream:
            stream.truncate(size)
        with pytest.raises(InvalidBundle, match=name):
            verify_bundle(packed)
        (packed / name).write_bytes(kept)


def test_a_config_must_be_one(tmp_path: Path, model: Path) -> None:
    bundle = make_by_hand(tmp_path / "b", model.read_bytes())
    other = manifest_of(bundle)["layers"][0]
    config = {**other, "mediaType": "application/vnd.cncf.model.config.v1+json"}
    del config["annotations"]
    again = make_by_hand(tmp_path / "again", model.read_bytes(), change={"config": config})
    for path in (again / "blobs" / "sha256").iterdir():
        if path.name == manifest_of(bundle)["config"]["digest"].removeprefix("sha256:"):
            path.unlink()
    with pytest.raises(InvalidBundle, match="not JSON"):
        verify_bundle(again)


# --- one thousand ways to change a bundle -------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def mutated(files: dict[str, bytes], chance: random.Random) -> dict[str, bytes]:
    """The files with one thing changed."""
    name, other = chance.sample(sorted(files), 2)
    data = files[name]
    blobs = [each for each in sorted(files) if each.startswith("blobs/")]
    random_name = f"blobs/sha256/{chance.randbytes(32).hex()}"
    kind = chance.randrange(9)
    if kind <= 2:
        return {**files, name: flipped(data, chance)}
    if kind == 3:
        return {**files, name: data[: chance.randrange(len(data))]}
    if kind == 4:
        return {**files, name: data + chance.randbytes(chance.randrange(1, 9))}
    if kind == 5:
        return {**files, name: files[other], other: data}
    if kind == 6:
        return {**files, chance.choice((random_name, "extra", "blobs/extra")): data}
    if kind == 7:
        rest = {each: files[each] for each in files if each != name}
        return rest if chance.random() < 0.5 else {**rest, random_name: data}
    return {**files, chance.choice(blobs): chance.randbytes(chance.randrange(64))}


def write_tree(folder: Path, before: dict[str, bytes], after: dict[str, bytes]) -> None:
    for name in before.keys() | after.keys():
        if before.get(name) == after.get(name):
            continue
        path = folder / name
        if name in after:
            path.write_bytes(after[name])
        else:
            path.unlink(missing_ok=True)


def mutations(files: dict[str, bytes], seed: int) -> Iterator[dict[str, bytes]]:
    chance = random.Random(seed)
    while True:
        changed = mutated(files, chance)
        if changed != files:
            yield changed


@pytest.mark.parametrize("signed", [False, True])
def test_a_thousand_mutations_of_a_directory_are_refused(
    packed: Path, private: Path, signed: bool
) -> None:
    key = None
    if signed:
        sign(packed, private)
        key = private.with_suffix(".pub")
    files = tree(packed)
    verify_bundle(packed, key)
    for number, changed in zip(range(MUTATIONS), mutations(files, 7), strict=False):
        write_tree(packed, files, changed)
        with pytest.raises(UserError):
            verify_bundle(packed, key)
            pytest.fail(f"mutation {number} of {[n for n in files if files[n] != changed.get(n)]}")
        write_tree(packed, changed, files)
    verify_bundle(packed, key)


def mutated_tar(whole: bytes, chance: random.Random) -> bytes:
    """The bytes of a tar with one thing changed."""
    start = 512 * chance.randrange(1, len(whole) // 512)
    end = start + 512
    kind = chance.randrange(6)
    if kind == 0:
        return flipped(whole, chance)
    if kind == 1:
        return whole[:start] + flipped(whole[start:end], chance) + whole[end:]
    if kind == 2:
        return whole[: chance.randrange(len(whole))]
    if kind == 3:
        return whole + chance.randbytes(chance.randrange(1, 1024))
    return whole[:start] + whole[(end if kind == 4 else start - 512) :]


def test_a_thousand_mutations_of_a_tar_are_refused(tar: Path, private: Path) -> None:
    sign(tar, private)
    key = private.with_suffix(".pub")
    whole = tar.read_bytes()
    verify_bundle(tar, key)
    chance = random.Random(11)
    for number in range(MUTATIONS):
        # zeros at the end change nothing
        while not (changed := mutated_tar(whole, chance)).removeprefix(whole).strip(b"\0"):
            pass
        tar.write_bytes(changed)
        with pytest.raises(UserError):
            verify_bundle(tar, key)
            pytest.fail(f"mutation {number}")


def test_blobs_of_two_bundles_exchanged_are_refused(
    packed: Path, private: Path, tmp_path: Path
) -> None:
    """With a manifest of its own, a bundle is another one: the signature tells."""
    sign(packed, private)
    other = make_by_hand(tmp_path / "other", layers_of(packed)["model.gguf"].read_bytes())
    verify_bundle(other)
    shutil.copy(packed / "model.sig", other / "model.sig")
    with pytest.raises(Untrusted, match="another bundle"):
        verify_bundle(other, private.with_suffix(".pub"))


# --- signatures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["packed", "tar"])
def test_signed_and_checked(form: str, private: Path, request: pytest.FixtureRequest) -> None:
    bundle: Path = request.getfixturevalue(form)
    key = private.with_suffix(".pub")
    with pytest.raises(Untrusted, match="not signed"):
        verify_bundle(bundle, key)
    before = verify_bundle(bundle)
    assert sign(bundle, private).digest == before.contents.digest
    assert verify_bundle(bundle).signed
    verified = verify_bundle(bundle, key)
    assert verified.contents == before.contents
    assert verified.key is not None
    other = write_pair(private.with_name("other.pem"), ec.SECP384R1())
    with pytest.raises(Untrusted, match="another key"):
        verify_bundle(bundle, other.with_suffix(".pub"))
    sign(bundle, other)
    verify_bundle(bundle, other.with_suffix(".pub"))


def test_a_damaged_bundle_is_not_signed(packed: Path, private: Path) -> None:
    path = layers_of(packed)["LICENSE"]
    path.write_bytes(path.read_bytes().replace(b"like", b"lime"))
    with pytest.raises(InvalidBundle, match="changed"):
        sign(packed, private)
    assert not (packed / "model.sig").exists()


def test_a_signature_that_is_no_file_is_refused(packed: Path) -> None:
    (packed / "model.sig").mkdir()
    with pytest.raises(InvalidBundle, match=r"model\.sig"):
        verify_bundle(packed)
    (packed / "model.sig").rmdir()
    (packed / "model.sig").symlink_to("index.json")
    with pytest.raises(InvalidBundle, match=r"model\.sig"):
        verify_bundle(packed)


def test_the_image_names_every_blob(packed: Path) -> None:
    image = read_image(open_layout(packed))
    on_disk = {f"blobs/sha256/{path.name}" for path in (packed / "blobs" / "sha256").iterdir()}
    assert set(image.blobs) == on_disk
    assert blob(packed, image.manifest.digest).exists()
