"""How well a CLIP knows pocket's images and scenes: retrieval, and right against wrong captions.

    python benchmarks/pocket_clip.py --data data/pocket [--clip pocket-clip] [--count 2000] [--seed 2]

Scenes show combinations that no training scene does; the single images of common things are those of the
data set itself, unchanged (in training they were cropped, recoloured, blurred). Printed: an image's own
caption among the captions of all, and its caption against one that is wrong in the point that its kind is
about; chance is one half there. Last, the name of each common thing's images among all 200.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import side_by_side as side


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/pocket"))
    parser.add_argument("--clip", default="pocket-clip", help="catalog name or folder")
    parser.add_argument("--count", type=int, default=2000, help="pairs to measure on")
    parser.add_argument("--seed", type=int, default=2, help="of the pairs")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    side.use_threads(asked.threads)
    import torch

    from sanakit.images.image import to_tensor
    from sanakit.pocket.data.dataset import open_pocket
    from sanakit.pocket.train.clip import held_out_pairs
    from sanakit.pocket.words.concepts import COMMON_CONCEPTS
    from sanakit.train.objectives.contrastive import measure
    from sanakit.weights import load_clip

    scorer = load_clip(asked.clip)
    pocket = open_pocket(asked.data)
    pairs = held_out_pairs(pocket, asked.count, asked.seed)
    print(f"| {len(pairs)} held-out pairs | |\n|---|---|")
    for name, value in measure(scorer, pairs).items():
        kind = name.removeprefix("right_")
        words = f"caption among all, {name}" if kind == name else f"right against wrong, {kind}"
        print(f"| {words} | {100 * value:.1f} % |")
    names = list(COMMON_CONCEPTS)
    words = scorer.texts(list(COMMON_CONCEPTS.values()))
    rows = [i for i, row in enumerate(pocket.rows) if row.concept in COMMON_CONCEPTS]
    pictures = [scorer.images(to_tensor(np.array(pocket.images[i])[None])) for i in rows]
    places = (torch.cat(pictures) @ words.T).argsort(dim=1, descending=True)
    wanted = torch.tensor([names.index(pocket.rows[i].concept) for i in rows])[:, None]
    for most in (1, 5):
        share = (places[:, :most] == wanted).any(1).float().mean().item()
        print(f"| name of {len(rows)} common pictures among 200, top-{most} | {100 * share:.1f} % |")


if __name__ == "__main__":
    main()
