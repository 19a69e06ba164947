"""Draw one image on the embedded model: no download, no GPU."""

from sanakit import TextToImage

pipe = TextToImage.from_pretrained("pocket")
result = pipe("a red apple", seed=7)
result.images[0].save("apple.png")
print("apple.png", result.seeds, result.timings)
