"""How the numbers of a report came about, in the words that every form of it carries."""

from edgeslm.profiling.comparison import FALSE_SHARE, REPEATABLE

METHOD = (
    "Reading is prefill: the tokens of a prompt, computed together. Writing is decode: one token "
    "after the other, each a pass through the whole model. A depth is the number of tokens that "
    "the context holds when a run starts.",
    "A result is tainted if something spoilt it: other programs, heat, a low clock, runs that "
    "differ too much. Tainted results are shown, but the best is chosen among the others where at "
    "least two are clean.",
    "Whether runs differ is asked with the exact rank test of Wilcoxon, Mann and Whitney, which "
    "assumes nothing about how runs spread. The change is the median of the ratios between a run "
    "of one side and a run of the other, so it may differ a little from the ratio of the medians. "
    f"Of the differences that are found, at most {FALSE_SHARE:.0%} are expected to be chance "
    "(Benjamini and Hochberg); intervals are as wide as that asks for. The runs of one process say "
    "nothing of another day: on an idle machine, two measurements of one model may differ by "
    f"{REPEATABLE:.0%}.",
    "Energy is gross: what the meter covers, idle power included; the net figure leaves idle power "
    "out. An estimate is watts times seconds. It repeats the speed and cannot tell two models "
    "apart, so nothing is compared by it.",
)
