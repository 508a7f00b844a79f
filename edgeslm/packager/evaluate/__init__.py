"""How near a model is to the one it was made from, and how well it answers questions."""

from edgeslm.packager.evaluate.card import QualityCard, card_path
from edgeslm.packager.evaluate.evaluate import evaluate, evaluate_against
from edgeslm.packager.evaluate.reference import Reference

__all__ = ["QualityCard", "Reference", "card_path", "evaluate", "evaluate_against"]
