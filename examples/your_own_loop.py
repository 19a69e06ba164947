"""The sampling loop by hand: text, context, guided velocity, noise, solver, decoder; a line or two each."""

import torch

from sanakit.flow import FlowDPM, classifier_free, dpm_times
from sanakit.images.image import to_pil
from sanakit.weights import load_autoencoder, load_settings, load_text_encoder, load_transformer

settings = load_settings("pocket")
text_encoder = load_text_encoder("pocket")
transformer = load_transformer("pocket")
autoencoder = load_autoencoder("pocket", part="decoder")

# The negative prompt first, then the prompt: a batch of two for one image.
features = text_encoder.encode_negative([""]) + text_encoder.encode(["a butterfly"])
context = transformer.prepare(features)
velocity = classifier_free(lambda x, t: transformer.velocity(x, t, context), settings.guidance)

noise = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0))
solver = FlowDPM(dpm_times(settings.steps, settings.flow_shift))
state = solver.start(noise)
while not state.done:
    state = solver.advance(state, velocity(state.sample, state.t))

with torch.no_grad():
    image = autoencoder.decode(state.sample / autoencoder.config.scaling_factor)
to_pil(image)[0].save("butterfly.png")
