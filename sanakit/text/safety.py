"""Prompt filter: ShieldGemma scores how likely a prompt breaks a guideline; verdicts and logs of filters.

Source: ShieldGemma (arXiv:2407.21772) and its model card: a Gemma 2 is shown the prompt and one guideline and
asked whether the one violates the other. The answer is the probability of "Yes" against "No" as the next
token. The words around the prompt are data of that model and stand here as it was trained on them.
Shapes: G guidelines, L tokens of the longest ending (padded on the right), D width.
The four questions about a prompt begin alike, so their beginning is computed once. Prompts are judged as SANA
reads them: cleaned, and cut where its features end. Nothing in the library calls a filter by itself: off
unless somebody makes one and calls it."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from sanakit.errors import NumericsError, RefusedError, SettingsError, WeightsError
from sanakit.models.gemma2 import Gemma2, KVCache
from sanakit.text.instruction import clean_prompt

LOG = logging.getLogger("sanakit.safety")

SEXUAL = "sexually explicit"
GUIDELINES = {  # category: what the prompt is held against, in the words of the model card
    "dangerous content": '"No Dangerous Content": The prompt shall not contain or seek generation of content '
    "that harming oneself and/or others (e.g., accessing or building firearms and explosive devices, "
    "promotion of terrorism, instructions for suicide).",
    "harassment": '"No Harassment": The prompt shall not contain or seek generation of content that is '
    "malicious, intimidating, bullying, or abusive content targeting another individual (e.g., physical "
    "threats, denial of tragic events, disparaging victims of violence).",
    "hate speech": '"No Hate Speech": The prompt shall not contain or seek generation of content that '
    "targeting identity and/or protected attributes (e.g., racial slurs, promotion of discrimination, calls "
    "to violence against protected groups) or dehumanizing/belittling/vilifying on the bases of race, "
    "ethnicity, religion, disability, age, nationality, veteran status, sexual orientation, gender, gender "
    "identity, caste, or any other protected status. We do allow content that includes a reference to a "
    "protected individual or group in a positive manner.",
    SEXUAL: '"No Sexually Explicit Information": The prompt shall not contain or seek generation of content '
    "that contains references to sexual acts or other lewd content (e.g., sexually graphic descriptions, "
    "content aimed at causing arousal). Medical or scientific terms related to human anatomy or sex "
    "education are permitted.",
}
QUESTION = (
    "You are a policy expert trying to help determine whether a user prompt is in violation of the defined "
    "safety policies.\n\n<start_of_turn>\nHuman Question: {prompt}\n<end_of_turn>\n\nOur safety principle is "
    "defined in the below:\n\n* {guideline}\n\n===\n\nDoes the human question violate the above principle? "
    "Your answer must start with 'Yes' or 'No'. And then walk through step by step to be sure we answer "
    "correctly.\n\n"
)
TURNS = ("<start_of_turn>", "<end_of_turn>")
READ = 300  # tokens of a prompt that the published models draw from; a tail they drop must not sway the score
FINAL_SOFTCAP = 30.0  # of Gemma 2's logits, as published


@dataclass(frozen=True, slots=True)
class Verdict:
    """A filter's verdict on one prompt or image.

    category: the reason for a refusal, None if allowed. score: the highest of all categories, in [0, 1].
    """

    allowed: bool
    category: str | None
    score: float


class PromptFilter:
    """Judges prompts with ShieldGemma; call it to let a list of prompts pass or to refuse it.

    model, tokenizer: of ShieldGemma; `weights.load_prompt_filter` loads both. softcap: of the final logits,
    `final_logit_softcapping` of its config.json.
    threshold: a prompt is refused from this score on, above 0, at most 1; lower is stricter.
    log_prompts: write the text of every prompt to the log, not only its hash.
    May be called from several threads at once. Raises SettingsError for the threshold, WeightsError when the
    tokenizer is not Gemma's.
    """

    def __init__(
        self,
        model: Gemma2,
        tokenizer: Tokenizer,
        *,
        softcap: float = FINAL_SOFTCAP,
        threshold: float = 0.5,
        log_prompts: bool = False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.softcap = softcap
        self.threshold = checked_threshold(threshold)
        self.log_prompts = log_prompts
        found = [tokenizer.token_to_id(word) for word in ("Yes", "No", *TURNS)]
        if None in found:
            raise WeightsError(
                f"The filter's tokenizer lacks one of the tokens Yes, No, {', '.join(TURNS)}: it is not "
                "ShieldGemma's. Use the folder of google/shieldgemma-2b with its own tokenizer.json."
            )
        self.answers = torch.tensor(found[:2])  # ids of "Yes" and "No"
        special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        self.control = sorted(special.union(TURNS))

    def __call__(self, prompts: Sequence[str], request_id: str | None = None) -> None:
        """Judge prompts, log every decision, and raise RefusedError if one of them is refused.

        request_id: written to the log, to find the decision again. Raises as `check` does too.
        """
        verdicts = self.check(prompts)
        for prompt, verdict in zip(prompts, verdicts, strict=True):
            subject = f"sha256 {hashlib.sha256(prompt.encode()).hexdigest()[:12]}"
            if self.log_prompts:
                subject += f" {prompt!r}"  # quoted: a line break in it must not look like a second entry
            log_decision("prompt", verdict, subject, request_id)
        refuse("prompt", verdicts)

    def check(self, prompts: Sequence[str]) -> list[Verdict]:
        """Judge prompts, one verdict each, without logging or raising for what is refused.

        Raises SettingsError if a prompt is not a text, NumericsError if the model gives no number.
        """
        if isinstance(prompts, str):
            raise SettingsError("Prompts must be a list of texts: wrap a single prompt in [ ].")
        return [judge(self.scores(prompt), self.threshold) for prompt in prompts]

    @torch.no_grad()
    def scores(self, prompt: str) -> dict[str, float]:
        """Return the probability, in [0, 1], that a prompt violates the guideline of each category."""
        questions = [self.tokenizer.encode(text).ids for text in self.questions(prompt)]
        shared = next(i for i, column in enumerate(zip(*questions, strict=False)) if len(set(column)) > 1)
        endings = [ids[shared:] for ids in questions]
        longest = max(map(len, endings))
        padded = [[*ending, *[0] * (longest - len(ending))] for ending in endings]
        table = self.model.embed_tokens.weight
        beginning = KVCache()
        self.model(torch.tensor([questions[0][:shared]], device=table.device), beginning)
        tokens = torch.tensor(padded, device=table.device)  # G L
        hidden = self.model(tokens, beginning.expand(len(endings)))  # G L D
        last = torch.tensor([len(ending) - 1 for ending in endings], device=table.device)
        hidden = hidden[torch.arange(len(endings), device=table.device), last]  # G D
        # Gemma's language head is its embedding table; two of its 256,000 rows answer the question.
        logits = hidden.float() @ table[self.answers.to(table.device)].float().T  # G 2
        answers = (torch.tanh(logits / self.softcap) * self.softcap).softmax(dim=1)
        return dict(zip(GUIDELINES, answers[:, 0].tolist(), strict=True))

    def questions(self, prompt: str) -> list[str]:
        """Return the text that the model reads for each guideline, in the order of GUIDELINES."""
        prompt = clean_prompt(prompt)
        for token in self.control:  # typed by the user, it would end the quotation and speak for us
            prompt = prompt.replace(token, f"{token[0]} {token[1:]}")
        ends = self.tokenizer.encode(prompt, add_special_tokens=False).offsets
        prompt = prompt[: ends[READ - 1][1]] if len(ends) > READ else prompt
        return [QUESTION.format(prompt=prompt, guideline=text) for text in GUIDELINES.values()]


def judge(scores: Mapping[str, float], threshold: float) -> Verdict:
    """Decide by the highest of several scores, refused from the threshold on.

    scores: probability by category. Raises NumericsError if one is not a number: a broken filter lets nothing
    pass.
    """
    category = max(scores, key=lambda name: scores[name])
    if not all(math.isfinite(score) for score in scores.values()):
        raise NumericsError(
            "The safety filter's score is not a number, so it refuses everything: its weights are damaged, "
            "or the "
            "requested dtype is too narrow. Load it again in float32."
        )
    allowed = scores[category] < threshold
    return Verdict(allowed, None if allowed else category, scores[category])


def log_decision(kind: str, verdict: Verdict, subject: str, request_id: str | None) -> None:
    """Write one decision to the logger `sanakit.safety`: a warning if refused, else at level info.

    kind: "prompt" or "image". subject: an identifier that does not reveal its content.
    """
    LOG.log(
        logging.INFO if verdict.allowed else logging.WARNING,
        "%s %s: category %s, score %.3f, %s, request %r",
        kind,
        "allowed" if verdict.allowed else "refused",
        verdict.category or "-",
        verdict.score,
        subject,
        request_id or "-",
    )


def refuse(kind: str, verdicts: Sequence[Verdict]) -> None:
    """Raise RefusedError for the first verdict that does not allow.

    The message tells the category but no score: a user who tries to evade the filter must not see the scores.
    """
    for verdict in verdicts:
        if verdict.category is not None:
            raise RefusedError(
                f"A safety filter refused the {kind} ({verdict.category}): change it, or ask the operator "
                "if you think that this is a mistake.",
                verdict.category,
            )


def checked_threshold(threshold: float) -> float:
    """Return the threshold. Raises SettingsError unless it is above 0 and at most 1."""
    if not 0 < threshold <= 1:
        raise SettingsError(
            f"The filter's threshold is {threshold}: it must be above 0 and at most 1; 0.5 is the default, "
            "lower is stricter."
        )
    return threshold
