"""What a run keeps on disk: stored responses (HDF5), resumable work units, and small files written whole or not at all.

The modules are imported one by one (``auditor.store.files`` does not load h5py).
"""

COMPRESSIONS = ("lz4",)
