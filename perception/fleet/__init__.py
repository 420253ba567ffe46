"""Many drives as one test: each is replayed by a pure call, in this process, in several or on a cluster, and held
against its reference."""
