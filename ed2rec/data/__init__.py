"""Sources in, one dataset out.

source      what every reader hands over: the log, the catalogue, the users, and texts read late
amazon recbole lcrec table movielens        one file per source
jsonlines   JSON lines, plain or gzip, in chunks, with line numbers for what is wrong
fetch       downloads, verified
filters     repeated items, k-core, late texts
texts       cleaning; one text per item; one text per user that cannot see the future
dataset     Dataset and Histories; Parquet folders
splits      leave-one-out
prepare     source → filters → texts → dataset folder
"""
