"""Indexers give every user or item a short tuple of discrete codes.

contract.py      IndexTable (all indices at one moment) and what an Indexer promises
collisions.py    entities with the same codes: move them apart, then suffixes
vmf.py           the von Mises-Fisher distribution as pure functions
codebook.py      one variational quantiser Q_m with its codebook C_m (Eq. 3-4)
variational.py   HVQAE, the paper's indexer: auto-encoder + M cascaded quantisers (Eq. 3-5, App. G)
fitting.py       warm-up of the HVQAE alone (App. G)
refresh.py       the first table, and later tables with controlled churn
lsh.py           random hyperplanes (Eq. 17-18, App. I), the indexer to compare with
"""
