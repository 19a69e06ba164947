"""What pocket's text encoder knows before anything is drawn: ordinary words, names, who stands where.

    python benchmarks/pocket_words.py --run runs/pocket-words [--pairs 60]

A word is known when the nearest of the 200 common things (top-1), or one of the five nearest (top-5), is the
one that it means. Two things are told apart when both are named at the right place; guessing gets half at
best.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import side_by_side as side

CARRIERS = ("{}", "draw me a {}, please")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("runs/pocket-words"), help="its folder")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of things for each form of order")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    side.use_threads(asked.threads)

    from sanakit.pocket.evaluate.reference import load_names
    from sanakit.pocket.evaluate.words import nearest, told_apart
    from sanakit.pocket.recipes.pocket import TEXT_ENCODER
    from sanakit.pocket.train.words_run import taught_objective
    from sanakit.pocket.words.asked_as import words
    from sanakit.pocket.words.concepts import COMMON_CONCEPTS
    from sanakit.pocket.words.probes import PROBES

    objective = taught_objective(asked.run, TEXT_ENCODER)
    probes = [(word, concept) for concept, own in PROBES.items() for word in own]
    taught = sum(words().get(word) == concept for word, concept in probes)
    print(f"| {len(probes)} ordinary words, {taught} of them taught | top-1 | top-5 |\n|---|---|---|")
    for carrier in CARRIERS:
        top1, top5 = nearest(objective, probes, carrier)
        print(f"| {carrier.format('word')} | {100 * top1:.0f} % | {100 * top5:.0f} % |")
    for code, names in load_names().items():
        own = [(name, concept) for concept, name in names.items() if concept in COMMON_CONCEPTS]
        top1, top5 = nearest(objective, own)
        print(f"| {len(own)} names, {code} | {100 * top1:.0f} % | {100 * top5:.0f} % |")
    found = told_apart(objective, asked.pairs)
    print(f"\n| told apart, of {asked.pairs} pairs | |\n|---|---|")
    for form, share in sorted(found.items(), key=lambda one: one[1]):
        print(f"| {form} | {100 * share:.0f} % |")


if __name__ == "__main__":
    main()
