"""Runs of earlier versions: a folder for each, with its project, its run and its ledger."""
