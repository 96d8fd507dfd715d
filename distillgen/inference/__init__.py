"""The contract of teachers: requests, answers, limits, and the ledger that keeps what was paid for."""
