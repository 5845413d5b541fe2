"""Drawing the next token of every row of a batch, with the exact log-probability of what was drawn."""

from __future__ import annotations

import torch


def draw(
    logits: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, uniform: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Draws one token per row by inverting the cumulative distribution.

    A row's token depends on nothing but its own logits, settings and random number, so that the same seed gives the
    same answer in any batch. The nucleus is that of [The Curious Case of Neural Text
    Degeneration](https://huggingface.co/papers/1904.09751): the fewest most likely tokens that reach `top_p`.

    Args:
        logits (`torch.Tensor` of shape `(B, V)`):
            Next-token logits.
        temperature (`torch.Tensor` of shape `(B,)`):
            Divides the logits; where it is 0, the most likely token is taken and `top_p` does not apply.
        top_p (`torch.Tensor` of shape `(B,)`):
            Probability that the nucleus reaches, in (0, 1].
        uniform (`torch.Tensor` of shape `(B,)`, float64):
            Random numbers in [0, 1).

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: the tokens of shape `(B,)`; the log-probability of each, of
        the same shape; and those of all tokens, of shape `(B, V)`, under the distribution that it was drawn from (at
        temperature 0: under the softmax of the logits).
    """
    logits = logits.float()
    greedy = temperature == 0
    logprobs = torch.log_softmax(logits / temperature.masked_fill(greedy, 1.0)[:, None], dim=-1)
    cut = (top_p < 1) & ~greedy
    if cut.any():
        logprobs = torch.where(cut[:, None], _nucleus(logprobs, top_p), logprobs)
    # In double precision the sum over a large vocabulary keeps its small terms.
    cumulative = logprobs.double().exp().cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(-1)
    tokens = torch.where(greedy, logits.argmax(dim=-1), drawn.clamp(max=logits.shape[-1] - 1))
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1), logprobs


def _nucleus(logprobs: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    probabilities, order = logprobs.exp().sort(dim=-1, descending=True)
    reached_before = probabilities.cumsum(dim=-1) - probabilities >= top_p[:, None]
    outside = torch.zeros_like(reached_before).scatter(-1, order, reached_before)
    return logprobs.masked_fill(outside, -torch.inf).log_softmax(dim=-1)
