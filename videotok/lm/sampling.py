"""Sampling of ids from a causal language model: key-value cache, classifier-free guidance, one seed for each row."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from videotok.lm.grammar import GrammarState
from videotok.lm.model import VideoLanguageModel


@dataclass(frozen=True)
class SamplingConfig:
    """How the next id is chosen among the legal ones.

    Raises:
        ValueError: a value out of range.
    """

    temperature: float = 1.0
    """0: the most likely id each time."""
    top_k: int = 0
    """Choose among the so many likeliest ids; 0: among all."""
    top_p: float = 1.0
    """Choose among the likeliest ids that have this probability together, above 0 to 1."""
    guidance: float = 1.0
    """Scale of classifier-free guidance (Ho and Salimans, arXiv 2207.12598), away from what the model predicts without
    the text; 1: none."""
    repeat: float = 0.0
    """Added to the log-probability of the motion id that the clip before has in the same place, so that motion goes on;
    0: nothing."""
    seed: int = 0
    """Row i of a batch has seed + i, so it is the same as by itself (see `sample_ids`)."""

    def __post_init__(self) -> None:
        limits = {
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "guidance": (0 <= self.guidance <= 100, "from 0 to 100"),
            "repeat": (0 <= self.repeat <= 100, "from 0 to 100"),
        }
        for name, (is_valid, allowed) in limits.items():
            if not is_valid:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be {allowed}")

    def generators(self, rows: int) -> list[torch.Generator]:
        """Return the random number generator of each row."""
        return [torch.Generator().manual_seed((self.seed + row) % 2**63) for row in range(rows)]


def default_sampling(model: VideoLanguageModel, is_picture: bool = False) -> SamplingConfig:
    """Return how a model is sampled where the user does not say it.

    Video-LaVIT as its authors do (github.com/jy0205/LaVIT), others as their settings say.
    """
    if model.vocabulary.patches:
        return SamplingConfig(model.settings.temperature, guidance=model.settings.guidance)
    return SamplingConfig(top_k=50, top_p=0.9, guidance=3.0) if is_picture else SamplingConfig(top_k=200, guidance=4.0)


class CachedModel:
    """A language model in the middle of some sequences: every call reads one more id of each.

    Shorter prompts are padded on the left; padding is never attended to, and positions begin after it.
    """

    def __init__(self, model: VideoLanguageModel, num_rows: int) -> None:
        self.model, self.cache = model, DynamicCache()
        self.attention_mask = torch.zeros(num_rows, 0, dtype=torch.long, device=model.device)
        parameters = inspect.signature(model.model.forward).parameters
        # `cache` since transformers 5.24
        self._options = {"cache" if "cache" in parameters else "past_key_values": self.cache, "use_cache": True}
        self._options |= {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def read_prompts(self, prompts: Sequence[Tensor]) -> Tensor:
        """Read ids int64 [n_i] of each row, n_i >= 1, and return the logits of the next one, [rows, ids]."""
        length = max(map(len, prompts))
        ids = torch.full((len(prompts), length), self.model.padding_id)
        is_prompt = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, length - len(prompt) :], is_prompt[row, length - len(prompt) :] = prompt, 1
        return self._read(ids, is_prompt)

    def read(self, ids: Tensor) -> Tensor:
        """Read one more id of each row, int64 [rows], and return the logits of the next one, [rows, ids]."""
        return self._read(ids[:, None], torch.ones_like(ids)[:, None])

    def _read(self, ids: Tensor, is_read: Tensor) -> Tensor:
        device = self.model.device
        self.attention_mask = torch.cat([self.attention_mask, is_read.to(device)], dim=1)
        positions = (self.attention_mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self.model.model(
            inputs_embeds=self.model.embed(ids.to(device), {}),
            attention_mask=self.attention_mask,
            position_ids=positions,
            **self._options,
        )
        return output.logits[:, -1].float()


_NO_IDS: Any = torch.empty(0, dtype=torch.long)
"""Warpers are given the ids so far, and need none."""


@torch.no_grad()
def sample_ids(
    model: VideoLanguageModel,
    prompts: Sequence[Tensor],
    state: GrammarState,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
    unconditional: Sequence[Tensor] | None = None,
    *,
    before: Sequence[Tensor | None] = (),
    cached_model: type[CachedModel] = CachedModel,
) -> list[Tensor]:
    """Sample ids after each prompt until its row of the grammar is finished; returns the new ids, int64 [n_i] each.

    A row is the same whatever the others are, but for rounding: a batch of another size multiplies in another order, so
    logits differ in their last digits, and once in a million ids or so another one is chosen.

    Args:
        model: the language model.
        prompts: int64 [n_i] of each row, n_i >= 1.
        state: of the grammar after the video in the prompts; it is advanced.
        sampling: how ids are chosen.
        generators: one a row.
        unconditional: the prompts without the text, for guidance; None: no guidance.
        before: int64 [n_i] of each row, what the clip before has in the place of the new ids, for `sampling.repeat`;
            None, or fewer rows: nothing to repeat.
        cached_model: what reads the ids.

    Raises:
        TokensError: no legal id has a finite score.
    """
    count, warp = len(prompts), _warpers(sampling)
    cached = cached_model(model, count * (1 if unconditional is None else 2))
    logits = cached.read_prompts([*prompts, *(unconditional or ())])
    found: list[list[int]] = [[] for _ in prompts]
    while True:
        scores = logits[:count]
        if unconditional is not None:
            conditional, free = logits.log_softmax(-1).split(count)
            scores = free + sampling.guidance * (conditional - free)
        scores = _favour_repetition(scores, sampling.repeat, before, list(map(len, found)))
        active = ~state.is_finished
        scores = scores.masked_fill(~state.legal(scores.shape[1], scores.device), -torch.inf)
        state.check_possible(torch.where(active.to(scores.device)[:, None], scores, 0))
        ids = torch.full((count,), model.padding_id)
        for row in active.nonzero()[:, 0].tolist():
            ids[row] = _choose(warp(_NO_IDS, scores[row : row + 1])[0], sampling, generators[row])
            found[row].append(int(ids[row]))
        state.advance(ids, active)
        if state.is_finished.all():
            return [torch.tensor(row) for row in found]
        logits = cached.read(ids if unconditional is None else ids.repeat(2))


def _favour_repetition(scores: Tensor, repeat: float, before: Sequence[Tensor | None], places: Sequence[int]) -> Tensor:
    """Return scores [rows, ids] with `repeat` added to the id of the clip before in each row's place."""
    if not repeat:
        return scores
    scores = scores.clone()
    for row, ids in enumerate(before):
        if ids is not None and places[row] < len(ids):
            scores[row, ids[places[row]]] += repeat
    return scores


def _warpers(sampling: SamplingConfig) -> LogitsProcessorList:
    """Return what changes the scores before one is drawn, as `generate` of transformers does."""
    warpers = LogitsProcessorList()
    if sampling.temperature not in (0, 1):
        warpers.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(float(sampling.top_p)))
    return warpers


def _choose(scores: Tensor, sampling: SamplingConfig, generator: torch.Generator) -> Tensor:
    """Return one id, [], of scores [ids]; one random number is drawn for it, whatever the size of the vocabulary."""
    if not sampling.temperature:
        return scores.argmax().cpu()
    sums = scores.double().softmax(-1).cumsum(-1).cpu()
    drawn = torch.rand((), generator=generator, dtype=torch.float64) * sums[-1]
    return torch.searchsorted(sums, drawn, right=True).clamp(max=len(sums) - 1)
