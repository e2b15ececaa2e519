"""Scoring more images than one machine wants to: a Ray cluster, in shards, resumable.

`adcgan.bulk.scoring.score_in_bulk` is the door. A run lists its images once (`listing`), cuts the
list into shards of fixed size, and writes one file for each (`output`); Ray Data hands the shards'
numbers (`dispatch`) to workers on the cluster (`worker`), which fetch images (`reading`), decode
them in a process that a broken one may take down (`decoder`) and score them.

Nothing is imported here, so that the processes that decode start quickly.
"""
