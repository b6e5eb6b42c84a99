"""One file a command: `add_parser` says what it takes, `run` does it. They import what they need when they run."""

from . import compare, data, demo, doctor, finetune, models, phantom, predict, pretrain, savings, study

COMMANDS = (demo, predict, compare, models, data, finetune, pretrain, study, savings, phantom, doctor)
