"""Image i of a request with seed s is the image that seed s + i draws alone."""

from PIL import ImageChops

from sanakit import TextToImage

pipe = TextToImage.from_pretrained("pocket")
batch = pipe("a lemon", seed=10, num_images=3)
alone = pipe("a lemon", seed=12)

for seed, image in zip(batch.seeds, batch.images, strict=True):
    image.save(f"lemon-{seed}.png")

difference = ImageChops.difference(batch.images[2], alone.images[0])
largest = max(high for _, high in difference.getextrema())
print("largest difference between batch and alone:", largest, "of 255")
