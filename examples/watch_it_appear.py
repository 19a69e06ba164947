"""Follow an image step by step: the pipeline is a generator, so progress and stopping are plain Python."""

from pathlib import Path

from sanakit import TextToImage

pipe = TextToImage.from_pretrained("pocket")
folder = Path("steps")
folder.mkdir(exist_ok=True)

for step in pipe.stream("a dog face", seed=3):
    step.preview().save(folder / f"{step.index:02d}.png")
    print(f"step {step.index} of {step.total}")
    if step.result is not None:  # the last step carries the finished image
        step.result.images[0].save("dog.png")
