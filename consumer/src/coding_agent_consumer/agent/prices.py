"""What an attempt's requests to the model cost."""

from __future__ import annotations

from coding_agent_core.outcome import Cost
from coding_agent_core.settings.attempts import LLM
from genai_prices import calc_price
from pydantic_ai.usage import RunUsage


def cost_of(llm: LLM, usage: RunUsage) -> Cost | None:
    """By the configured price, else by the public list price of the provider; `None` where neither is known.

    The list (genai-prices) is part of the image and is not fetched. It knows public addresses alone: a model
    behind a gateway or on a machine of one's own has no list price.
    """
    model = getattr(llm, llm.provider).model
    if (price := llm.prices.get(model)) is not None:
        return price.cost(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cache_read_tokens,
        )
    if llm.provider != "openai":
        return None
    try:
        found = calc_price(usage, model, provider_api_url=llm.openai.base_url)
    except LookupError:
        return None
    return Cost.of(found.total_price, "USD")
