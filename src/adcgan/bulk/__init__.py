"""Scoring more images than one machine can score in time: on a Ray cluster, in shards, resumable.

`adcgan.bulk.scoring.score_in_bulk` is the entry point. A run lists its images once (`listing`),
cuts the list into shards of fixed size, and writes one file for each (`output`). Ray Data sends the
shards' numbers (`dispatch`) to workers on the cluster (`worker`), which fetch images (`reading`),
decode them in a process that a broken image may crash (`decoder`) and score them.

Nothing is imported here, so that decoders start quickly.
"""
