"""Answers that their own teacher held unlikely."""

from collections.abc import Sequence

from distillgen import Filter, Record


def unlikely(
    *, stage: str = "generate", min_logprob: float | None = None, min_mean_logprob: float | None = None
) -> Filter:
    """Drop records whose log-probability, in nats, is below a limit: the sum over tokens, or their mean. Costs nothing.

    Reads what `stage` has recorded: a generate stage with `logprobs: 0` or more, or a score stage. A record without is dropped.

    Options:
        stage: the stage that recorded the log-probabilities
        min_logprob: smallest sum of log-probabilities of a kept record, in nats
        min_mean_logprob: smallest mean log-probability a token of a kept record, in nats
    """
    limits = {"logprob": min_logprob, "mean_logprob": min_mean_logprob}
    if min_logprob is None and min_mean_logprob is None:
        raise ValueError("give 'min_logprob' or 'min_mean_logprob', or both")

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [{n: r.scores[f"{stage}.{n}"] for n in limits if f"{stage}.{n}" in r.scores} for r in records]

    def decide(found: dict[str, float]) -> str | None:
        if not found:
            return f"the stage '{stage}' recorded no log-probability; a generate stage does with the option logprobs: 0"
        low = ((name, least) for name, least in limits.items() if least is not None and found[name] < least)
        return next((f"{name} {found[name]:.2f} < {least:g}" for name, least in low), None)

    return Filter(measure, decide)
