"""Answers to which their own teacher gave a low probability."""

from collections.abc import Sequence

from distillgen import Filter, Record


def unlikely(
    *, stage: str = "generate", min_logprob: float | None = None, min_mean_logprob: float | None = None
) -> Filter:
    """Drop records whose log-probability is below a limit: the sum over tokens, or the mean, in nats. Costs
    nothing.

    Reads what `stage` recorded: a generate stage with `logprobs: 0` or more, or a score stage. A record
    without log-probabilities is dropped.

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

    def decide(numbers: dict[str, float]) -> str | None:
        if not numbers:
            remedy = "a generate stage does with the option logprobs: 0"
            return f"the stage '{stage}' recorded no log-probability; {remedy}"
        low = ((name, least) for name, least in limits.items() if least is not None and numbers[name] < least)
        return next((f"{name} {numbers[name]:.2f} < {least:g}" for name, least in low), None)

    return Filter(measure, decide)
