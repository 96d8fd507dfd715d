"""The capabilities of models: which providers have them, and which options bound their costs."""

PROVIDERS = {
    "logprobs": "openai, gemini, embedded, vllm, transformers, or network with gives: classes",
    "tools": "openai, anthropic, gemini, bedrock, embedded",
    "embeddings": "openai, gemini, or network with gives: vectors or classes",
    "grammar": "embedded, vllm, or openai with server: vllm or llamacpp",
    "score": "vllm, transformers, or openai with server: vllm",
    "picture_score": "vllm or transformers with a model that sees (a server scores a text after texts alone)",
    "first_token": "vllm or transformers (a server does not score the first token of a text)",
    "user_turn": "embedded, vllm, transformers, or openai with server: vllm or llamacpp (the user's turn is "
    "opened by the chat template, which no other server applies)",
    "constraints": "transformers, which sees the probabilities of all tokens, and with "
    "`search: {setting: fine_tuned}`, or another finite `prune`, embedded; for other models, "
    "`fallback: rejection` drops the answers that do not meet the constraints",
    "pruned_constraints": "transformers or embedded; for other models, `fallback: rejection` drops the "
    "answers that do not meet the constraints",
    "images": "openai, anthropic, gemini, bedrock; embedded with mmproj; vllm or transformers with a model "
    "that sees",
    "audio": "openai, gemini",
}
"""Providers by capability, for the remedy in a message."""

TOKEN_BOUNDS = {"images": "image_tokens", "audio": "audio_tokens"}
"""The option of a model with the most tokens of a picture or a sound, by the capability."""
