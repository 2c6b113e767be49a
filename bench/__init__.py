"""What bayplan costs beside what it is measured against, in one run on one machine: ``python -m bench [NAME...]``.

Ratios, not seconds, are what is promised: a bare parse of the same file, the core without the engine, and the peers do the
same work in the same minutes. Rounds of all that is compared are interleaved, so that a machine that is busy for a while is
busy for all of them, and the median of the rounds counts. Nothing is deleted before the end: on some file systems creating
files is twenty times slower for a while after many were deleted, and whoever comes next would pay for it.
"""
