"""Sources in, one dataset out.

source                                  what every reader hands over: log, catalogue, users, and texts read late
amazon recbole lcrec table movielens    one file per source
jsonlines                               JSON lines, plain or gzip, in pieces, with line numbers for what is wrong
fetch download archives                 public data, verified and never half written
filters                                 repeated items, k-core, late positions
texts                                   cleaning; one text per item; one per user that cannot see the future
folders                                 a folder that is written whole or not at all
dataset                                 Dataset and Histories; Parquet folders
splits                                  leave-one-out
prepare                                 source → filters → texts → dataset folder
"""
