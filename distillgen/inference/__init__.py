"""The contract of providers, and the teacher that asks them: requests, limits, costs and the ledger."""
