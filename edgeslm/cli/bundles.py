"""The verbs for bundles as they are: verify, sign, unpack, push, pull."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeslm.cli import options, output
from edgeslm.errors import InvalidOption
from edgeslm.records import to_json
from edgeslm.units import format_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from edgeslm.bundle.contents import Contents
    from edgeslm.bundle.verification import Verified

_Bundle = Annotated[
    Path,
    typer.Argument(metavar="BUNDLE", help="A bundle: a directory, or one tar.", show_default=False),
]
_PublicKey = Annotated[
    Path | None,
    typer.Option("--key", metavar="PUBLIC", help="The public key that must have signed it."),
]


def verify(bundle: _Bundle, key: _PublicKey = None, json: options.Json = False) -> None:
    """Check that a bundle is complete and unchanged, and who signed it.

    Reads every byte. Without --key a signature is looked for but not checked.

    Examples:
        edgeslm verify packed/
        edgeslm verify packed.tar
        edgeslm verify packed/ --key key.pub
    """
    from edgeslm.bundle.verification import verify_bundle

    verified = verify_bundle(bundle, key)
    if json:
        output.print_json(_as_json(bundle, verified))
        return
    print(f"{bundle}: complete and unchanged")
    if key is not None:
        print(f"signed with {key}")
    elif verified.signed:
        print("signed; whose signature it is was not checked: --key PUBLIC does")
    else:
        print("not signed")
    _print_contents(verified.contents)


def sign(
    bundle: _Bundle,
    key: Annotated[
        Path,
        typer.Option("--key", metavar="PRIVATE", help="The private key, PEM.", show_default=False),
    ],
    json: options.Json = False,
) -> None:
    """Sign a bundle with a private key on P-256, P-384 or P-521. No network is needed.

    The bundle is verified first. The signature lies in it as model.sig, beside what is signed;
    OpenSSF's model_signing can check it too.

    Examples:
        edgeslm sign packed/ --key key.pem
    """
    from edgeslm.bundle.verification import sign_bundle

    contents = sign_bundle(bundle, private_key(key))
    if json:
        output.print_json({"bundle": str(bundle), "digest": contents.digest, "signed": True})
    else:
        print(f"signed {bundle}: sha256:{contents.digest}")


def unpack(
    bundle: _Bundle,
    destination: options.Output,
    files: Annotated[
        bool, typer.Option("--files", help="Write the files in it under their own names instead.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Unpack a tar into a bundle that can be run; or a bundle into plain files.

    Every hash is checked on the way.

    Examples:
        edgeslm unpack packed.tar -o packed/
        edgeslm unpack packed/ -o files/ --files
    """
    from edgeslm.bundle.writing import unpack_bundle, unpack_files

    if bundle.is_dir() and not files:
        raise InvalidOption(
            f"{bundle}: a directory, not a tar",
            hint="It can be run as it is. Its files under their own names: --files",
        )
    contents = (unpack_files if files else unpack_bundle)(bundle, destination)
    if json:
        output.print_json({"path": str(destination), "contents": to_json(contents)})
    else:
        print(f"wrote {destination}: {format_bytes(contents.model.file_bytes)}")


_PlainHttp = Annotated[
    bool, typer.Option("--plain-http", help="The registry has no TLS: speak plain HTTP.")
]


def push(
    bundle: _Bundle,
    reference: Annotated[
        str, typer.Argument(metavar="REGISTRY/NAME:TAG", help="Where to.", show_default=False)
    ],
    plain_http: _PlainHttp = False,
    json: options.Json = False,
) -> None:
    """Send a bundle to an OCI registry; its signature follows it.

    The bundle is verified first. What the registry has already is not sent again.

    Examples:
        edgeslm push packed/ localhost:5000/helper:1 --plain-http
    """
    from edgeslm.bundle.registry import push_bundle

    contents = push_bundle(bundle, reference, plain_http=plain_http)
    if json:
        output.print_json({"reference": reference, "digest": contents.digest})
    else:
        print(f"pushed {reference}: sha256:{contents.digest}")


def pull(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="REGISTRY/NAME:TAG", help="Which; or NAME@sha256:DIGEST.", show_default=False
        ),
    ],
    destination: options.Output,
    key: _PublicKey = None,
    plain_http: _PlainHttp = False,
    json: options.Json = False,
) -> None:
    """Fetch a bundle from an OCI registry; it appears when all of it was checked.

    Examples:
        edgeslm pull localhost:5000/helper:1 -o packed-there/ --plain-http
    """
    from edgeslm.bundle.registry import pull_bundle
    from edgeslm.bundle.signing import read_public_key

    public = None if key is None else read_public_key(key)
    contents = pull_bundle(reference, destination, key=public, plain_http=plain_http)
    if json:
        output.print_json({"path": str(destination), "contents": to_json(contents)})
    else:
        print(f"wrote {destination}: sha256:{contents.digest}")


def private_key(path: Path) -> EllipticCurvePrivateKey:
    """The key in a file; a password is asked for at the terminal."""
    from edgeslm.bundle.signing import read_private_key

    def ask() -> str:
        if not sys.stdin.isatty():
            raise InvalidOption(
                f"{path}: the key has a password, and nobody can be asked for it",
                hint="Use a terminal, or a key without a password.",
            )
        return str(typer.prompt(f"Password of {path}", hide_input=True, err=True))

    return read_private_key(path, ask)


def _as_json(bundle: Path, verified: Verified) -> dict[str, Any]:
    return {
        "bundle": str(bundle),
        "valid": True,
        "signed": verified.signed,
        "key": verified.key,
        "contents": to_json(verified.contents),
    }


def _print_contents(contents: Contents) -> None:
    model, prompt = contents.model, contents.prompt
    rows = [("model", f"{model.file} ({format_bytes(model.file_bytes)})", model.name or "")]
    if contents.digest is not None:
        rows.insert(0, ("digest", f"sha256:{contents.digest}", ""))
    entries = [*([prompt.state] if prompt is not None and prompt.state else []), *contents.files]
    rows += [("", f"{each.file} ({format_bytes(each.file_bytes)})", "") for each in entries]
    output.print_table(rows)
