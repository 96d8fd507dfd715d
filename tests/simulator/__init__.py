"""A seeded simulator: runs of the real product on virtual time, and all that can go wrong with them.

The processes of a history share one virtual clock. A seed decides their order, latencies, faults, kills,
clock jumps and stops; the same seed gives the same history. The product runs unchanged, but for what it asks
of the machine: the event loop, the ledger's thread, clocks, process numbers, SQLite's connections and HTTP.
"""
