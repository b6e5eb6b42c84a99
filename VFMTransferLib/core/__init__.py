"""Values that every other room shares: volumes and their geometry, cases, results, terms, errors, strict decoding of
configuration files, whole-or-nothing files, and facts about the machine.

Imports nothing of this library.
"""

__version__ = "0.1.0"
