"""The checks behind the notebooks' exercises, one file per notebook.

A check prints which mistake an answer makes. An answer that is not written yet is no error, so
that a notebook runs from top to bottom before its reader has answered.
"""
