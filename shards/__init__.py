"""Video or frames plus class tags in, tar shards with an index and a manifest out: ``python -m shards.build --help``.

A dataset folder holds, for every split, ``<split>-000000.tar`` ... (plain USTAR, readable by webdataset and ``tar``),
``<split>-000000.idx.npz`` (where each frame lies) and, written last, ``<split>.manifest.json``. The ``.done`` files let
an interrupted build go on. Planning is separate from writing: which shot goes into which shard follows from the inputs
alone, so the bytes do not depend on the number of processes or on interruptions.
"""
