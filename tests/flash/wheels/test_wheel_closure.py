from __future__ import annotations

from pathlib import Path

from made_wheels import make_wheel

from edgeslm.flash.wheels.closure import close, requirements_of


def wheels(folder: Path) -> list[Path]:
    return [
        make_wheel(
            folder,
            "top-1.0-py3-none-any.whl",
            {},
            ["Some.Thing>=2", "old; python_version < '3.12'", "web[fast]; extra == 'serve'"],
        ),
        make_wheel(folder, "some_thing-2.1-py3-none-any.whl", {}, ["top"]),
        make_wheel(
            folder,
            "web-3-py3-none-any.whl",
            {},
            ["quick; extra == 'fast'", "win; sys_platform == 'win32'"],
        ),
        make_wheel(folder, "unused-1-py3-none-any.whl", {}),
    ]


def test_conditions_are_answered_by_the_device(tmp_path: Path) -> None:
    there = wheels(tmp_path)

    found = close(there, "top", (), "aarch64", "3.13")
    assert [path.name.split("-")[0] for path in found.wheels] == ["some_thing", "top"]
    assert found.missing == ()
    assert close(there, "top", (), "aarch64", "3.11").missing == ("old",)


def test_extras_ask_for_more(tmp_path: Path) -> None:
    found = close(wheels(tmp_path), "top", ("serve",), "aarch64", "3.13")

    assert [path.name.split("-")[0] for path in found.wheels] == ["some_thing", "top", "web"]
    assert found.missing == ("quick",)


def test_another_version_is_none(tmp_path: Path) -> None:
    there = [*wheels(tmp_path)[:1], make_wheel(tmp_path, "some_thing-1.9-py3-none-any.whl", {})]
    found = close(there, "top", (), "aarch64", "3.13")

    assert found.missing == ("Some.Thing>=2",)
    assert requirements_of(there[0])[0] == "Some.Thing>=2"
