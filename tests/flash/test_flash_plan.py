from __future__ import annotations

from edgeslm.flash.plan import Plan, Step, at_rate, describe


def test_a_plan_in_lines() -> None:
    plan = Plan(
        "ssh://board",
        "packed",
        "sha256:" + "0" * 64,
        (
            Step("send the bundle", 98_000_000, at_rate(98_000_000, 9.8, "somebody")),
            Step("start the service"),
        ),
        ("The board keeps its old version.",),
    )

    assert plan.bytes == 98_000_000
    assert describe(plan)[1:] == [
        "  1. send the bundle (98.0 MB, about 10.0 s: somebody)",
        "  2. start the service",
        "The board keeps its old version.",
    ]
