"""One file a command: `add_parser` says what it takes, `run` does it. They import what they need when they run."""

from . import compare, demo, doctor, finetune, models, phantom, predict, pretrain

COMMANDS = (demo, predict, compare, models, finetune, pretrain, phantom, doctor)
