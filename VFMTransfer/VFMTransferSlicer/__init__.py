"""The Slicer half of VFM Transfer. All but `widget` and `parameters` runs without the application too."""

import sys
from pathlib import Path

# Installed, the library lies beside this package. In a clone it lies one folder further up.
_CLONE = Path(__file__).resolve().parents[2]
if (_CLONE / "VFMTransferLib" / "__init__.py").is_file() and str(_CLONE) not in sys.path:
    sys.path.append(str(_CLONE))
