"""One file a command: `add_parser` says what it takes, `run` does it. They import what they need when they run."""

from __future__ import annotations

from . import (
    advise,
    compare,
    data,
    demo,
    doctor,
    finetune,
    forecast,
    models,
    phantom,
    predict,
    pretrain,
    savings,
    study,
)

COMMANDS = (demo, predict, compare, models, data, finetune, pretrain, advise, study, forecast, savings, phantom, doctor)
