"""A PNG carries the settings it was drawn with: read them back and draw the same image again."""

from PIL import ImageChops

from sanakit import TextToImage
from sanakit.images.image import read_metadata, save

pipe = TextToImage.from_pretrained("pocket")
first = pipe("a strawberry", seed=5, steps=8)
save(first.images[0], "strawberry.png", first.metadata[0])

settings = read_metadata("strawberry.png")
print(settings)
model = TextToImage.from_pretrained(settings.pop("model"))
print("drawn by sanakit", settings.pop("version"))
again = model(**settings).images[0]

difference = ImageChops.difference(first.images[0], again)
print("largest difference:", max(high for _, high in difference.getextrema()), "of 255")
