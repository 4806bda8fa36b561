"""Hostile inputs, made by the thousand: whatever is named, listed, packed, served or broken, ingest makes rows of it.

An input is a *plan*: a short Python literal that tells how to make it. Read in this order: `plans.py` draws plans with
Hypothesis, `scenes.py` lays out the files and the server that a plan describes, `oracle.py` states what must hold,
`worker.py` runs it in a process that can be ended and measures it, `hunt.py` goes through many plans and reduces what
fails, `corpus.py` holds the plans that failed once. `test_fuzz.py` is the part that runs with all tests; `make fuzz`
(`__main__.py`) goes on for as long as it is told.
"""
