"""Texts that go with video models: the instruction before prompts, the motion score, the negative prompt.

Source: defaults and documentation of diffusers 0.42's SanaVideoPipeline, byte for byte (arXiv:2509.24695).
The score was trained as the mean of UniMatch's optical flow over a clip. NVIDIA's own scripts put the
instruction for images before video prompts (`text/native.py`).
"""

from __future__ import annotations

VIDEO_INSTRUCTION = "\n".join(
    [
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions "
        "suitable for video generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, motion, "
        "and temporal relationships to create vivid and dynamic scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without "
        "overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat slowly settling into a curled "
        "position, peacefully falling asleep on a warm sunny windowsill, with gentle sunlight filtering "
        "through surrounding pots of blooming red flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring "
        "glowing street lamps gradually lighting up, a diverse crowd of people in colorful clothing walking "
        "past, and a double-decker bus smoothly passing by towering glass skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any "
        "additional commentary or evaluations:",
        "User Prompt: ",
    ]
)
NEGATIVE_PROMPT = (
    "A chaotic sequence with misshapen, deformed limbs in heavy motion blur, sudden disappearance, jump "
    "cuts, jerky movements, rapid shot changes, frames out of sync, inconsistent character shapes, temporal "
    "artifacts, jitter, and ghosting effects, creating a disorienting visual experience."
)


def with_motion(prompt: str, score: int) -> str:
    """Return a prompt with its motion score behind it, as in training; score: 0 adds nothing.

    >>> with_motion("a cat waves", 30)
    'a cat waves motion score: 30.'
    """
    return f"{prompt} motion score: {score}." if score else prompt
