"""Small models that run in this process: embedders, entailment, critics, passage search."""
