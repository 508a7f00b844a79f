"""Boards as data: what is known about each, and which one this machine is."""

from __future__ import annotations

from edgeslm.targets.detection import Detection, Host, detect
from edgeslm.targets.loading import boards, list_targets, load_target, target_ids, user_directory
from edgeslm.targets.target import Target

__all__ = [
    "Detection",
    "Host",
    "Target",
    "boards",
    "detect",
    "list_targets",
    "load_target",
    "target_ids",
    "user_directory",
]
